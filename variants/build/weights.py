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


def int8_weights(context: Context, parent: Variant | None) -> Draft:
    """Symmetric int8 weights, one scale for each output channel (embedding: for each row). Parameter: `ignored` (names
    of nodes left alone). Needs no data. Raises BuildError for a graph that NNCF refuses."""
    return _compress(context, parent, "int8")


def int4_weights(context: Context, parent: Variant | None) -> Draft:
    """Symmetric int4 weights in groups of `group_size` (32) for a share `ratio` (1.0) of the weights, the others int8.

    With a ratio below 1 and calibration data in model.yaml, the layers that lose most on `samples` (64) of it are those
    that stay int8; without data it goes by their weights alone. `all_layers` (true) takes embeddings and the last layer
    too. Parameter `ignored` as for int8-weights."""
    return _compress(context, parent, "int4")


def _compress(context: Context, parent: Variant | None, precision: Precision) -> Draft:
    source = context.graph_file(parent)
    ignored = list(context.parameter("ignored", []))
    group, ratio = context.parameter("group_size", 32), float(context.parameter("ratio", 1.0))
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


def _samples(context: Context) -> list[dict[str, Array]]:
    if not context.model.data.calibration:
        return []
    return batches(context.model, context.calibration, 1)[: context.parameter("samples", 64)]


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
