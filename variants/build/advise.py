"""`trimtab advise`: the rules of thumb of efficient deep learning walked for one model, with numbers.

Source: Menghani, "Efficient Deep Learning: A Survey on Making Deep Learning Models Smaller, Faster, and Better" (2021):
compression, learning techniques, automation, efficient architectures, in that order. A number is measured where this
machine has a profile, else an estimate from the weights, and says which.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from variants import pareto
from variants.build.context import Context
from variants.build.lowrank import choose
from variants.build.modules import load_module
from variants.build.prune import candidates
from variants.build.students import blocks
from variants.build.vocabulary import lookups
from variants.catalog import Entry, Profile
from variants.data import load_data
from variants.device import fingerprint
from variants.errors import TrimtabError
from variants.repository import variant_folder

BYTES = {"int8": 1.0, "int8-weights": 1.0, "int4-weights": 0.53, "fp16": 2.0}
#: Fewer samples than these make a student that has seen too little.
ENOUGH = 2000


@dataclass
class Advice:
    """What was found, question by question; the techniques worth building; and the commands to type."""

    model: str
    lines: list[tuple[str, str]] = field(default_factory=list)
    techniques: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)

    def say(self, topic: str, text: str) -> None:
        """One more finding."""
        self.lines.append((topic, text))


def advise(folder: Path, entry: Entry) -> Advice:
    """Walk one model whose reference is built. Never raises for what it cannot look into: it says so instead."""
    advice = Advice(entry.model.name)
    source = entry.model.source
    if source.fixed:
        kind = source.given[0]
        advice.say("compress", f"source.{kind} is served as it is: one rung, nothing to build")
        advice.commands.append(f"trimtab profile {folder}")
        return advice
    reference = next(iter(entry.variants.values()))
    kinds = _weights(variant_folder(folder, reference.name) / reference.artefact)
    total = sum(kinds.values())
    shares = ", ".join(f"{n} {v / max(total, 1):.0%}" for n, v in sorted(kinds.items(), key=lambda p: -p[1]) if v)
    advice.say("weights", f"{total:,} weights, {total * 4 / 2**20:.2f} MiB in fp32: {shares}")
    if _negligible(reference.profile(fingerprint())):
        advice.say(
            "compress", "the reference itself takes less than what is told apart here: nothing is worth building"
        )
    _graph_advice(advice, entry, total)
    module = _module(folder, entry, advice)
    if module is not None:
        _module_advice(advice, folder, entry, module, total, kinds)
    _training_advice(advice, folder, entry, module)
    _search_advice(advice, entry)
    flags = " ".join(f"-t {t}" for t in advice.techniques)
    advice.commands.insert(0, f"trimtab build {folder} {flags}")
    advice.commands.insert(1, f"trimtab profile {folder} && trimtab ladder {folder}")
    return advice


def _negligible(profile: Profile | None) -> bool:
    """Whether a reference is so small and fast that no variant can be better beyond noise."""
    if profile is None or not profile.batches:
        return False
    return (
        profile.resident_bytes + profile.device_bytes <= pareto.BYTES_FLOOR
        and min(b.p50_seconds for b in profile.batches) <= pareto.LATENCY_FLOOR
    )


def _graph_advice(advice: Advice, entry: Entry, total: int) -> None:
    for technique in ("int8", "int8-weights", "int4-weights"):
        measured = _measured(entry, technique)
        if measured is not None:
            advice.say("compress", f"{technique}: {measured} (measured)")
        else:
            left = total * BYTES[technique] / 2**20
            advice.say("compress", f"{technique}: weights down to {left:.2f} MiB, no training (estimated)")
        if technique != "int4-weights" or total > 1_000_000:
            advice.techniques.append(technique)


def _measured(entry: Entry, name: str) -> str | None:
    """A variant beside the reference by profiles of this machine, in words."""
    device = fingerprint()
    variant = entry.variants.get(name)
    mine = variant.profile(device) if variant else None
    theirs = next(iter(entry.variants.values())).profile(device)
    if mine is None or theirs is None or not mine.batches or not theirs.batches:
        return None
    faster = _best(mine) / max(_best(theirs), 1e-9)
    smaller = mine.resident_bytes / max(theirs.resident_bytes, 1)
    return f"{smaller:.2f} of the resident bytes, {faster:.1f} times the throughput, quality {mine.quality:.4f}"


def _best(profile: Profile) -> float:
    return max(b.throughput for b in profile.batches)


def _module(folder: Path, entry: Entry, advice: Advice) -> Any:
    try:
        return load_module(Context(folder, entry.model, "advise"), None)[0]
    except TrimtabError as error:
        advice.say("compress", f"no pruning, factorisation or separable layers: {error}")
        return None


def _module_advice(advice: Advice, folder: Path, entry: Entry, module: Any, total: int, kinds: dict[str, int]) -> None:
    import torch

    from variants.build.export import example

    context = Context(folder, entry.model, "advise", {"minutes": 0.0})
    try:
        arguments = tuple(torch.from_numpy(a) for a in example(context).values())
        found = candidates(context, module, arguments)
        counts = {t: sum(c.target == t for c in found) for t in ("channels", "heads", "units")}
        named = ", ".join(f"{n} layers by {t}" for t, n in counts.items() if n)
        advice.say("compress", f"prune: {named or 'nothing is free of the outputs'} (found in the module)")
        if found:
            advice.techniques.append("prune")
        ranks, _ = choose(context, module, 0.9, 0.0, 1.05)
        saved = sum(_saved(module.get_submodule(n), r) for n, r in ranks.items())
        gain = f"{len(ranks)} layers gain at 0.9 of the energy, {saved / max(total, 1):.0%} of the weights (measured)"
        advice.say("compress", f"low-rank: {gain if ranks else 'no layer is faster at 0.9 of the energy (measured)'}")
        if saved > 0.1 * total:
            advice.techniques.append("low-rank")
    except Exception as error:
        advice.say("compress", f"the module cannot be traced, so it cannot be pruned: {error}")
    if kinds["convolutions"] > 0.3 * total:
        advice.say(
            "architecture", f"compact: depthwise-separable layers cost about {1 / 9 + 0.02:.0%} of 3x3 ones (estimated)"
        )
        advice.techniques.append("compact")
    unused = _unused_rows(folder, entry)
    if unused is not None:
        rows, seen, name = unused
        advice.say(
            "compress",
            f"vocabulary: {seen} of {rows} rows of {name} occur in the calibration data; trimming changes what unseen "
            "tokens mean, so it is built only on request (techniques.vocabulary.unknown)",
        )


def _saved(layer: Any, rank: list[int]) -> int:
    from variants.build.lowrank import skeleton

    return int(sum(p.numel() for p in layer.parameters()) - sum(p.numel() for p in skeleton(layer, rank).parameters()))


def _unused_rows(folder: Path, entry: Entry) -> tuple[int, int, str] | None:
    import onnx

    reference = next(iter(entry.variants.values()))
    if not reference.artefact.endswith(".onnx") or not entry.model.data.calibration:
        return None
    graph = onnx.load(variant_folder(folder, reference.name) / reference.artefact)
    found = lookups(graph, {s.name for s in entry.model.inputs})
    if not found:
        return None
    name, (_, table) = next(iter(found.items()))
    return int(table.dims[0]), len(np.unique(load_data(folder, entry.model.data.calibration)[name])), name


def _training_advice(advice: Advice, folder: Path, entry: Entry, module: Any) -> None:
    if module is None:
        return
    stated = [str(p["data"]) for p in entry.model.techniques.values() if p.get("data")]
    spec = stated[0] if stated else entry.model.data.calibration
    if spec is None:
        advice.say("train", "no data to recover on: give data.calibration or techniques.<name>.data")
        return
    count = len(next(iter(load_data(folder, spec).values())))
    depth = len(found[1]) if (found := blocks(module)) else 0
    worth = "enough for a student" if count >= ENOUGH else f"few: recovery only, a student wants {ENOUGH} or more"
    advice.say("train", f"teacher: the reference; {count} samples in {spec} ({worth})")
    if depth >= 2 and count >= ENOUGH:
        advice.say(
            "train", f"distil: {depth} equal layers; a student of {depth // 2} is about twice as fast (estimated)"
        )
        advice.techniques += ["distil", "distil+int8"]
    if "prune" in advice.techniques:
        advice.techniques.append("prune+int8")


def _search_advice(advice: Advice, entry: Entry) -> None:
    device = fingerprint()
    measured = [v for v in entry.variants.values() if v.profile(device)]
    rungs = len(entry.ladder.rungs) if measured else 0
    if len(measured) < 3:
        advice.say("search", f"{len(measured)} variants are profiled here; build and profile first, then search")
    else:
        verdict = "worth its minutes" if rungs < 5 else "likely to refine rather than extend it"
        advice.say("search", f"{rungs} rungs among {len(measured)} profiled variants: a search is {verdict}")
    advice.commands.append(f"trimtab search {entry.path} --minutes 10")


def _weights(path: Path) -> dict[str, int]:
    """How many weights a graph has in embeddings, matrices, convolutions and elsewhere."""
    import onnx

    kinds = {"embeddings": 0, "matrices": 0, "convolutions": 0, "other": 0}
    if path.suffix != ".onnx":
        return kinds
    graph = onnx.load(path).graph
    sizes = {t.name: int(np.prod(t.dims)) for t in graph.initializer}
    for node in graph.node:
        kind = {"Gather": "embeddings", "MatMul": "matrices", "Gemm": "matrices", "Conv": "convolutions"}.get(
            node.op_type
        )
        for name in node.input:
            if name in sizes:
                kinds[kind or "other"] += sizes.pop(name)
    return kinds
