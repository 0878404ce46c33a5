"""TensorRT plans from typed ONNX variants, in both flavours of the library."""

from __future__ import annotations

from pathlib import Path

from variants.build.context import Context, Draft
from variants.build.legalize import check_legal
from variants.catalog import Variant
from variants.engines.tensorrt_ import built_here, compile_engine
from variants.errors import BuildError, EngineUnavailable

PLAN = "model.plan"


def tensorrt(context: Context, parent: Variant | None) -> Draft:
    """A plan of the full TensorRT, for the GPU of this machine."""
    return _plan(context, parent, "tensorrt")


def tensorrt_rtx(context: Context, parent: Variant | None) -> Draft:
    """A plan of TensorRT for RTX. Parameter `compute_capabilities` (such as `["8.9"]`): needed without a GPU."""
    return _plan(context, parent, "tensorrt_rtx")


def outdated(variant: Variant) -> str | None:
    """Why a plan has to be built again: this machine's library, or its GPU where it has one, is another one than the
    plan's. None while it is good, and for variants that are no plans."""
    if variant.engine not in ("tensorrt", "tensorrt_rtx"):
        return None
    try:
        here = built_here(variant.engine)
    except EngineUnavailable:
        return None
    if variant.options.get("library") != here["library"]:
        return f"built by {variant.options.get('library')}, here is {here['library']}"
    capabilities = variant.options.get("compute_capability", "").split(",")
    if here["compute_capability"] and here["compute_capability"] not in capabilities:
        return f"built for compute capability {', '.join(capabilities)}, here is {here['compute_capability']}"
    return None


def _plan(context: Context, parent: Variant | None, flavour: str) -> Draft:
    import onnx

    source = context.parent_file(parent)
    assert parent is not None
    violations = check_legal(onnx.load(source, load_external_data=False))
    if violations:
        raise BuildError(
            f"{context.model.name}: {context.name}: {source.name} is not legal for TensorRT: {violations[0]}"
        )
    capabilities = list(context.parameter("compute_capabilities", []))
    sparse = "sparse24" in context.ancestry(parent)
    lineage = context.lineage(parent, flavour, 0, (), compute_capabilities=capabilities, sparse=sparse)
    record = Variant(
        name=context.name,
        engine="tensorrt" if flavour == "tensorrt" else "tensorrt_rtx",
        precision=parent.precision,
        artefact=PLAN,
        lineage=lineage,
        tolerance=parent.tolerance,
    )

    def fill(folder: Path) -> dict[str, str]:
        return compile_engine(
            source,
            folder / PLAN,
            flavour=flavour,
            model=context.model,
            compute_capabilities=capabilities or None,
            sparse=sparse,
            timing_cache=context.folder / f".{flavour}.timings",
        )

    return Draft(record, fill)
