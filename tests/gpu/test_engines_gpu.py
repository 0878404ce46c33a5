"""Engines on a CUDA device: what they compute, and that the device's memory is really given back."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pydantic")

from variants import engines  # noqa: E402
from variants.catalog import EngineName, Lineage, Model, Precision, Source, TensorSpec, Variant  # noqa: E402
from variants.engines.base import LoadRequest  # noqa: E402
from variants.errors import EngineFailed  # noqa: E402

DEVICE = "cuda"
MIB = 2**20
WIDTH = 2048
LAYERS = 8
#: Eight fp32 matrices of 16 MiB.
WEIGHTS = LAYERS * WIDTH * WIDTH * 4

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]

FACTORY = f"""
import torch

def make():
    layers = []
    for _ in range({LAYERS}):
        layers += [torch.nn.Linear({WIDTH}, {WIDTH}, bias=False), torch.nn.Tanh()]
    return torch.nn.Sequential(*layers)
"""
MODEL = Model(
    name="wide",
    task="regression",
    inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, WIDTH)),),
    outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, WIDTH)),),
    max_batch=8,
    source=Source(factory="factory.py:make"),
)


def request(
    folder: Path, engine: EngineName, precision: Precision, artefact: str, device: str, **options: str
) -> LoadRequest:
    variant = Variant(
        name=precision,
        engine=engine,
        precision=precision,
        artefact=artefact,
        files={artefact: ""},
        lineage=Lineage(technique=precision),
        options=options,
    )
    return LoadRequest(MODEL, variant, folder, threads=2, device=device)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`variants/fp32` of a model folder, with the state dict of a module that keeps its values between -1 and 1."""
    from safetensors.torch import save_file

    root = tmp_path_factory.mktemp("wide")
    (root / "factory.py").write_text(FACTORY)
    artefacts = root / "variants" / "fp32"
    artefacts.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    state = {f"{2 * i}.weight": torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5 for i in range(LAYERS)}
    save_file(state, artefacts / "weights.safetensors")
    return artefacts


@pytest.fixture(scope="module")
def inputs() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).uniform(-1, 1, (4, WIDTH)).astype(np.float32)}


@pytest.fixture(scope="module")
def expected(folder: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """What the module computes on the CPU in fp32."""
    return run(request(folder, "torch", "fp32", "weights.safetensors", "cpu", factory="factory.py:make"), inputs)


def run(what: LoadRequest, inputs: dict[str, np.ndarray]) -> np.ndarray:
    engine = engines.load(what)
    try:
        return engine.infer(inputs)["y"]
    finally:
        engine.close()


def on_device(folder: Path, precision: Precision) -> LoadRequest:
    return request(folder, "torch", precision, "weights.safetensors", DEVICE, factory="factory.py:make")


def used() -> int:
    """Bytes in use on the device, by the driver's account."""
    gc.collect()
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    return int(total - free)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-2), ("fp16", 2e-2), ("bf16", 1e-1)])
def test_precisions_agree_with_the_cpu(
    folder: Path, inputs: dict[str, np.ndarray], expected: np.ndarray, precision: Any, tolerance: float
) -> None:
    y = run(on_device(folder, precision), inputs)
    assert y.dtype == np.float32
    assert np.linalg.norm(y - expected) / np.linalg.norm(expected) < tolerance


def test_closing_gives_the_devices_memory_back(folder: Path, inputs: dict[str, np.ndarray]) -> None:
    run(on_device(folder, "fp32"), inputs)  # what CUDA and its libraries keep for themselves is there now
    before = used()
    engine = engines.load(on_device(folder, "fp32"))
    engine.infer(inputs)
    loaded = used() - before
    assert loaded >= WEIGHTS
    assert engine.resident().device_bytes == WEIGHTS
    engine.close()
    assert used() - before <= 0.05 * WEIGHTS
    with pytest.raises(EngineFailed, match="closed"):
        engine.infer(inputs)


