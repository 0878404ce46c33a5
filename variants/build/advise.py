"""`trimtab advise`: the rules of thumb of efficient deep learning walked for one model, with numbers.

Source: Menghani, "Efficient Deep Learning: A Survey on Making Deep Learning Models Smaller, Faster, and Better" (2021):
compression, learning techniques, automation, efficient architectures, in that order. A number is measured where this
machine has a profile, else an estimate from the weights, and says which. What is put among the commands to type can be
built: what a technique needs (a module, data, layers that it can change) was looked for.
"""

from __future__ import annotations

import copy
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from variants.build import compact, lowrank, told_gpu
from variants.build.context import Context
from variants.build.export import example
from variants.build.modules import load_module
from variants.build.naming import parameters_of, stored_name
from variants.build.prune import TARGETS, candidates, cut
from variants.build.students import blocks
from variants.build.told import beside, costs, negligible
from variants.build.training import training_data
from variants.build.vocabulary import lookups
from variants.build.weigh import Weights, weigh
from variants.catalog import Entry
from variants.data import load_data
from variants.device import fingerprint, gpu_names
from variants.errors import TrimtabError
from variants.profiler import evaluation_data
from variants.repository import variant_folder

BYTES = {"int8": 1.0, "int8-weights": 1.0, "int4-weights": 0.53}
#: Fewer samples than these make a student that has seen too little.
ENOUGH = 2000
#: Below so many weights int4 saves nothing that can be told from int8.
WORTH_INT4 = 1_000_000
#: A layer is promised to gain from low rank only if it is so much faster than the technique asks for: it measures again.
MARGIN = 1.1


@dataclass
class Advice:
    """What was found, question by question; the techniques worth building that are not built; the commands to type."""

    model: str
    lines: list[tuple[str, str]] = field(default_factory=list)
    techniques: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)


def advise(folder: Path, entry: Entry) -> Advice:
    """Walk one model whose reference is built. Never raises for what it cannot look into: it says so instead."""
    walk = _Walk(folder, entry)
    walk.all()
    return walk.advice


