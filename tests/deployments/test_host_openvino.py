"""A host on the real thing: OpenVINO engines, artefacts on disk, this process's memory."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from prometheus_client import CollectorRegistry

from budgets import exposition as names
from deployments.api import Assignment
from deployments.config import HostConfig
from deployments.host import ModelHost
from variants.catalog import Ladder, Lineage, Variant
from variants.repository import load_catalog, write_canary, write_variant

WIDTH = 1024
LAYERS = {"deep": 12, "shallow": 2}  # 48 MiB and 8 MiB of weights


def identity_stack(path, layers, last):
    """y = x (times `last`), through `layers` dense matrices."""
    eye = np.eye(WIDTH, dtype=np.float32)
    tensors = [f"h{i}" for i in range(layers)]
    nodes = [
        helper.make_node("MatMul", [before, f"w{i}"], [after])
        for i, (before, after) in enumerate(zip(["x", *tensors], [*tensors[:-1], "y"], strict=False))
    ]
    weights = [numpy_helper.from_array(eye * (last if i == layers - 1 else 1), f"w{i}") for i in range(layers)]
    graph = helper.make_graph(
        nodes,
        "stack",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", WIDTH])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "stack"
    folder.mkdir()
    tensor = {"datatype": "FP32", "shape": [-1, WIDTH]}
    document = {
        "name": "stack",
        "task": "test",
        "metric": "relative_error",
        "inputs": [{"name": "x", **tensor}],
        "outputs": [{"name": "y", **tensor}],
        "source": {"onnx": "m.onnx"},
        "build": ["deep", "shallow", "wrong"],
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(document))
    for name, layers in {**LAYERS, "wrong": 2}.items():
        lineage = Lineage(technique="test")
        variant = Variant(
            name=name, engine="openvino", precision="fp32", artefact="m.onnx", lineage=lineage, tolerance=0.01
        )
        last = -1.0 if name == "wrong" else 1.0
        write_variant(folder, variant, lambda to, n=layers, last=last: identity_stack(to / "m.onnx", n, last))
    samples = np.random.default_rng(0).normal(size=(3, WIDTH)).astype(np.float32)
    write_canary(folder, {"x": samples}, {"y": samples})
    return tmp_path


@pytest.fixture
async def host(repository):
    catalog = load_catalog(repository)
    assert catalog.refused == ()
    entry = catalog.entries["stack"].model_copy(update={"ladder": Ladder(model="stack", rungs=tuple(LAYERS))})
    catalog = catalog.model_copy(update={"entries": {"stack": entry}})
    registry = CollectorRegistry()
    host = ModelHost(catalog, HostConfig(), registry=registry, host_id="h")
    host.registry = registry
    await host.start()
    yield host
    await host.stop()


async def move(host, settled, generation, variant, mode):
    host.apply(Assignment(generation, {"stack": variant}, {"stack": mode}))
    await settled(host, generation)
    return host.observe().swaps[-1]


async def test_swaps_of_real_engines_under_load_free_and_take_real_memory(host, settled):
    stopped = False
    answers: list[tuple[str, bool]] = []

    async def client(seed):
        x = np.random.default_rng(seed).normal(size=(1, WIDTH)).astype(np.float32)
        while not stopped:
            answer = await host.infer("stack", {"x": x})
            answers.append((answer.variant, bool(np.allclose(answer.outputs["y"], x, rtol=1e-3, atol=1e-3))))
            await asyncio.sleep(0.002)

    clients = [asyncio.create_task(client(seed)) for seed in range(4)]
    weights = (LAYERS["deep"] - LAYERS["shallow"]) * WIDTH * WIDTH * 4
    generation = 0
    for mode in ("make_before_break", "break_before_make"):
        for variant in ("shallow", "deep"):
            generation += 1
            swap = await move(host, settled, generation, variant, mode)
            assert (swap.outcome, swap.mode, swap.reason) == ("done", mode, "")
            assert swap.bytes_measured > 0.5 * weights
    stopped = True
    await asyncio.gather(*clients)  # raises what any request raised
    assert {variant for variant, _ in answers} == {"deep", "shallow"}
    assert all(right for _, right in answers)
    resident = host.registry.get_sample_value(names.RESIDENT, {"model": "stack", "variant": "deep"})
    assert resident > 0.5 * LAYERS["deep"] * WIDTH * WIDTH * 4


@pytest.mark.parametrize("mode", ["make_before_break", "break_before_make"])
async def test_live_requests_catch_what_no_canary_can(host, repository, settled, until, mode):
    """Weights are perturbed and there is no canary: the answers that live requests had got give the variant away before
    it answers one."""
    (repository / "stack" / "canary.npz").unlink()
    answers, stopped = [], False

    async def client(seed):
        x = np.random.default_rng(seed).normal(size=(1, WIDTH)).astype(np.float32)
        while not stopped:
            answer = await host.infer("stack", {"x": x})
            answers.append((answer.variant, bool(np.allclose(answer.outputs["y"], x, rtol=1e-3, atol=1e-3))))
            await asyncio.sleep(0.002)

    clients = [asyncio.create_task(client(seed)) for seed in range(4)]
    await until(lambda: len(answers) > 50)
    swap = await move(host, settled, 1, "wrong", mode)
    at = len(answers)
    await until(lambda: len(answers) > at + 50)
    good = await move(host, settled, 2, "shallow", mode)
    stopped = True
    await asyncio.gather(*clients)  # raises what any request raised
    assert (swap.outcome, swap.refuted, swap.shadow.suspect) == ("rolled_back", True, "wrong")
    assert swap.shadow.distance > swap.shadow.tolerance
    assert "shadow: wrong and deep are" in swap.reason
    assert (good.outcome, good.shadow.suspect) == ("done", "")
    assert good.shadow.distance < 0.001
    assert {variant for variant, _ in answers} <= {"deep", "shallow"}
    assert all(right for _, right in answers)


async def test_a_variant_that_computes_something_else_is_rolled_back(host, settled):
    swap = await move(host, settled, 1, "wrong", "make_before_break")
    assert swap.outcome == "rolled_back"
    assert "canary: relative_error distance" in swap.reason
    assert host.status("stack").variant == "deep"


@pytest.mark.parametrize("mode", ["make_before_break", "break_before_make"])
async def test_a_file_changed_since_the_catalog_was_read_is_refused(host, repository, settled, mode):
    artefact = repository / "stack" / "variants" / "shallow" / "m.onnx"
    data = bytearray(artefact.read_bytes())
    data[-100] ^= 0xFF
    artefact.write_bytes(data)
    swap = await move(host, settled, 1, "shallow", mode)
    assert swap.outcome == "rolled_back"
    assert str(artefact) in host.observe().failed["stack"]
    x = np.ones((1, WIDTH), np.float32)
    answer = await host.infer("stack", {"x": x})
    assert answer.variant == "deep"
    np.testing.assert_allclose(answer.outputs["y"], x, rtol=1e-3)


async def test_stop_ends_the_hosts_threads(host):
    await host.infer("stack", {"x": np.ones((1, WIDTH), np.float32)})
    await host.stop()
    for thread in threading.enumerate():
        if thread.name.startswith(("engine", "swap")):
            thread.join(timeout=5)
            assert not thread.is_alive()
