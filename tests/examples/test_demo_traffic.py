"""The traffic process against the server's real front ends over a host that answers as it is told to."""

from __future__ import annotations

import asyncio
import collections
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from deployments.api import Answer, Deliver, ModelStatus, Statistics
from examples.demo.payloads import problem, samples
from server.bare import serve_bare
from variants.catalog import Catalog, Data, Entry, Ladder, Lineage, Model, Variant
from variants.engines.base import Tensors
from variants.errors import ConfigError, EngineFailed
from variants.repository import load_model

WIDTH = 4


def write_model(root: Path, name: str) -> Model:
    folder = root / name
    folder.mkdir(parents=True)
    document = {
        "name": name,
        "task": "test",
        "inputs": [
            {"name": "input_ids", "datatype": "INT64", "shape": [-1, -1]},
            {"name": "attention_mask", "datatype": "INT64", "shape": [-1, -1]},
        ],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, WIDTH]}],
        "source": {"onnx": "model.onnx"},
        "data": {"evaluation": "evaluation.npz"},
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(document))
    ids = np.arange(5 * 64, dtype=np.int64).reshape(5, 64)
    lengths = np.array([3, 16, 17, 40, 64])
    mask = (np.arange(64) < lengths[:, None]).astype(np.int64)
    np.savez(folder / "evaluation.npz", input_ids=ids, attention_mask=mask, label=np.zeros(5))
    return load_model(folder)


class FakeHost:
    """Answers at once. `steady`: well; `faulty`: every third call raises; `broken`: every third answer is NaN."""

    def __init__(self, models: dict[str, Model]) -> None:
        lineage = Lineage(technique="none")
        variant = Variant(name="v1", engine="openvino", precision="fp32", artefact="model.onnx", lineage=lineage)
        self.catalog = Catalog(
            device="here",
            entries={
                name: Entry(
                    model=model, variants={"v1": variant}, ladder=Ladder(model=name, rungs=("v1",)), path="nowhere"
                )
                for name, model in models.items()
            },
        )
        self.calls: collections.Counter[str] = collections.Counter()
        self.protocols: collections.Counter[str] = collections.Counter()
        self.shapes: set[tuple[int, ...]] = set()

    async def infer(
        self,
        model: str,
        inputs: Tensors,
        *,
        timeout_seconds: float | None = None,
        protocol: str = "direct",
        priority: int = 0,
        variants: frozenset[str] | None = None,
    ) -> Answer:
        self.calls[model] += 1
        self.protocols[protocol] += 1
        self.shapes.add(inputs["input_ids"].shape)
        third = self.calls[model] % 3 == 0
        if model == "faulty" and third:
            raise EngineFailed("the engine is out of order")
        y = np.full((1, WIDTH), np.nan if model == "broken" and third else 1.0, np.float32)
        return Answer({"y": y}, "v1", 0.0, 0.0, 1)

    def pressed(self, model: str) -> bool:
        return False

    def submit(self, model: str, inputs: Tensors, deliver: Deliver, **options: Any) -> asyncio.Task[Answer]:
        def done(task: asyncio.Task[Answer]) -> None:
            error = task.exception()
            deliver(None, error) if isinstance(error, Exception) else deliver(task.result(), None)

        task = asyncio.create_task(self.infer(model, inputs, **options))
        task.add_done_callback(done)
        return task

    def status(self, model: str) -> ModelStatus:
        return ModelStatus("READY", "v1")

    def statistics(self, model: str) -> Statistics:
        return Statistics()

    async def load(self, model: str) -> None:
        return

    async def unload(self, model: str) -> None:
        return


@pytest.fixture
async def served(tmp_path: Path, free_port: Callable[[], int]) -> AsyncIterator[tuple[FakeHost, list[str]]]:
    models = {name: write_model(tmp_path / "models", name) for name in ("steady", "faulty", "broken")}
    host: Any = FakeHost(models)
    http, grpc = free_port(), free_port()
    async with serve_bare(host, http_port=http, grpc_port=grpc):
        yield host, ["--http", f"127.0.0.1:{http}", "--grpc", f"127.0.0.1:{grpc}", "--models", str(tmp_path / "models")]


