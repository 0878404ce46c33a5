"""What OpenVINO's engine keeps, and lets go of. What oneDNN does itself it tells of in its own log, read in processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.variants.test_engines import doubling, request
from variants.engines import openvino_
from variants.engines.mapped import MappedFile

PRIMITIVES = """
import os
os.environ["ONEDNN_VERBOSE"] = "profile_create"
import numpy as np
import openvino
from openvino import opset13 as op
from variants.engines import openvino_

def compile():
    x = op.parameter([-1, 16, 6, 6], np.float32)  # products of matrices are not oneDNN's on every CPU
    kernel = op.constant(np.ones((16, 16, 3, 3), np.float32))
    graph = openvino.Model([op.convolution(x, kernel, [1, 1], [0, 0], [0, 0], [1, 1])], [x])
    return openvino_._core().compile_model(graph, "CPU", {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1})

for step in ("first", "second", "third"):
    print("step:", step, flush=True)
    compile().create_infer_request().infer({0: np.ones((7, 16, 6, 6), np.float32)})
    if step == "second":
        openvino_._primitives().empty()
"""


def test_what_one_model_has_compiled_others_take_until_the_cache_is_emptied() -> None:
    done = subprocess.run([sys.executable, "-c", PRIMITIVES], capture_output=True, text=True, timeout=120, check=True)
    steps = [step.splitlines() for step in done.stdout.split("step:")[1:]]
    found = [
        {line.split(",create:")[1].split(",")[0] for line in step if ",create:" in line and ",convolution," in line}
        for step in steps
    ]
    assert all(found)
    assert ["cache_miss" in made for made in found] == [True, False, True]
    emptied_with = {line.split(",lrn,")[1].split(",")[0] for line in steps[1] if ",lrn," in line}
    assert emptied_with == {"ref:any"}  # no generated code


def test_an_engine_empties_the_cache_when_it_is_closed_unless_it_is_tiny(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emptied: list[bool] = []
    monkeypatch.setattr(openvino_._primitives(), "empty", lambda: emptied.append(True))
    doubling(tmp_path / "m.onnx")
    openvino_.load(request(tmp_path, "openvino")).close()
    assert not emptied
    monkeypatch.setattr(openvino_, "SMALL_BYTES", 1)
    engine = openvino_.load(request(tmp_path, "openvino"))
    engine.close()
    engine.close()
    assert emptied == [True]


def test_what_is_forgotten_of_a_mapped_file_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    content = np.random.default_rng(0).integers(0, 256, 3 * 4096 + 5).astype(np.uint8)
    path.write_bytes(content.tobytes())
    file = MappedFile(path)
    file.protect()
    for _ in range(2):
        assert np.array_equal(file.array, content)
        file.forget()
    path.with_suffix(".new").write_bytes(b"another")
    path.with_suffix(".new").replace(path)  # as repositories replace files
    assert np.array_equal(file.array, content)
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="empty"):
        MappedFile(tmp_path / "empty")


def test_a_protected_file_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"abc")
    program = f"""
from pathlib import Path
from variants.engines.mapped import MappedFile
file = MappedFile(Path({str(tmp_path / "weights")!r}))
file.array[0] = 1
file.protect()
print("protected", flush=True)
file.array[0] = 2
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "protected\n"
    assert done.returncode == -signal.SIGSEGV
    assert (tmp_path / "weights").read_bytes() == b"abc"


def test_an_engine_forgets_what_its_first_calls_read_and_answers_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubling(tmp_path / "m.onnx")
    engine = openvino_.load(request(tmp_path, "openvino"))
    (tmp_path / "m.compiled").write_bytes(engine.compiled())
    engine.close()
    calls: list[int] = []
    monkeypatch.setattr(openvino_, "FORGETTING_CALLS", 6)
    again = openvino_.load(replace(request(tmp_path, "openvino"), compiled=tmp_path / "m.compiled"))
    forget = MappedFile.forget
    monkeypatch.setattr(MappedFile, "forget", lambda file: (calls.append(again._calls), forget(file)))
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    for _ in range(19):
        assert np.array_equal(again.infer({"x": x})["y"], 2 * x)
    again.close()
    assert calls == [1, 2, 4, 6, 8, 12, 16, 18]


@pytest.mark.parametrize(("options", "streams"), [({}, 2), ({"streams": "1"}, 1)])
def test_one_stream_has_the_threads_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str], streams: int
) -> None:
    monkeypatch.setattr(openvino_, "SMALL_BYTES", 1)
    doubling(tmp_path / "m.onnx")
    engine = openvino_.load(replace(request(tmp_path, "openvino", options=options), threads=1, calls=2))
    told = [engine._compiled.get_property(name) for name in ("NUM_STREAMS", "INFERENCE_NUM_THREADS")]
    engine.close()
    assert told == [streams, 2]
