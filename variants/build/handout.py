"""`trimtab export`: a variant as a file for another runtime, compared with the variant before it is handed out.

onnx and openvino take the variant's graph. litert (`.tflite`) and executorch (`.pte`) start from its torch module, at a
fixed batch; their converters may need a Python environment of their own (`python`), because litert-torch 0.10 pins
typing-extensions below what this project uses.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from variants import engines
from variants.build.context import Context, run
from variants.build.export import first_cause
from variants.build.modules import load_module
from variants.build.source import source_module
from variants.catalog import Entry, Variant
from variants.engines.base import Array, LoadRequest
from variants.errors import BuildError
from variants.quality import distance
from variants.repository import read_canary, variant_folder

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "litert": ".tflite", "executorch": ".pte"}
#: How far another runtime's answers may be from the variant's own.
AGREEMENT = 0.01
TIMEOUT_SECONDS = 900.0
INSTALL = {
    "litert": "python3.11 -m venv edge && edge/bin/pip install torch==2.13.0 litert-torch==0.10.0",
    "executorch": "python3.11 -m venv edge && edge/bin/pip install torch==2.13.0 executorch==1.5.1",
}


def hand_out(
    folder: Path, entry: Entry, name: str, to: str, target: Path, *, python: str = sys.executable, batch: int = 1
) -> float:
    """Write a variant for another runtime to `target`, run it there on the canary inputs, and return how far its answers
    are from the variant's own (as the model's metric says). Nothing is left at `target` when they are too far.

    `python` is the interpreter that has the converter; `batch` is the fixed batch of a `.tflite` or `.pte` file. Raises
    BuildError.
    """
    where = f"{entry.model.name}/{name}"
    if to not in SUFFIXES:
        raise BuildError(f"{where}: cannot export to {to!r}; accepted: {', '.join(SUFFIXES)}")
    source = entry.model.source
    if source.fixed:
        kind = source.given[0]
        raise BuildError(
            f"{where}: source.{kind} ({getattr(source, kind)}) is a file for its own runtime already, which cannot be turned into "
            f"one for {to}"
        )
    if name not in entry.variants:
        raise BuildError(f"{entry.model.name} has no variant {name!r}; it has {', '.join(entry.variants)}")
    if target.suffix != SUFFIXES[to]:
        raise BuildError(f"{where}: {target.name}: a file for {to} ends in {SUFFIXES[to]}")
    variant = entry.variants[name]
    canary = read_canary(folder)
    if canary is None:
        raise BuildError(f"{where}: no canary to compare with; build the model again")
    inputs = {n: a[:batch] for n, a in canary[0].items()} if to in INSTALL else canary[0]
    if to in INSTALL and len(next(iter(inputs.values()))) < batch:
        raise BuildError(
            f"{where}: --batch {batch}: at most {len(next(iter(canary[0].values())))} (the canary's samples)"
        )
    expected = _own(entry, variant, folder, inputs)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".trimtab-", dir=target.parent) as scratch:
        made = Path(scratch) / target.name
        if to in INSTALL:
            outputs = _converted(folder, entry, variant, to, made, inputs, python)
        else:
            outputs = _graph(folder, entry, variant, to, made, inputs)
        apart = distance(entry.model.metric, outputs, expected)
        if apart > AGREEMENT:
            raise BuildError(f"{where}: {to} answers {apart:.4f} away from the variant (at most {AGREEMENT}); not kept")
        for path in Path(scratch).iterdir():
            if path.stem == target.stem:
                shutil.move(path, target.parent / path.name)
    return apart


def _own(entry: Entry, variant: Variant, folder: Path, inputs: Mapping[str, Array]) -> dict[str, Array]:
    engine = engines.load(LoadRequest(entry.model, variant, variant_folder(folder, variant.name), threads=1))
    try:
        return engine.infer(inputs)
    finally:
        engine.close()


def _graph(
    folder: Path, entry: Entry, variant: Variant, to: str, made: Path, inputs: Mapping[str, Array]
) -> dict[str, Array]:
    """The variant's graph as ONNX (a copy) or as OpenVINO IR, run by that runtime."""
    source = variant_folder(folder, variant.name) / variant.artefact
    where = f"{entry.model.name}/{variant.name}"
    if to == "onnx":
        if source.suffix != ".onnx":
            raise BuildError(f"{where}: its artefact is {source.name}, which has no ONNX form; export it to openvino")
        shutil.copyfile(source, made)
    else:
        if source.suffix not in (".onnx", ".xml"):
            raise BuildError(f"{where}: OpenVINO cannot read {source.name}; it reads ONNX and its own IR")
        import openvino

        openvino.save_model(openvino.Core().read_model(str(source)), str(made), compress_to_fp16=False)
    files = {p.name: "" for p in made.parent.iterdir()}
    record = variant.model_copy(
        update={"engine": "onnx" if to == "onnx" else "openvino", "artefact": made.name, "files": files}
    )
    return run(entry.model, record, made.parent, inputs)