class _Walk:
    """One model, and what is found about it on the way."""

    def __init__(self, folder: Path, entry: Entry) -> None:
        self.folder, self.entry, self.model = folder, entry, entry.model
        self.advice = Advice(entry.model.name)
        self.reference = next(iter(entry.variants.values()))
        self.device = fingerprint()

    def all(self) -> None:
        """Every question, and the commands."""
        where = shlex.quote(str(self.folder))
        source = self.model.source
        if source.fixed:
            self._say("compress", f"source.{source.given[0]} is served as it is: one rung, nothing to build or search")
            if self._measurable():
                self.advice.commands.append(f"trimtab profile {where}")
            return
        weights = weigh(variant_folder(self.folder, self.reference.name) / self.reference.artefact)
        shares = ", ".join(
            f"{n} {v / weights.total:.0%}" for n, v in sorted(weights.kinds.items(), key=lambda p: -p[1]) if v
        )
        self._say("weights", f"{weights.total:,} weights, {weights.total * 4 / 2**20:.2f} MiB in fp32: {shares}")
        self._say("weights", costs(self.reference, self.device))
        if negligible(self.reference.profile(self.device)):
            self._say("compress", "the reference takes less than what is told apart here: nothing is worth building")
            return
        self._graph(weights)
        self._gpu(weights)
        module = self._module()
        if module is not None:
            self._try("pruned", lambda: self._prune(module))
            self._try("factorised", lambda: self._low_rank(module, weights))
            self._compact(module, weights)
        self._try("trimmed", self._vocabulary)
        self._students(module)
        measurable = self._measurable()
        if measurable:
            self._search()
        if self.advice.techniques:
            flags = " ".join(f"-t {t}" for t in self.advice.techniques)
            self.advice.commands.append(f"trimtab build {where} {flags}")
        else:
            self._say("compress", "all that is worth building is built")
        if measurable:
            self.advice.commands += [f"trimtab {c} {where}" for c in ("profile", "ladder")]
            self.advice.commands.append(f"trimtab search {where} --minutes 10")

    def _measurable(self) -> bool:
        """Whether there is something to measure quality on: what is measured, and searched by it, needs that."""
        try:
            evaluation_data(self.folder, self.entry)
        except TrimtabError as error:
            reason = str(error).removeprefix(f"{self.model.name}: ")
            self._say("measure", f"nothing can be profiled or searched yet: {reason}")
            return False
        return True

    def _say(self, topic: str, text: str) -> None:
        self.advice.lines.append((topic, text))

    def _offer(self, topic: str, name: str, estimate: str, *, worth: bool = True) -> None:
        """A technique: what it measured here, else what is expected of it; among those to build if that is worth it."""
        stored = stored_name(name)
        measured = beside(self.reference, self.entry.variants.get(stored), self.device)
        if measured is not None:
            self._say(topic, f"{name}: {measured} (measured)")
            return
        there = "built, not profiled here; " if stored in self.entry.variants else ""
        self._say(topic, f"{name}: {there}{estimate} (estimated)")
        if worth and not there:
            self.advice.techniques.append(name)

    def _try(self, what: str, look: Callable[[], None]) -> None:
        """Look into something; whatever a user's module or data raises means that it cannot be done."""
        try:
            look()
        except Exception as error:
            self._say("compress", f"cannot be {what}: {type(error).__name__}: {error}")

    def _context(self, name: str) -> Context:
        return Context(self.folder, self.model, name, parameters_of(self.model, name))

    def _lacking(self, name: str) -> str | None:
        """Why a technique has no data to work with; None when it has."""
        context = self._context(name)
        try:
            if name == "int8":
                _ = context.calibration
            else:
                training_data(context)
        except Exception as error:
            return str(error)
        return None

    def _graph(self, weights: Weights) -> None:
        """What rewrites the graph or says how it is executed."""
        if "bf16" in self.device:
            self._offer("compress", "bf16-hint", "faster, with the same memory: this CPU computes in bf16")
        if self.reference.engine == "openvino":
            kept = "what a call at once keeps is kept once, with less throughput; so for what is made of it (int8+one-stream)"
            self._offer("compress", "one-stream", kept, worth=False)
        for name, each in BYTES.items():
            lacking = self._lacking(name) if name == "int8" else None
            if lacking is not None:
                self._say("compress", f"{name}: not now: {lacking}")
                continue
            worth = name != "int4-weights" or (weights.total > WORTH_INT4 and weights.groupable > 0.3 * weights.total)
            trained = f"weights down to {weights.total * each / 2**20:.2f} MiB, no training"
            self._offer("compress", name, trained if worth else f"{trained}; little beside int8-weights", worth=worth)

    def _gpu(self, weights: Weights) -> None:
        """What TensorRT compiles for the GPU of this machine, if it has one: engines run on the first."""
        library = told_gpu.library(gpu_names())
        for line in library.lines:
            self._say("gpu", line)
        lacking = self._lacking("int8")
        for typed, gain in library.gains(weights.total, sparse="sparse24" in self.entry.variants).items():
            name = f"{typed}+{library.technique}"
            if lacking is not None and typed != "bf16":
                self._say("gpu", f"{name}: {gain} (estimated), but not now: {lacking}")
            else:
                self._offer("gpu", name, gain, worth=library.installed and typed != "bf16")

    def _module(self) -> Any:
        try:
            return load_module(self._context("prune"), None)[0]
        except Exception as error:
            reason = str(error).removeprefix(f"{self.model.name}: prune: ")
            self._say("compress", f"no pruning, factorisation or separable layers: {reason}")
            return None

    def _prune(self, module: Any) -> None:
        import torch

        context = self._context("prune")
        found = candidates(context, module, tuple(torch.from_numpy(a) for a in example(context).values()))
        ratio = float(context.parameter("ratio", 0.5))
        trial = copy.deepcopy(module)
        removed, _ = cut(context, trial, ratio, list(context.parameter("targets", list(TARGETS))))
        counts = {t: sum(c.target == t and c.layer in removed for c in found) for t in TARGETS}
        named = ", ".join(f"{_count(n, 'layer')} by {t}" for t, n in counts.items() if n)
        if not removed:
            self._say("compress", "prune: nothing is free of the outputs, or of sizes written into the module's code")
            return
        gone = 1.0 - _size(trial) / max(1, _size(module))
        self._trained("compress", "prune", f"{named}; {gone:.0%} of the weights go at ratio {ratio:g}")

    def _trained(self, topic: str, name: str, estimate: str, *, worth: bool = True) -> None:
        """Offer a technique that trains, and the same in int8, if there is data for it."""
        lacking = self._lacking(name)
        if lacking is not None:
            self._say(topic, f"{name}: {estimate} (estimated), but not now: {lacking}")
            return
        self._offer(topic, name, estimate, worth=worth)
        if worth and self._lacking("int8") is None:
            self._offer(topic, f"{name}+int8", "a quarter of that in weights, and int8's speed")

    def _low_rank(self, module: Any, weights: Weights) -> None:
        context = self._context("low-rank")
        energy, ratio = float(context.parameter("energy", 0.9)), float(context.parameter("rank_ratio", 0.0))
        ranks, _ = lowrank.choose(context, module, energy, ratio, MARGIN * float(context.parameter("speedup", 1.05)))
        kept = f"a rank of {ratio:g} of the full one" if ratio else f"{energy:g} of the energy"
        if not ranks:
            self._say("compress", f"low-rank: no layer is faster at {kept} (timed here)")
            return
        saved = 0
        for name, rank in ranks.items():
            layer = module.get_submodule(name)
            saved += _size(layer) - _size(lowrank.skeleton(layer, rank))
        gone = saved / max(1, _size(module))
        gain = f"{_count(len(ranks), 'layer')} measured faster at {kept} (timed here); {gone:.0%} of the weights go"
        self._trained("compress", "low-rank", gain, worth=saved > 0.1 * weights.total)

    def _compact(self, module: Any, weights: Weights) -> None:
        layers = compact.standard(module)
        if not layers or weights.share("convolutions") < 0.3:
            return
        before = sum(_size(layer) for layer in layers.values())
        after = sum(_size(compact.skeleton(layer)) for layer in layers.values())
        text = f"{len(layers)} convolutions as depthwise-separable ones keep {after / before:.0%} of their weights"
        self._trained("architecture", "compact", text)

    def _vocabulary(self) -> None:
        import onnx

        if not self.reference.artefact.endswith(".onnx") or not self.model.data.calibration:
            return
        graph = onnx.load(variant_folder(self.folder, self.reference.name) / self.reference.artefact)
        found = lookups(graph, {s.name for s in self.model.inputs})
        if not found:
            return
        name, (_, table) = next(iter(found.items()))
        seen = len(np.unique(load_data(self.folder, self.model.data.calibration)[name]))
        self._say(
            "compress",
            f"vocabulary: {seen} of {int(table.dims[0])} rows of {name} occur in the calibration data; trimming changes "
            "what unseen tokens mean, so it is built only on request (techniques.vocabulary.unknown)",
        )

    def _students(self, module: Any) -> None:
        """Whether there is a teacher, data to learn from, and a student."""
        context = self._context("distil")
        stated = context.parameters.get("student")
        if module is None and not stated:
            return
        try:
            _, count = training_data(context)
        except Exception as error:
            self._say("train", f"no data to learn from: {error}")
            return
        spec = context.parameter("data", "") or self.model.data.calibration
        worth = "enough for a student" if count >= ENOUGH else f"few: recovery only, a student wants {ENOUGH} or more"
        self._say("train", f"teacher: the reference; {count} samples in {spec} ({worth})")
        found = blocks(module) if module is not None else None
        if stated:
            self._trained("train", "distil", f"the student {stated}", worth=count >= ENOUGH)
        elif found is not None:
            depth = len(found[1])
            text = f"{depth} equal layers; a student of {depth // 2} is about twice as fast"
            self._trained("train", "distil", text, worth=count >= ENOUGH)

    def _search(self) -> None:
        measured = [v for v in self.entry.variants.values() if v.profile(self.device)]
        rungs = len(self.entry.ladder.rungs) if measured else 0
        if len(measured) < 3:
            self._say("search", f"{len(measured)} variants are profiled here; build and profile first, then search")
            return
        verdict = "worth its minutes" if rungs < 5 else "likely to refine rather than extend it"
        self._say("search", f"{_count(rungs, 'rung')} among {len(measured)} profiled variants: a search is {verdict}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _size(module: Any) -> int:
    return int(sum(p.numel() for p in module.parameters()))
