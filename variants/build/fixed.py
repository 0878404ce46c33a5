"""Sources that are served as they are: a LiteRT file, a TensorRT plan. Nothing transforms them further."""

from __future__ import annotations

import shutil
from pathlib import Path

from variants.build.context import Context, Draft
from variants.catalog import Precision, Variant
from variants.data import inside
from variants.errors import BuildError


def as_it_is(context: Context) -> Draft:
    """The single rung of a model whose source is `tflite` or `plan`: a checked copy of the file.

    A plan needs `techniques.<name>.compute_capability` where there is no GPU to ask, and `.library` where another version
    built it; it is served only where both match. Raises BuildError for a file that is not there or not of its format, or a
    plan of which it is not known what it is for.
    """
    source = context.model.source
    kind = source.given[0]
    path = inside(context.folder, str(getattr(source, kind)))
    try:
        with path.open("rb") as stream:
            head = stream.read(8)
    except OSError as error:
        raise BuildError(
            f"{context.model.name}: {path}: cannot be read: {error.strerror} (source.{kind} in model.yaml)"
        ) from error
    if kind == "tflite" and head[4:8] != b"TFL3":
        raise BuildError(f"{context.model.name}: {path}: not a LiteRT file (no TFL3 mark)")
    precision: Precision = "fp32" if kind == "tflite" else "fp16"
    record = Variant(
        name=context.name,
        engine="litert" if kind == "tflite" else source.flavour,
        precision=precision,
        artefact=path.name,
        lineage=context.lineage(None, kind, 0, (), source=path.name),
        options={} if kind == "tflite" else _built_for(context),
        tolerance=0.01,
    )

    def fill(folder: Path) -> None:
        shutil.copyfile(path, folder / path.name)

    return Draft(record, fill)


def _built_for(context: Context) -> dict[str, str]:
    from variants.engines.tensorrt_ import built_here

    here = built_here(context.model.source.flavour)
    found = {name: str(context.parameter(name, value)) for name, value in here.items()}
    if not found["compute_capability"]:
        raise BuildError(
            f"{context.model.name}: {context.name}: which GPU the plan is for cannot be seen on a machine without one; say it as "
            f'techniques.{context.name}.compute_capability in model.yaml (such as "8.9")'
        )
    return found
