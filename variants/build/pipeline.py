"""`trimtab build`: from `model.yaml` to variants on disk. Techniques compose with `+`; the first variant is the reference.

Names: `fp32`, `int8`, `distil`, `distil+int8` (stored as `distil-int8`), … A technique without a parent in its name
starts from `fp32`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from variants import engines
from variants.build import (
    compact,
    deit,
    distil,
    eager,
    export,
    lowrank,
    precision,
    prune,
    quantize,
    sparsity,
    streams,
    supernet,
    vocabulary,
    weights,
)
from variants.build import compile as plans
from variants.build.context import CANARIES, Context, Draft, Progress, measured_tolerance, run
from variants.build.naming import (
    REFERENCE,
    parameters_of,
    parent_of,
    plan,
    stored_name,
    technique_of,
    unknown_parameters,
)
from variants.build.training import clear_checkpoint
from variants.catalog import Model, Variant
from variants.data import repeated
from variants.device import default_threads
from variants.engines import openvino_
from variants.engines.base import Array, LoadRequest
from variants.errors import BuildError, EngineFailed, EngineUnavailable, TrimtabError
from variants.quality import distance
from variants.repository import load_catalog, load_model, read_canary, write_canary, write_variant

Technique = Callable[[Context, Variant | None], Draft]
TECHNIQUES: Mapping[str, Technique] = {
    REFERENCE: export.fp32,
    "fp16": precision.fp16,
    "bf16": precision.bf16,
    "bf16-hint": precision.bf16_hint,
    "one-stream": streams.one_stream,
    "int8": quantize.int8,
    "int8-weights": weights.int8_weights,
    "int4-weights": weights.int4_weights,
    "prune": prune.prune,
    "sparse24": sparsity.sparse24,
    "low-rank": lowrank.low_rank,
    "compact": compact.compact,
    "distil": distil.distil,
    "deit": deit.deit,
    "subnet": supernet.subnet,
    "vocabulary": vocabulary.vocabulary,
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
    "int4-weights": 0.3,
    "vocabulary": 0.3,
    **dict.fromkeys(("prune", "sparse24", "low-rank", "compact", "distil", "deit", "subnet"), 0.5),
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
    summary = Summary()
    if model.source.fixed:
        why = f"source.{model.source.given[0]} is served as it is; nothing transforms it further"
        summary.skipped = {stored_name(name): why for name in wanted if name != REFERENCE}
        wanted = [REFERENCE]
    entry = load_catalog(model_folder.parent).entries.get(model.name)
    existing = dict(entry.variants) if entry else {}
    for index, name in enumerate(wanted):

        def scaled(step: str, fraction: float, index: int = index, name: str = name) -> None:
            report(f"{name}: {step}", (index + fraction) / len(wanted))

        _one(model_folder, model, name, existing, summary, force=force, progress=scaled)
    return summary


def _one(
    folder: Path,
    model: Model,
    name: str,
    existing: dict[str, Variant],
    summary: Summary,
    *,
    force: bool,
    progress: Progress,
) -> None:
    """Build one variant into `existing`, or say in the summary why not."""
    stored, parent_name = stored_name(name), parent_of(name)
    parent = existing.get(stored_name(parent_name)) if parent_name else None
    if parent_name and parent is None:
        above = stored_name(parent_name)
        to = summary.skipped if above in summary.skipped else summary.failed
        to[stored] = f"its parent {above} was not built"
        return
    context = Context(folder, model, stored, parameters_of(model, name), progress)
    if not force and stored in existing and same(existing[stored], context, parent):
        summary.skipped[stored] = "already there"
        return
    progress("build", 0.0)
    existing.pop(stored, None)  # what derives from it must not come from the old one
    where = f"{model.name}: {stored}"
    try:
        unknown = unknown_parameters(context, technique_of(model, name))
        if unknown is not None:
            raise BuildError(unknown)
        existing[stored] = make_variant(context, technique_of(model, name), parent)
    except EngineUnavailable as error:
        summary.skipped[stored] = str(error)
    except TrimtabError as error:
        summary.failed[stored] = str(error)
    except ImportError as error:
        summary.skipped[stored] = f"{where}: needs a package that is not here ({error}); pip install 'trimtab[build]'"
    except OSError as error:
        advice = "; free some space and build again" if error.errno == errno.ENOSPC else ""
        summary.failed[stored] = f"{where}: {error.filename or folder}: {error.strerror or error}{advice}"
    except Exception as error:
        summary.failed[stored] = f"{where}: {type(error).__name__}: {error}"
    else:
        summary.built.append(stored)


def make_variant(context: Context, technique: str, parent: Variant | None) -> Variant:
    """Build, check and store one variant. Raises what the technique raises, and BuildError when the result is too far
    from the reference; nothing is stored then."""
    draft = TECHNIQUES[technique](context, parent)
    # What derives from a variant cannot be nearer to the reference than that variant had to be.
    inherited = float(parent.lineage.parameters.get("max_distance", 0.0)) if parent is not None else 0.0
    limit = float(context.parameter("max_distance", max(inherited, LIMITS.get(technique, 0.15))))
    parameters = {**draft.variant.lineage.parameters, "requested": dict(context.parameters), "max_distance": limit}
    if parent is not None:
        parameters["parent_sha256"] = parent.files[parent.artefact]
    record = draft.variant.model_copy(
        update={"lineage": draft.variant.lineage.model_copy(update={"parameters": parameters})}
    )
    record = _with_engine(context, record)

    def fill(folder: Path) -> Variant:
        options = draft.fill(folder)
        complete = record.model_copy(update={"options": {**record.options, **(options or {})}})
        if parent is None:
            _store_canary(context, complete, folder)
        return _checked(context, complete, folder, limit)

    stored = write_variant(context.folder, record, fill)
    clear_checkpoint(context.folder, context.name)
    return stored


def _with_engine(context: Context, record: Variant) -> Variant:
    """The record with the engine that the parameter `engine` asks for: ONNX files run in OpenVINO or ONNX Runtime."""
    engine = context.parameter("engine", record.engine)
    if engine == record.engine:
        return record
    if engine not in ("openvino", "onnx") or not record.artefact.endswith(".onnx"):
        raise BuildError(
            f"{context.model.name}: techniques.{context.name}.engine: {engine!r} cannot run {record.artefact}"
        )
    if ignored := sorted(openvino_.OPTIONS & record.options.keys()):
        raise BuildError(
            f"{context.model.name}: {context.name}: techniques.{context.name}.engine: {engine!r} would ignore the variant's "
            f"{', '.join(ignored)}, which only openvino has"
        )
    return record.model_copy(update={"engine": engine})


def _store_canary(context: Context, reference: Variant, folder: Path) -> None:
    """Keep a few inputs and the reference's outputs on them: of the calibration data where it will do, else the tracing example.
    Raises BuildError for outputs that are not as `model.yaml` says."""
    if context.usable is not None:
        inputs = {s.name: context.usable[s.name][:CANARIES] for s in context.model.inputs}
    else:
        inputs = {n: a[:1] for n, a in export.example(context).items()}
    try:
        outputs = run(context.model, reference, folder, inputs)
        export.check_outputs(context.model, outputs, reference.artefact)
        _run_full_batch(context, reference, folder, inputs)
    except EngineUnavailable:  # a plan on a machine without its GPU: there is nothing to compare with
        return
    write_canary(context.folder, inputs, outputs)


def _run_full_batch(context: Context, reference: Variant, folder: Path, inputs: Mapping[str, Array]) -> None:
    """Make one call of as many samples as `max_batch` allows. Raises BuildError where the source takes fewer at once."""
    model = context.model
    if not model.batchable:
        return
    engine = engines.load(LoadRequest(model, reference, folder, threads=default_threads()))
    try:
        outputs = engine.infer(repeated(inputs, model.max_batch))
        counts = {name: len(array) for name, array in outputs.items()}
        reason = "" if set(counts.values()) == {model.max_batch} else f"it answers with {counts}"
    except EngineFailed as error:
        reason = str(error)
    finally:
        engine.close()
    if reason:
        raise BuildError(
            f"{model.name}: {context.name}: single samples are answered, but not {model.max_batch} in one call ({reason}): set "
            "max_batch in model.yaml to what the source takes, or make its batch axis dynamic"
        )


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


def same(variant: Variant, context: Context, parent: Variant | None) -> bool:
    """True when a stored variant was made with the same request from the same parent, and a plan for what is here; a reference
    also on the data that there is."""
    if plans.outdated(variant) is not None:
        return False
    made = variant.lineage.parameters
    source = parent.files[parent.artefact] if parent is not None else None
    # Its canary is better taken from the user's data, now that there is some.
    if made.get("tried_on") == export.ZEROS and context.usable is not None:
        return False
    return made.get("requested", {}) == dict(context.parameters) and made.get("parent_sha256") == source
