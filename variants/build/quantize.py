"""int8: NNCF post-training quantisation on ONNX, calibrated on the model's own data, then legalised.

The result has explicit QuantizeLinear/DequantizeLinear pairs, all signed and symmetric (`variants.build.legalize`), so
one artefact feeds OpenVINO, ONNX Runtime and TensorRT. Source: NNCF 3.4 documentation, "Post-Training Quantization".
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

from variants.build.accuracy import put_back
from variants.build.context import Context, Draft
from variants.build.export import ARTEFACT
from variants.build.legalize import check_legal, legalize
from variants.catalog import Variant
from variants.data import batches
from variants.device import exact_products
from variants.errors import BuildError

SAMPLES = 300
#: Distance from the parent that int8 may have, unless `tolerance` says otherwise.
TOLERANCE = 0.05


def int8(context: Context, parent: Variant | None) -> Draft:
    """Quantise the ONNX parent. Parameters: `samples` (300 calibration samples at most), `ignored` (names of nodes left
    in floating point), `tolerance` (0.05: the largest distance from the parent's outputs on the calibration data; where it
    is missed, the worst layers go back to floating point until it holds, and the lineage lists them). Built on an x86 CPU without
    VNNI, whose int8 products saturate, weights use half of their range (NNCF's overflow fix); the lineage says so.

    Raises BuildError for calibration data that will not do, or a graph that NNCF or the legality check refuses.
    """
    import onnx

    source = context.parent_file(parent)
    limit = context.parameter("samples", SAMPLES)
    ignored = list(context.parameter("ignored", []))
    samples = batches(context.model, context.calibration, 1)[:limit]
    graph = onnx.load(source)
    _name_nodes(graph)
    transformer = is_transformer(graph)
    tolerance = float(context.parameter("tolerance", TOLERANCE))
    half_range = not exact_products()  # two products of such weights fit the 16 bits that the CPU adds them in
    quantised = _nncf(context, graph, samples, transformer, ignored, half_range)
    legalize(quantised)
    context.progress("compare layers", 0.6)
    back, reached = put_back(
        context.model, graph, quantised, samples, tolerance, lambda f: context.progress("compare layers", 0.6 + 0.3 * f)
    )
    if reached > tolerance:
        raise BuildError(
            f"{context.model.name}: {context.name}: {reached:.2g} away from {source.parent.name} with every layer back in "
            f"floating point; at most {tolerance} is asked for (techniques.{context.name}.tolerance)"
        )
    violations = check_legal(quantised)
    if violations:
        raise BuildError(f"{context.model.name}: {context.name}: not legal for TensorRT: {'; '.join(violations[:3])}")
    used: dict[str, Any] = {
        "preset": "transformer" if transformer else "default",
        "ignored": ignored,
        "tolerance": tolerance,
    }
    if half_range:
        used["half_range"] = True
    used |= {"in_floating_point": back, "distance": round(reached, 6)}
    lineage = context.lineage(parent, "int8", len(samples), ("nncf", "onnx"), **used)
    record = Variant(
        name=context.name, engine="openvino", precision="int8", artefact=ARTEFACT, lineage=lineage, tolerance=0.1
    )
    return Draft(record, lambda folder: _save(quantised, folder))


def _name_nodes(graph: Any) -> None:
    """Give nodes without a name one: layers are found again, and reported, by it."""
    for index, node in enumerate(graph.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"


def is_transformer(graph: Any) -> bool:
    """Whether a graph has attention: a Softmax between matrix products, or a LayerNormalization, or a fused Attention."""
    ops = {node.op_type for node in graph.graph.node}
    return "Attention" in ops or ("Softmax" in ops and "MatMul" in ops)


def _nncf(
    context: Context, graph: Any, samples: list[Any], transformer: bool, ignored: list[str], half_range: bool
) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import nncf

        logging.getLogger("nncf").setLevel(logging.ERROR)
        # symmetric activations: the mixed preset makes asymmetric ones, which TensorRT refuses
        options: dict[str, Any] = {"preset": nncf.QuantizationPreset.PERFORMANCE}
        if transformer:
            options["model_type"] = nncf.ModelType.TRANSFORMER
        if half_range:
            options["advanced_parameters"] = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE)
        if ignored:
            options["ignored_scope"] = nncf.IgnoredScope(names=ignored)
        try:
            with _no_progress_bars():
                return nncf.quantize(graph, nncf.Dataset(samples), subset_size=len(samples), **options)
        except Exception as error:
            raise BuildError(
                f"{context.model.name}: {context.name}: NNCF cannot quantise the graph: {error}"
            ) from error


def _no_progress_bars() -> Any:
    """NNCF draws its own bars on standard output; ours are elsewhere."""
    import contextlib
    import io

    return contextlib.redirect_stdout(io.StringIO())


def _save(graph: Any, folder: Path) -> None:
    import onnx

    onnx.save(graph, folder / ARTEFACT)
