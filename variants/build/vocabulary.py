"""Vocabulary trimming for text encoders: embedding rows of tokens that the calibration corpus never uses are removed.

Only on request: a token that the corpus has not seen loses its meaning. Ids stay what they were; a table in the graph
maps them to the rows that are left, unseen ones to the row of `unknown`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from variants.build.context import Context, Draft
from variants.build.export import ARTEFACT
from variants.build.training import training_data
from variants.catalog import Variant
from variants.errors import BuildError

SMALLEST = 1000


def vocabulary(context: Context, parent: Variant | None) -> Draft:
    """Trim the embedding that the input of token ids looks up.

    Parameters: `input` (its name; default: the only integer input that looks rows up), `data` (the corpus; default: the
    calibration data), `unknown` (the id that unseen ids become, such as the tokenizer's [UNK]; required), `keep` (ids
    kept in any case). Raises BuildError when no embedding is found.
    """
    import onnx
    from onnx import numpy_helper

    where = f"{context.model.name}: {context.name}"
    source = context.parent_file(parent)
    unknown = context.parameters.get("unknown")
    if not isinstance(unknown, int):
        raise BuildError(f"{where}: techniques.{context.name}.unknown is missing: the id that unseen tokens become")
    graph = onnx.load(source)
    found = lookups(graph, {s.name for s in context.model.inputs})
    name = context.parameter("input", next(iter(found), ""))
    if name not in found:
        raise BuildError(
            f"{where}: no input looks rows up in an embedding of {SMALLEST} rows or more"
            + (f" through {name!r}; {', '.join(found)} does" if found else "")
        )
    data, count = training_data(context)
    node, table = found[name]
    rows = numpy_helper.to_array(table)
    kept = np.unique(
        np.concatenate([data[name].reshape(-1), [unknown], context.parameter("keep", [])]).astype(np.int64)
    )
    if kept[0] < 0 or kept[-1] >= len(rows):
        raise BuildError(f"{where}: ids from 0 to {len(rows) - 1} have rows; the corpus has {kept[0]} to {kept[-1]}")
    _trim(graph.graph, node, table, rows, kept, unknown)
    onnx.checker.check_model(graph)
    used = {"input": name, "rows": [len(rows), len(kept)], "unknown": unknown, "data": context.parameter("data", "")}
    record = Variant(
        name=context.name,
        engine="openvino",
        precision="fp32" if parent is None else parent.precision,
        artefact=ARTEFACT,
        lineage=context.lineage(parent, "vocabulary", count, ("onnx",), **used),
        tolerance=0.3,
    )
    return Draft(record, lambda folder: _save(graph, folder))


def lookups(graph: Any, inputs: set[str]) -> dict[str, tuple[Any, Any]]:
    """Inputs whose values (perhaps cast) are indices of a Gather into a large constant: the node and the constant."""
    tables = {t.name: t for t in graph.graph.initializer if len(t.dims) == 2 and t.dims[0] >= SMALLEST}
    origin = {name: name for name in inputs}
    found: dict[str, tuple[Any, Any]] = {}
    for node in graph.graph.node:
        if node.op_type in ("Cast", "Identity") and node.input[0] in origin:
            origin[node.output[0]] = origin[node.input[0]]
        elif node.op_type == "Gather" and node.input[0] in tables and node.input[1] in origin:
            found[origin[node.input[1]]] = (node, tables[node.input[0]])
    return found


def _trim(graph: Any, node: Any, table: Any, rows: Any, kept: Any, unknown: int) -> None:
    from onnx import helper, numpy_helper

    place = np.full(len(rows), int(np.searchsorted(kept, unknown)), np.int32)
    place[kept] = np.arange(len(kept), dtype=np.int32)
    short, mapping = f"{table.name}__trimmed", f"{table.name}__place"
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(rows[kept]), short))
    graph.initializer.append(numpy_helper.from_array(place, mapping))
    index = list(graph.node).index(node)
    graph.node.insert(
        index, helper.make_node("Gather", [mapping, node.input[1]], [f"{mapping}__row"], name=f"{mapping}_lookup")
    )
    node = graph.node[index + 1]
    node.input[0], node.input[1] = short, f"{mapping}__row"
    used = {name for n in graph.node for name in n.input}
    left = [t for t in graph.initializer if t.name in used]
    del graph.initializer[:]
    graph.initializer.extend(left)


def _save(graph: Any, folder: Path) -> None:
    import onnx

    onnx.save(graph, folder / ARTEFACT)
