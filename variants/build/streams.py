"""One call at a time: how a variant is executed when memory is what is short."""

from __future__ import annotations

from variants.build.context import Context, Draft
from variants.catalog import Variant
from variants.errors import BuildError
from variants.repository import copy_files, variant_folder


def one_stream(context: Context, parent: Variant | None) -> Draft:
    """The parent's files, run by OpenVINO with a single stream. What a stream keeps (kernels for the shapes it has run, the memory it
    works in) is kept once, not once for each call that a host makes at once; calls are made one after the other, on all threads.
    Raises BuildError where another engine runs the parent."""
    if parent is None or parent.engine != "openvino":
        runs = "no parent" if parent is None else f"parent {parent.name}, which the engine {parent.engine} runs"
        raise BuildError(
            f"{context.model.name}: {context.name}: one-stream needs a parent of the engine openvino, has {runs}"
        )
    record = Variant(
        name=context.name,
        engine="openvino",
        precision=parent.precision,
        artefact=parent.artefact,
        lineage=context.lineage(parent, "one-stream", 0, ("openvino",)),
        options={**parent.options, "streams": "1"},
        tolerance=parent.tolerance,
    )
    source = variant_folder(context.folder, parent.name)
    return Draft(record, lambda folder: copy_files(source, parent, folder))
