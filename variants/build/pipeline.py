"""`trimtab build`: from `model.yaml` to variants on disk. Techniques compose with `+`; the first variant is the reference.

Names: `fp32`, `int8`, `distil`, `distil+int8` (stored as `distil-int8`), … A technique without a parent in its name
starts from `fp32`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from variants.build import compile as plans
from variants.build import distil, eager, export, precision, quantize
from variants.build.context import CANARIES, Context, Draft, Progress, measured_tolerance, run
from variants.catalog import Model, Variant
from variants.errors import BuildError, EngineUnavailable, TrimtabError
from variants.quality import distance
from variants.repository import load_catalog, load_model, read_canary, write_canary, write_variant

Technique = Callable[[Context, Variant | None], Draft]
REFERENCE = "fp32"
TECHNIQUES: Mapping[str, Technique] = {
    REFERENCE: export.fp32,
    "fp16": precision.fp16,
    "bf16": precision.bf16,
    "bf16-hint": precision.bf16_hint,
    "int8": quantize.int8,
    "distil": distil.distil,
    "torch": eager.torch,
    "tensorrt": plans.tensorrt,
    "tensorrt-rtx": plans.tensorrt_rtx,
}
#: How far from the reference a technique's result may be on the canaries, unless `max_distance` says otherwise.
LIMITS: Mapping[str, float] = {
    REFERENCE: 0.01,
    "fp16": 0.05,
    "bf16": 0.05,
    "bf16-hint": 0.05,
    "int8": 0.15,
    "distil": 0.5,
}


@dataclass
class Summary:
    """What a build did: names of variants built; skipped and failed ones with the reason."""

    built: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def build(
    model_folder: Path,
    techniques: Sequence[str] | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Build variants of one model: `techniques`, or what `model.yaml: build` names, and the parents they need.

    What exists and was made the same way is skipped (`force` builds it again). One that fails does not stop the others;
    whatever derives from it fails with it. Raises ConfigError for a `model.yaml` that cannot be used, BuildError for an
    unknown technique.
    """
    model = load_model(model_folder)
    report = progress or (lambda step, fraction: None)
    wanted = plan(model, techniques)
    entry = load_catalog(model_folder.parent).entries.get(model.name)
    existing = dict(entry.variants) if entry else {}
    summary = Summary()
    for index, name in enumerate(wanted):
        parent_name = parent_of(name)
        stored = stored_name(name)

        def scaled(step: str, fraction: float, index: int = index, name: str = name) -> None:
            report(f"{name}: {step}", (index + fraction) / len(wanted))

        parent = existing.get(stored_name(parent_name)) if parent_name else None
        if parent_name and parent is None:
            summary.failed[stored] = f"its parent {stored_name(parent_name)} is not there"
            continue
        technique = name.rpartition("+")[2]
        context = Context(
            model_folder, model, stored, model.techniques.get(name, model.techniques.get(technique, {})), scaled
        )
        if not force and stored in existing and _same(existing[stored], context, parent):
            summary.skipped[stored] = "already there"
            continue
        scaled("build", 0.0)
        try:
            existing[stored] = _make(context, technique, parent)
        except TrimtabError as error:
            summary.failed[stored] = str(error)
        except Exception as error:
            summary.failed[stored] = f"{type(error).__name__}: {error}"
        else:
            summary.built.append(stored)
    return summary


def plan(model: Model, techniques: Sequence[str] | None) -> list[str]:
    """The names to build, every parent before what derives from it. Raises BuildError for an unknown technique."""
    wanted: list[str] = []
    for name in techniques or model.build:
        chain: list[str] = []
        current: str | None = name
        while current:
            unknown = current.rpartition("+")[2]
            if unknown not in TECHNIQUES:
                raise BuildError(
                    f"{model.name}: unknown technique {unknown!r} in {name!r}; there are {', '.join(TECHNIQUES)}"
                )
            chain.append(current)
            current = parent_of(current)
        wanted += [n for n in reversed(chain) if n not in wanted]
    return wanted


def parent_of(name: str) -> str | None:
    """The name of the variant that a composed name derives from; None for the reference."""
    if name == REFERENCE:
        return None
    return name.rpartition("+")[0] or REFERENCE


def stored_name(name: str) -> str:
    """The folder's name of a composed name."""
    return name.replace("+", "-")


def _make(context: Context, technique: str, parent: Variant | None) -> Variant:
    draft = TECHNIQUES[technique](context, parent)
    parameters = {**draft.variant.lineage.parameters, "requested": dict(context.parameters)}
    if parent is not None:
        parameters["parent_sha256"] = parent.files[parent.artefact]
    record = draft.variant.model_copy(
        update={"lineage": draft.variant.lineage.model_copy(update={"parameters": parameters})}
    )
    record = _with_engine(context, record)
    limit = float(context.parameter("max_distance", LIMITS.get(technique, 0.15)))

    def fill(folder: Path) -> Variant:
        options = draft.fill(folder)
        complete = record.model_copy(update={"options": {**record.options, **(options or {})}})
        if parent is None:
            _store_canary(context, complete, folder)
        return _checked(context, complete, folder, limit)

    return write_variant(context.folder, record, fill)


def _with_engine(context: Context, record: Variant) -> Variant:
    """The record with the engine that the parameter `engine` asks for: ONNX files run in OpenVINO or ONNX Runtime."""
    engine = context.parameter("engine", record.engine)
    if engine == record.engine:
        return record
    if engine not in ("openvino", "onnx") or not record.artefact.endswith(".onnx"):
        raise BuildError(
            f"{context.model.name}: techniques.{context.name}.engine: {engine!r} cannot run {record.artefact}"
        )
    return record.model_copy(update={"engine": engine})


def _store_canary(context: Context, reference: Variant, folder: Path) -> None:
    """Keep a few inputs and the reference's outputs on them: of the calibration data, else the tracing example."""
    if context.model.data.calibration:
        inputs = {s.name: context.calibration[s.name][:CANARIES] for s in context.model.inputs}
    else:
        inputs = {n: a[:1] for n, a in export.example(context).items()}
    write_canary(context.folder, inputs, run(context.model, reference, folder, inputs))


def _checked(context: Context, record: Variant, folder: Path, limit: float) -> Variant:
    """The record with the canary tolerance that its own distance suggests. Raises BuildError beyond `limit`."""
    canary = read_canary(context.folder)
    if canary is None:
        return record
    inputs, reference = canary
    try:
        outputs = run(context.model, record, folder, inputs)
    except EngineUnavailable:
        return record
    apart = distance(context.model.metric, outputs, reference)
    if apart > limit:
        raise BuildError(
            f"{context.model.name}: {record.name}: {apart:.4f} away from the reference on the canaries, at most {limit} is "
            f"allowed (techniques.{record.name}.max_distance)"
        )
    return record.model_copy(update={"tolerance": measured_tolerance(context.model, outputs, reference)})


def _same(variant: Variant, context: Context, parent: Variant | None) -> bool:
    """True when a stored variant was made with the same request from the same parent."""
    made = variant.lineage.parameters
    source = parent.files[parent.artefact] if parent is not None else None
    return made.get("requested", {}) == dict(context.parameters) and made.get("parent_sha256") == source
