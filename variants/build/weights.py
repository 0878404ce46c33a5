"""Weight-only quantisation: embeddings and large matrices are stored in 8 or 4 bits and computed in floating point.

NNCF compresses the graph in OpenVINO's representation (IR), which OpenVINO keeps compressed in memory; an ONNX file with
DequantizeLinear on its weights would be unfolded when loaded. Source: NNCF 3.4, "Weights compression".
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

from variants.build.context import Context, Draft
from variants.catalog import Precision, Variant
from variants.data import batches
from variants.engines.base import Array
from variants.errors import BuildError

ARTEFACT = "model.xml"
#: In smaller groups a weight and its share of the scale (16 bits) take as much as in int8.
SMALLEST_GROUP = 8


def int8_weights(context: Context, parent: Variant | None) -> Draft:
    """Symmetric int8 weights, one scale for each output channel (embedding: for each row). Parameter: `ignored` (names
    of nodes left alone). Needs no data. Raises BuildError for a graph that NNCF refuses."""
    return _compress(context, parent, "int8")


def int4_weights(context: Context, parent: Variant | None) -> Draft:
    """Symmetric int4 weights in groups of `group_size` (32) for a share `ratio` (1.0) of the weights, the others int8.

    Where the group size does not divide a layer's inputs, its groups are the largest power of two that does, or the layer
    is stored in int8 if that is below 8; the lineage lists both (`groups`, `in_int8`). Convolutions are stored in int8.
    Raises BuildError where no layer is left for int4.

    With a ratio below 1 and calibration data in model.yaml, the layers that lose most on `samples` (64) of it are those
    that stay int8; without data it goes by their weights alone. `all_layers` (true) takes embeddings and the last layer
    too. Parameter `ignored` as for int8-weights."""
    return _compress(context, parent, "int4")


def _compress(context: Context, parent: Variant | None, precision: Precision) -> Draft:
    source = context.graph_file(parent)
    ignored = list(context.parameter("ignored", []))
    group = context.parameter("group_size", 32)
    if precision == "int4" and group != -1 and (group < SMALLEST_GROUP or group & (group - 1)):
        raise BuildError(
            f"{context.model.name}: techniques.{context.name}.group_size: {group}; a power of two from {SMALLEST_GROUP} up "
            "is accepted, or -1 (one scale for each output)"
        )
    ratio = float(context.parameter("ratio", 1.0))
    everything = context.parameter("all_layers", True)
    samples = _samples(context) if precision == "int4" and ratio < 1.0 else []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import nncf
        import openvino

        logging.getLogger("nncf").setLevel(logging.ERROR)
        options: dict[str, Any] = {"mode": nncf.CompressWeightsMode.INT8_SYM}
        used: dict[str, Any] = {"ignored": ignored}
        if precision == "int4":
            options = {"mode": nncf.CompressWeightsMode.INT4_SYM, "ratio": ratio, "group_size": group}
            options["all_layers"] = everything
            if group != -1:
                options["advanced_parameters"] = nncf.AdvancedCompressionParameters(
                    group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST, min_adjusted_group_size=SMALLEST_GROUP
                )
            options["dataset"] = nncf.Dataset(samples) if samples else None
            used |= {"group_size": group, "ratio": ratio, "all_layers": everything}
        if ignored:
            options["ignored_scope"] = nncf.IgnoredScope(names=ignored)
        try:
            graph = openvino.Core().read_model(str(source))
            with contextlib.redirect_stdout(io.StringIO()):
                compressed = nncf.compress_weights(graph, **options)
        except Exception as error:
            raise BuildError(
                f"{context.model.name}: {context.name}: NNCF cannot compress {source.name}: {_first_line(error)}"
            ) from error
    if precision == "int4":
        groups, in_int8 = stored(compressed)
        if not groups:
            raise BuildError(
                f"{context.model.name}: {context.name}: no layer of {source.name} can be stored in int4 in groups of {group} or "
                f"fewer, down to {SMALLEST_GROUP}, for a share {ratio} of the weights; use int8-weights"
            )
        used |= {"groups": {n: g for n, g in groups.items() if g != group != -1}, "in_int8": in_int8}
    record = Variant(
        name=context.name,
        engine="openvino",
        precision=precision,
        artefact=ARTEFACT,
        lineage=context.lineage(parent, f"{precision}-weights", len(samples), ("nncf", "openvino"), **used),
        tolerance=0.1,
    )

    def fill(folder: Path) -> None:
        openvino.save_model(compressed, str(folder / ARTEFACT), compress_to_fp16=False)

    return Draft(record, fill)


def stored(graph: Any) -> tuple[dict[str, int], list[str]]:
    """How a compressed graph stores its layers: the group size of each that is in int4, and the names of those in int8."""
    groups: dict[str, int] = {}
    wide = []
    for op in graph.get_ops():
        name = op.get_friendly_name()
        if op.get_type_name() != "Constant" or name.endswith("/zero_point"):
            continue
        kind = op.get_element_type().get_type_name()
        if kind == "i4":
            groups[name] = int(op.shape[-1])
        elif kind in ("i8", "u8"):
            wide.append(name)
    return groups, sorted(wide)


def _samples(context: Context) -> list[dict[str, Array]]:
    if not context.model.data.calibration:
        return []
    return batches(context.model, context.calibration, 1)[: context.parameter("samples", 64)]


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
