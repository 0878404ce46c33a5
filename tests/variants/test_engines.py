from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from variants import engines
from variants.catalog import EngineName, Lineage, Model, Source, TensorSpec, Variant
from variants.engines.base import CompilingEngine, LoadRequest
from variants.errors import EngineFailed, EngineUnavailable

TYPES = {"FP32": TensorProto.FLOAT, "FP16": TensorProto.FLOAT16, "INT64": TensorProto.INT64, "INT32": TensorProto.INT32}


def request(
    folder: Path,
    engine: EngineName,
    *,
    declared: str = "FP32",
    artefact: str = "m.onnx",
    options: dict[str, str] | None = None,
    device: str = "cpu",
) -> LoadRequest:
    spec = {"datatype": declared, "shape": (-1, 3)}
    model = Model(
        name="m",
        task="t",
        inputs=(TensorSpec(name="x", **spec),),
        outputs=(TensorSpec(name="y", **spec),),
        source=Source(onnx="m.onnx"),
    )
    variant = Variant(
        name="v",
        engine=engine,
        precision="fp32",
        artefact=artefact,
        files={artefact: ""},
        lineage=Lineage(technique="test"),
        options=options or {},
    )
    return LoadRequest(model, variant, folder, threads=1, device=device)


def doubling(path: Path, datatype: str = "FP32", name: str = "x") -> None:
    kind = TYPES[datatype]
    graph = helper.make_graph(
        [helper.make_node("Add", [name, name], ["y"])],
        "double",
        [helper.make_tensor_value_info(name, kind, ["batch", 3])],
        [helper.make_tensor_value_info("y", kind, ["batch", 3])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
@pytest.mark.parametrize("datatype", ["FP32", "INT64", "INT32"])
def test_onnx_engines_compute_in_the_declared_datatype(tmp_path: Path, engine: Any, datatype: str) -> None:
    doubling(tmp_path / "m.onnx", datatype)
    loaded = engines.load(request(tmp_path, engine, declared=datatype))
    x = np.arange(6).reshape(2, 3).astype({"FP32": np.float32, "INT64": np.int64, "INT32": np.int32}[datatype])
    y = loaded.infer({"x": x})["y"]
    assert y.dtype == x.dtype
    assert np.array_equal(y, 2 * x)
    assert loaded.resident().host_bytes > 0
    loaded.close()


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_a_half_precision_artefact_behind_declared_fp32(tmp_path: Path, engine: Any) -> None:
    doubling(tmp_path / "m.onnx", "FP16")
    loaded = engines.load(request(tmp_path, engine, declared="FP32"))
    y = loaded.infer({"x": np.full((1, 3), 1.5, np.float32)})["y"]
    assert y.dtype == np.float32
    assert y.tolist() == [[3.0, 3.0, 3.0]]
    loaded.close()


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_many_threads_and_outputs_that_stay(tmp_path: Path, engine: Any) -> None:
    doubling(tmp_path / "m.onnx")
    loaded = engines.load(request(tmp_path, engine))

    def one(i: int) -> np.ndarray:
        return loaded.infer({"x": np.full((1, 3), i, np.float32)})["y"]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(one, range(200)))
    assert all((result == 2 * i).all() for i, result in enumerate(results))
    loaded.close()


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_after_close(tmp_path: Path, engine: Any) -> None:
    doubling(tmp_path / "m.onnx")
    loaded = engines.load(request(tmp_path, engine))
    loaded.close()
    loaded.close()
    assert loaded.resident().host_bytes == 0
    with pytest.raises(EngineFailed, match="m/v: the engine is closed"):
        loaded.infer({"x": np.zeros((1, 3), np.float32)})


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_artefacts_that_do_not_fit(tmp_path: Path, engine: Any) -> None:
    (tmp_path / "m.onnx").write_bytes(b"not a graph")
    with pytest.raises(EngineFailed, match=r"m/v: .*m\.onnx"):
        engines.load(request(tmp_path, engine))
    doubling(tmp_path / "m.onnx", name="other")
    with pytest.raises(EngineFailed, match="other"):
        engines.load(request(tmp_path, engine))


def test_torch_programs_and_factories(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    model_folder = tmp_path / "model"
    folder = model_folder / "variants" / "v"
    folder.mkdir(parents=True)
    linear = torch.nn.Linear(3, 3).eval()
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    expected = linear(torch.from_numpy(x)).detach().numpy()
    batch = torch.export.Dim("batch")
    program = torch.export.export(linear, (torch.zeros(2, 3),), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "m.pt2")
    (model_folder / "code.py").write_text("import torch\ndef make():\n    return torch.nn.Linear(3, 3)\n")
    save_file(linear.state_dict(), folder / "w.safetensors")
    for artefact, options in (("m.pt2", {}), ("w.safetensors", {"factory": "code.py:make"})):
        loaded = engines.load(request(folder, "torch", artefact=artefact, options=options))
        assert np.allclose(loaded.infer({"x": x})["y"], expected, atol=1e-6)
        assert loaded.resident().host_bytes >= 48
        loaded.close()
        with pytest.raises(EngineFailed, match="closed"):
            loaded.infer({"x": x})
    with pytest.raises(EngineFailed, match="factory"):
        engines.load(request(folder, "torch", artefact="w.safetensors"))


def test_no_cuda_device_here(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    (tmp_path / "m.plan").write_bytes(b"")
    for engine in ("tensorrt", "tensorrt_rtx"):
        with pytest.raises(EngineUnavailable, match="needs a CUDA device; this machine has none"):
            engines.load(request(tmp_path, engine, artefact="m.plan"))  # type: ignore[arg-type]
    with pytest.raises(EngineUnavailable, match="no CUDA device"):
        engines.load(request(tmp_path, "torch", artefact="m.pt2", device="cuda:0"))


def test_two_threads_may_open_openvino_at_once_and_nobody_calls_home() -> None:
    """Unguarded, one process in three hangs here for ever."""
    script = (
        "import sys, threading; sys.setswitchinterval(1e-6)\n"
        "from variants.engines.openvino_ import _core\n"
        "def use():\n"
        "    _core()\n"
        "    import openvino; openvino.Type.f32.to_dtype()\n"
        "threads = [threading.Thread(target=use) for _ in range(2)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "sys.exit(any(m.startswith('openvino_telemetry.') for m in sys.modules))"
    )
    for _ in range(3):
        assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0


def test_an_int8_table_is_looked_up_before_it_is_scaled(tmp_path: Path) -> None:
    """The constant that openvino compiles stays int8, and the answers are those of onnxruntime."""
    import openvino

    from variants.engines.openvino_graph import look_up_first

    rng = np.random.default_rng(0)
    table = rng.integers(-127, 128, size=(1500, 64)).astype(np.int8)
    scales = rng.uniform(0.001, 0.1, size=1500).astype(np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["table", "scales", "zero"], ["rows"], axis=0),
        helper.make_node("Gather", ["rows", "x"], ["y"], axis=0),
    ]
    tensors = [
        onnx.numpy_helper.from_array(table, "table"),
        onnx.numpy_helper.from_array(scales, "scales"),
        onnx.numpy_helper.from_array(np.zeros(1500, np.int8), "zero"),
    ]
    values = [
        helper.make_tensor_value_info("x", TensorProto.INT64, ["n", 3]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 64]),
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx")
    read = openvino.Core().read_model(str(tmp_path / "m.onnx"))
    assert look_up_first(read) == 1
    gathers = [n for n in read.get_ordered_ops() if n.get_type_name() == "Gather"]
    assert gathers[0].input_value(0).get_element_type().get_type_name() == "i8"
    compiled = openvino.Core().compile_model(read, "CPU")
    ids = rng.integers(0, 1500, size=(2, 3))
    got = compiled({"x": ids})[0]
    assert np.array_equal(got, table[ids].astype(np.float32) * scales[ids][..., None])
    assert look_up_first(read) == 0


def test_what_openvino_compiled_is_loaded_again(tmp_path: Path) -> None:
    doubling(tmp_path / "m.onnx")
    engine = engines.load(request(tmp_path, "openvino"))
    assert isinstance(engine, CompilingEngine)
    compiled = tmp_path / "m.compiled"
    compiled.write_bytes(engine.compiled())
    engine.close()
    (tmp_path / "m.onnx").write_bytes(b"not read any more")
    again = engines.load(replace(request(tmp_path, "openvino"), compiled=compiled))
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(again.infer({"x": x})["y"], 2 * x)
    again.close()
    compiled.write_bytes(b"something else")
    with pytest.raises(EngineFailed, match=r"m/v: openvino cannot load m\.compiled"):
        engines.load(replace(request(tmp_path, "openvino"), compiled=compiled))


@pytest.mark.parametrize("small", [False, True])
def test_openvino_makes_as_many_calls_at_once_as_it_is_asked_to_unless_they_are_tiny(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: bool
) -> None:
    doubling(tmp_path / "m.onnx")
    if not small:
        monkeypatch.setattr("variants.engines.openvino_.SMALL_BYTES", 1)
    for calls, threads in ((1, 2), (min(2, os.cpu_count() or 1), 1)):  # more than there are cores it would not make
        engine = engines.load(replace(request(tmp_path, "openvino"), threads=threads, calls=calls))
        told = engine._compiled  # type: ignore[attr-defined]
        streams = 1 if small else calls
        assert (told.get_property("NUM_STREAMS"), told.get_property("INFERENCE_NUM_THREADS")) == (
            streams,
            streams * threads,
        )
        engine.close()