class Talk:
    """The traffic process and what it said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []

    async def tell(self, line: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(line).encode() + b"\n")
        await self.process.stdin.drain()

    async def hear(self, enough: Callable[[], bool]) -> None:
        assert self.process.stdout is not None
        while not enough():
            line = await asyncio.wait_for(self.process.stdout.readline(), 60)
            if not line:
                error = b"" if self.process.stderr is None else await self.process.stderr.read()
                raise AssertionError(error.decode())
            self.lines.append(json.loads(line))

    def said(self, key: str) -> list[Any]:
        return [item for line in self.lines for item in line.get(key, [])]


async def talk(arguments: list[str]) -> Talk:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "examples.demo.traffic",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    made = Talk(process)
    await made.hear(lambda: bool(made.lines))
    return made


async def finish(traffic: Talk) -> None:
    assert traffic.process.stdin is not None
    traffic.process.stdin.close()
    await asyncio.wait_for(traffic.process.wait(), 60)
    # Otherwise its pipes are closed by the garbage collector after the loop has ended.
    traffic.process._transport.close()  # type: ignore[attr-defined]


async def test_every_request_is_sent_counted_and_checked(served: tuple[FakeHost, list[str]]) -> None:
    host, arguments = served
    traffic = await talk(arguments)
    assert traffic.lines == [{"ready": ["broken", "faulty", "steady"]}]
    await traffic.tell({"rates": {"steady": 60, "faulty": 30, "broken": 30}})
    await traffic.hear(lambda: len(traffic.said("answers")) >= 150 and len(traffic.said("failures")) >= 20)
    await traffic.tell({"stop": True})
    await traffic.hear(lambda: traffic.lines[-1].get("done", False))
    await finish(traffic)

    answers, failures = traffic.said("answers"), traffic.said("failures")
    assert traffic.lines[-1]["sent"] == len(answers) + len(failures) == sum(host.calls.values())
    assert collections.Counter(f[1] for f in failures) == {
        "faulty": host.calls["faulty"] // 3,
        "broken": host.calls["broken"] // 3,
    }
    assert all("out of order" in f[3] for f in failures if f[1] == "faulty")
    assert all("NaN" in f[3] for f in failures if f[1] == "broken")
    assert {protocol for *_, protocol in answers} == {"http", "grpc"}
    assert {protocol for _, _, protocol, _ in failures} == {"http", "grpc"}
    assert set(host.protocols) == {"http", "grpc"}
    assert {variant for _, _, _, variant, _ in answers} == {"v1"}
    assert all(seconds > 0 for _, _, seconds, _, _ in answers)
    assert {shape[1] for shape in host.shapes} == {16, 32, 48, 64}
    assert traffic.lines[-1]["cpu_seconds"] > 0


async def test_rates_change_while_it_runs_and_only_for_named_models(served: tuple[FakeHost, list[str]]) -> None:
    host, arguments = served
    traffic = await talk(arguments)
    await traffic.tell({"rates": {"steady": 50}})
    await traffic.hear(lambda: len(traffic.said("answers")) >= 20)
    await traffic.tell({"rates": {"steady": 0, "broken": 20}})
    await traffic.hear(lambda: host.calls["broken"] >= 10)
    stopped = host.calls["steady"]
    await traffic.hear(lambda: host.calls["broken"] >= 30)
    assert host.calls["steady"] == stopped
    assert host.calls["faulty"] == 0
    await finish(traffic)


async def test_a_server_that_is_gone_fails_every_request(tmp_path: Path, free_port: Callable[[], int]) -> None:
    write_model(tmp_path / "models", "steady")
    nowhere = [f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"]
    traffic = await talk(["--http", nowhere[0], "--grpc", nowhere[1], "--models", str(tmp_path / "models")])
    await traffic.tell({"rates": {"steady": 30}})
    await traffic.hear(lambda: len(traffic.said("failures")) >= 20)
    await traffic.tell({"stop": True})
    await traffic.hear(lambda: traffic.lines[-1].get("done", False))
    await finish(traffic)
    assert traffic.said("answers") == []
    assert traffic.lines[-1]["sent"] == len(traffic.said("failures"))


async def test_an_unknown_model_is_refused_by_name(served: tuple[FakeHost, list[str]]) -> None:
    traffic = await talk(served[1])
    await traffic.tell({"rates": {"nobody": 5}})
    await asyncio.wait_for(traffic.process.wait(), 60)
    assert traffic.process.returncode != 0
    assert traffic.process.stderr is not None
    assert "no such models: nobody; there are broken, faulty, steady" in (await traffic.process.stderr.read()).decode()
    traffic.process._transport.close()  # type: ignore[attr-defined]


def test_samples_are_padded_to_a_multiple(tmp_path: Path) -> None:
    model = write_model(tmp_path, "steady")
    made = samples(tmp_path / "steady", model, 4)
    assert [s["input_ids"].shape for s in made] == [(1, 16), (1, 16), (1, 32), (1, 48)]
    assert all(set(s) == {"input_ids", "attention_mask"} for s in made)
    assert made[2]["attention_mask"].sum() == 17


def test_a_model_without_data_is_named(tmp_path: Path) -> None:
    model = write_model(tmp_path, "steady").model_copy(update={"data": Data()})
    with pytest.raises(ConfigError, match=r"data\.evaluation"):
        samples(tmp_path / "steady", model, 4)


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ({"y": np.ones((1, WIDTH), np.float32)}, ""),
        ({}, "absent"),
        ({"y": None}, "absent"),
        ({"y": np.ones((1, WIDTH), np.float64)}, "float64"),
        ({"y": np.ones((1, WIDTH + 1), np.float32)}, "shape"),
        ({"y": np.ones((2, WIDTH), np.float32)}, "shape"),
        ({"y": np.ones((WIDTH,), np.float32)}, "shape"),
        ({"y": np.full((1, WIDTH), np.inf, np.float32)}, "infinite"),
    ],
)
def test_wrong_answers_are_seen(tmp_path: Path, outputs: dict[str, Any], expected: str) -> None:
    found = problem(write_model(tmp_path, "steady"), outputs)
    assert expected in found
    assert bool(found) == bool(expected)