def test_many_models_in_one_context(folder: Path, inputs: dict[str, np.ndarray], expected: np.ndarray) -> None:
    """Ten engines next to each other cost ten times the weights, not ten contexts; half precision half of it."""
    run(on_device(folder, "fp32"), inputs)
    before = used()
    held = [engines.load(on_device(folder, "fp16")) for _ in range(10)]
    for engine in held:
        assert np.linalg.norm(engine.infer(inputs)["y"] - expected) / np.linalg.norm(expected) < 2e-2
    full = used() - before
    assert 10 * WEIGHTS / 2 <= full <= 10 * WEIGHTS / 2 + 200 * MIB
    for engine in held:
        engine.close()
    assert used() - before <= 0.05 * full


def test_nvml_sees_the_same_device(folder: Path, inputs: dict[str, np.ndarray]) -> None:
    pytest.importorskip("pynvml")
    from deployments.gpu import GpuMemory, Gpus

    memory = GpuMemory(Gpus(), DEVICE)
    run(on_device(folder, "fp32"), inputs)
    before, room = memory.used(), memory.headroom()
    engine = engines.load(on_device(folder, "fp32"))
    assert memory.used() - before >= 0.9 * WEIGHTS
    assert room - memory.headroom() >= 0.9 * WEIGHTS
    engine.close()
    assert memory.used() - before <= 0.05 * WEIGHTS


def test_a_swap_on_the_device_gives_back_what_it_planned(folder: Path, inputs: dict[str, np.ndarray]) -> None:
    """fp32 -> fp16 -> fp32, the new engine next to the old one, both answering until the old one is closed."""
    before_all = used()

    async def swap() -> list[int]:
        engine = await asyncio.to_thread(engines.load, on_device(folder, "fp32"))
        seen = []
        for precision in ("fp16", "fp32"):
            before = used()
            replacement = await asyncio.to_thread(engines.load, on_device(folder, precision))  # type: ignore[arg-type]
            answers = [asyncio.to_thread(engine.infer, inputs) for _ in range(4)]
            answers += [asyncio.to_thread(replacement.infer, inputs) for _ in range(4)]
            for answer in await asyncio.gather(*answers):
                assert np.isfinite(answer["y"]).all()
            await asyncio.to_thread(engine.close)
            engine = replacement
            seen.append(before - used())
        engine.close()
        return seen

    given, taken = asyncio.run(swap())
    assert given >= 0.7 * WEIGHTS / 2
    assert -taken >= 0.7 * WEIGHTS / 2
    assert used() - before_all <= 0.5 * WEIGHTS  # CUDA's own libraries, if this test is the first to load them


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt_rtx"])
def test_a_plan_built_here_runs_here(
    folder: Path, inputs: dict[str, np.ndarray], expected: np.ndarray, tmp_path: Path, flavour: Any
) -> None:
    from variants.engines.tensorrt_ import compile_engine, import_flavour
    from variants.errors import EngineUnavailable

    try:
        import_flavour(flavour)
    except EngineUnavailable as error:
        pytest.skip(str(error))
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper
    from safetensors.numpy import load_file

    nodes, weights, value = [], [], "x"
    for index, (name, matrix) in enumerate(sorted(load_file(folder / "weights.safetensors").items())):
        weights.append(numpy_helper.from_array(np.ascontiguousarray(matrix.T), name))
        last = index == LAYERS - 1
        nodes += [
            helper.make_node("MatMul", [value, name], [f"p{index}"]),
            helper.make_node("Tanh", [f"p{index}"], ["y" if last else f"h{index}"]),
        ]
        value = f"h{index}"
    io = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", WIDTH]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "wide", io[:1], io[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx")
    options = compile_engine(tmp_path / "m.onnx", tmp_path / "m.plan", flavour=flavour, model=MODEL)
    before = used()
    engine = engines.load(request(tmp_path, flavour, "fp32", "m.plan", DEVICE, **options))
    y = engine.infer(inputs)["y"]
    assert np.linalg.norm(y - expected) / np.linalg.norm(expected) < 1e-2
    assert used() - before >= 0.9 * WEIGHTS
    engine.close()
    assert used() - before <= 0.2 * WEIGHTS