def _converted(
    folder: Path, entry: Entry, variant: Variant, to: str, made: Path, inputs: Mapping[str, Array], python: str
) -> dict[str, Array]:
    """The variant's module through another library's converter, run by that library's runtime."""
    import torch

    where = f"{entry.model.name}/{variant.name}"
    module = _module(folder, entry, variant, to)
    names = [s.name for s in entry.model.inputs]
    arguments = tuple(torch.from_numpy(np.ascontiguousarray(inputs[n])) for n in names)
    scratch = made.parent.resolve()  # the converter runs there
    made = scratch / made.name
    try:
        with torch.no_grad():
            program = torch.export.export(module, arguments, strict=False)
        torch.export.save(program, scratch / "program.pt2")
    except Exception as error:
        raise BuildError(f"{where}: torch.export cannot trace the module: {first_cause(error)}") from error
    np.savez(scratch / "inputs.npz", **{n: inputs[n] for n in names})  # type: ignore[arg-type]
    script = Path(__file__).with_name(f"edge_{to}.py")
    files = ["program.pt2", made.name, "inputs.npz", *(["outputs.npz"] if to == "executorch" else [])]
    # Not resolved: a virtual environment is known by the path of its interpreter.
    interpreter = str(Path(python).absolute()) if os.sep in python else python
    command = [interpreter, str(script), *(str(scratch / f) for f in files)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
            cwd=scratch,
            env=_environment(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{where}: {python}: {error}") from error
    if done.returncode != 0 or not made.is_file():
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        absent = "ModuleNotFoundError" in last
        raise BuildError(
            f"{where}: {python} has no converter for {to} ({last}); make an environment that has one: {INSTALL[to]}; then "
            "--python edge/bin/python"
            if absent
            else f"{where}: the {to} converter failed: {last}"
        )
    outputs = [s.name for s in entry.model.outputs]
    if to == "executorch":
        with np.load(scratch / "outputs.npz") as arrays:
            return dict(zip(outputs, (arrays[n] for n in arrays.files), strict=True))
    record = variant.model_copy(update={"engine": "litert", "artefact": made.name, "files": {made.name: ""}})
    engine = engines.load(LoadRequest(entry.model, record, scratch, threads=1))
    try:
        return engine.infer(inputs)
    finally:
        engine.close()


def _module(folder: Path, entry: Entry, variant: Variant, to: str) -> Any:
    """What a converter starts from. Unlike what is changed or trained, a traced program will do. Raises BuildError for a
    variant that is a graph only."""
    context = Context(folder, entry.model, f"export of {variant.name}")
    modules = [
        v.name
        for v in entry.variants.values()
        if "module_sha256" in v.lineage.parameters or (v.lineage.parent is None and entry.model.source.onnx is None)
    ]
    if variant.name not in modules:
        others = f"or one of {', '.join(modules)} to {to}" if modules else "and nothing of this model to it"
        raise BuildError(
            f"{entry.model.name}/{variant.name}: {to} starts from a torch module, and this variant ({variant.lineage.technique}) "
            f"is a graph: export it to onnx or openvino, {others}"
        )
    if variant.lineage.parent is None:
        return source_module(folder, entry.model, context.name)
    return load_module(context, variant)[0]


def _environment() -> dict[str, str]:
    """This process's environment without what would put its own packages before the other interpreter's."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
