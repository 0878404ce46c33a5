"""fp32: the reference. A torch module becomes an ONNX file with dynamic axes; an ONNX file is checked and copied; a LiteRT
file or a TensorRT plan is served as it is."""

from __future__ import annotations

import inspect
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from variants.build.context import Context, Draft, silent
from variants.build.fixed import as_it_is
from variants.build.source import source_module
from variants.catalog import Model, Variant
from variants.data import batches, inside
from variants.datatypes import NUMPY
from variants.engines.base import Array
from variants.errors import BuildError
from variants.quality import distance

ARTEFACT = "model.onnx"
#: An exported graph must agree with its module to this distance.
AGREEMENT = 1e-3
#: What a reference was traced with and compared on: nothing of the user's, or the calibration data.
ZEROS, SAMPLES = "zeros", "data.calibration"


def fp32(context: Context, parent: Variant | None) -> Draft:
    """Build the reference from `model.yaml: source`. Raises BuildError naming the op or file that stands in the way."""
    model, source = context.model, context.model.source
    if source.fixed:
        return as_it_is(context)
    packages = ("onnx",) if source.onnx else ("torch", "onnxscript")
    lineage = context.lineage(None, "fp32", 0, packages, tried_on=ZEROS if context.usable is None else SAMPLES)
    record = Variant(
        name=context.name, engine="openvino", precision="fp32", artefact=ARTEFACT, lineage=lineage, tolerance=0.01
    )

    def fill(folder: Path) -> None:
        if source.onnx is not None:
            copy_onnx(model, inside(context.folder, source.onnx), folder / ARTEFACT)
        else:
            module = source_module(context.folder, model, context.name)
            export_module(model, module, example(context), folder / ARTEFACT)

    return Draft(record, fill)


def copy_onnx(model: Model, source: Path, target: Path) -> None:
    """Check an ONNX file against the standard and against `model.yaml`, and copy it. Raises BuildError."""
    import onnx

    if not source.is_file():
        raise BuildError(f"{model.name}: {source}: no such file, which source.onnx in model.yaml names")
    try:
        graph = onnx.load(source)
        onnx.checker.check_model(graph)
    except Exception as error:
        raise BuildError(f"{model.name}: {source}: not a valid ONNX file: {error}") from error
    for kind, specs, there in (
        ("input", model.inputs, {v.name for v in graph.graph.input}),
        ("output", model.outputs, {v.name for v in graph.graph.output}),
    ):
        absent = [s.name for s in specs if s.name not in there]
        if absent:
            raise BuildError(
                f"{model.name}: {source}: no {kind} {', '.join(absent)}; it has {', '.join(sorted(there))}"
            )
    shutil.copyfile(source, target)


def example(context: Context) -> dict[str, Array]:
    """Two samples to trace a module with: of the calibration data where it will do, else zeros (4 for other dynamic axes)."""
    model = context.model
    if context.usable is not None:
        return batches(model, context.usable, 2)[0]
    first = 2 if model.batchable else 1
    return {
        s.name: np.zeros(
            [first if i == 0 and d == -1 else 4 if d == -1 else d for i, d in enumerate(s.shape)], NUMPY[s.datatype]
        )
        for s in model.inputs
    }


def export_module(model: Model, module: Any, samples: dict[str, Array], target: Path) -> None:
    """Write a module as ONNX, every axis of -1 dynamic, and compare it with the module on the samples.

    Raises BuildError when an op cannot be exported or the file does not agree with the module.
    """
    import torch

    if not isinstance(module, torch.fx.GraphModule):  # a loaded program has no modes
        module = module.eval()
    arguments = tuple(torch.from_numpy(np.ascontiguousarray(samples[s.name])) for s in model.inputs)
    # Axes of one name are one dimension: the batch is shared by all inputs, and so is an axis that every input has.
    shapes: tuple[Any, ...] = tuple(
        {i: _dimension(torch, i) for i, d in enumerate(s.shape) if d == -1} for s in model.inputs
    )
    if any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(module.forward).parameters.values()):
        shapes = (shapes,)
    with silent():
        try:
            with torch.inference_mode():
                expected = module(*arguments)
            torch.onnx.export(
                module,
                arguments,
                str(target),
                input_names=[s.name for s in model.inputs],
                dynamic_shapes=shapes,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except Exception as error:
            why = first_cause(error)
            hint = "; torch.export took that size as fixed: give it dynamic_shapes" if "Guard failed" in why else ""
            raise BuildError(f"{model.name}: the module cannot be exported to ONNX: {why}{hint}") from error
    name_outputs(target, [s.name for s in model.outputs])
    values = expected if isinstance(expected, (tuple, list)) else (expected,)
    if len(values) != len(model.outputs):
        raise BuildError(f"{model.name}: the module returns {len(values)} outputs, model.yaml has {len(model.outputs)}")
    reference = {s.name: v.numpy() for s, v in zip(model.outputs, values, strict=True)}
    check_outputs(model, reference, "the module")
    apart = distance(model.metric, _run_onnx(target, samples), reference)
    if apart > AGREEMENT:
        raise BuildError(f"{model.name}: the exported graph is {apart:.4f} away from the module (at most {AGREEMENT})")


def check_outputs(model: Model, outputs: Mapping[str, Array], what: str) -> None:
    """Compare a reference's outputs with `model.yaml`. Raises BuildError for one of another shape, or with NaN or infinity."""
    for spec in model.outputs:
        shape = outputs[spec.name].shape
        if len(shape) != len(spec.shape) or any(
            w not in (-1, g) for w, g in zip(spec.shape[1:], shape[1:], strict=True)
        ):
            raise BuildError(
                f"{model.name}: {what} gives output {spec.name!r} as {list(shape)}, model.yaml says {list(spec.shape)}"
            )
        if outputs[spec.name].dtype.kind == "f" and not np.isfinite(outputs[spec.name]).all():
            raise BuildError(f"{model.name}: {what} gives NaN or infinite values in output {spec.name!r}")


def first_cause(error: BaseException) -> str:
    """The first line of what started an error, and the line of code that it names: exporters wrap the one that names the
    op in others that do not."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    code = re.search(r'File "([^"]+)", line (\d+), in \w+\n\s*(.+)', text)
    where = f" ({Path(code[1]).name}, line {code[2]}: {code[3].strip()})" if code else ""
    return f"{type(error).__name__}: {line}{where}" if line else type(error).__name__


def name_outputs(path: Path, names: list[str]) -> None:
    """Give an ONNX file's outputs these names; an inner tensor that has one of them already is renamed (the exporter
    names tensors after the ops they come from, and does not look whether an output is called the same)."""
    import onnx

    model = onnx.load(path)
    graph = model.graph
    renamed = {name: f"{name}__inner" for name in names}
    renamed |= {old.name: new for old, new in zip(graph.output, names, strict=False)}
    for node in graph.node:
        node.input[:] = [renamed.get(n, n) for n in node.input]
        node.output[:] = [renamed.get(n, n) for n in node.output]
    for value in (*graph.output, *graph.value_info, *graph.initializer):
        value.name = renamed.get(value.name, value.name)
    onnx.save(model, path)


def _dimension(torch: Any, axis: int) -> Any:
    return torch.export.Dim("batch", min=1) if axis == 0 else torch.export.Dim(f"axis{axis}", min=2, max=4096)


def _run_onnx(path: Path, samples: dict[str, Array]) -> dict[str, Array]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, samples), strict=True))
