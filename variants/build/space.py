"""What a search may try: a structure (how the module is made smaller), a finish (how its graph is stored), parameters."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from variants.build import compact
from variants.build.context import Context
from variants.build.export import example
from variants.build.layers import kinds
from variants.build.modules import load_module
from variants.build.prune import prunable
from variants.build.students import blocks
from variants.build.training import training_data
from variants.catalog import Model
from variants.errors import TrimtabError

NONE = "none"
FINISHES = (NONE, "bf16-hint", "int8", "int8-weights", "int4-weights")
#: Techniques that make another module; all others rewrite a graph or say how it is executed.
STRUCTURES = frozenset({"prune", "sparse24", "low-rank", "compact", "distil", "deit", "subnet"})
INT8_TOLERANCES = (0.05, 0.01, 0.002)
INT4_RATIOS = (1.0, 0.6)
#: Parameters of structures with a range, and which of them each structure has.
RANGES: Mapping[str, tuple[float, float]] = {
    "learning_rate": (5e-5, 2e-3),
    "ratio": (0.1, 0.8),
    "rank_ratio": (0.1, 0.6),
}
NUMBERS: Mapping[str, tuple[str, ...]] = {
    "prune": ("learning_rate", "ratio"),
    "low-rank": ("learning_rate", "rank_ratio"),
    "compact": ("learning_rate",),
    "distil": ("learning_rate", "layers"),
}
#: int8 where nothing better is known: layers go back to floating point only where the loss is gross.
LOOSE = {"int8_tolerance": 0.05}
#: The trained super-network's weights, in the folder where trials are built.
SUPERNET = "supernet.safetensors"
#: Techniques with their parameters, in order.
Chain = Sequence[tuple[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Space:
    """Structures and finishes that this model and its data allow, how many layers it has, and what every training is given."""

    structures: tuple[str, ...]
    layers: int = 0
    training: Mapping[str, Any] = field(default_factory=dict)
    finishes: tuple[str, ...] = FINISHES
    #: The data that there is none of (`calibration`, `training`): another space is another study.
    lacking: tuple[str, ...] = ()

    @property
    def quantised(self) -> str:
        """The finish in which a structure is tried first."""
        return "int8" if "int8" in self.finishes else "int8-weights"

    def suggest(self, trial: Any, minutes: float) -> Chain:
        """A trial's techniques; none: the reference as it is."""
        structure = trial.suggest_categorical("structure", self.structures)
        finish = trial.suggest_categorical("finish", self.finishes)
        chain: list[tuple[str, dict[str, Any]]] = []
        if structure != NONE:
            chain.append((structure, self._structure(trial, structure, minutes)))
        if finish == "int8":
            tolerance = trial.suggest_categorical("int8_tolerance", INT8_TOLERANCES)
            chain.append((finish, {"tolerance": tolerance, "max_distance": 1.0}))
        elif finish == "int4-weights":
            ratio = trial.suggest_categorical("int4_ratio", INT4_RATIOS)
            chain.append((finish, {"ratio": ratio, "max_distance": 1.0}))
        elif finish != NONE:
            chain.append((finish, {"max_distance": 1.0}))
        return chain

    def every(self) -> list[dict[str, Any]] | None:
        """All trials that the sampler can propose; None where there is no end to them."""
        if self.structures != (NONE,):
            return None
        options: Mapping[str, list[dict[str, Any]]] = {
            "int8": [{"int8_tolerance": t} for t in INT8_TOLERANCES],
            "int4-weights": [{"int4_ratio": r} for r in INT4_RATIOS],
        }
        return [{"structure": NONE, "finish": f, **more} for f in self.finishes for more in options.get(f, [{}])]

    def _structure(self, trial: Any, structure: str, minutes: float) -> dict[str, Any]:
        rate = trial.suggest_float("learning_rate", *RANGES["learning_rate"], log=True)
        made: dict[str, Any] = {**self.training, "minutes": minutes, "learning_rate": rate, "max_distance": 1.0}
        match structure:
            case "prune":
                made["ratio"] = trial.suggest_float("ratio", *RANGES["ratio"])
            case "low-rank":
                made |= {"rank_ratio": trial.suggest_float("rank_ratio", *RANGES["rank_ratio"]), "speedup": 0.0}
            case "distil":
                made["layers"] = trial.suggest_int("layers", 1, self.layers - 1)
            case "subnet":
                made |= {"width": trial.suggest_categorical("width", (1.0, 0.75, 0.5, 0.25)), "weights": SUPERNET}
                if self.layers >= 2:
                    made["depth"] = trial.suggest_int("depth", 1, self.layers)
        return made


def space_of(context: Context) -> Space:
    """The space of a model whose reference is built. A source without a module, or without data to train on, has finishes
    only; one without calibration data is not quantised by it."""
    training = shared_training(context.model)
    lacking = tuple(
        what for what, there in (("calibration", _calibrated), ("training", _trainable)) if not there(context)
    )
    finishes = FINISHES if "calibration" not in lacking else tuple(f for f in FINISHES if f != "int8")
    graphs_only = Space((NONE,), 0, training, finishes, lacking)
    if "training" in lacking:
        return graphs_only
    try:
        module, _ = load_module(context, None)
    except TrimtabError:
        return graphs_only
    import torch

    structures = [NONE]
    found = blocks(module)
    try:
        arguments = tuple(torch.from_numpy(a) for a in example(context).values())
        if prunable(context, module, arguments):
            structures += ["prune", "subnet"]
    except Exception:  # what the tracer cannot follow cannot be pruned: the rest of the space is open
        structures = [NONE]
    if any(isinstance(m, kinds()) for m in module.modules()):
        structures.append("low-rank")
    if compact.standard(module):
        structures.append("compact")
    if found:
        structures.append("distil")
    return Space(tuple(structures), len(found[1]) if found else 0, training, finishes, lacking)


def _calibrated(context: Context) -> bool:
    try:
        return bool(context.calibration)
    except TrimtabError:
        return False


def _trainable(context: Context) -> bool:
    try:
        training_data(Context(context.folder, context.model, context.name, shared_training(context.model)))
    except TrimtabError:
        return False
    return True


def shared_training(model: Model) -> dict[str, Any]:
    """What model.yaml says of training anywhere among its techniques: `data`, `mask`, `batch`, `hidden`, `attention`."""
    names = ("data", "mask", "batch", "hidden", "attention", "labels")
    return {n: p[n] for n in names for p in model.techniques.values() if n in p}


def starts(space: Space, stated: Collection[str] = ()) -> list[dict[str, Any]]:
    """Trials that follow those that model.yaml states: every finish as it is, and at moderate strength, in int8, each
    structure that is not among `stated`."""
    middle = {"ratio": 0.5, "rank_ratio": 0.35, "layers": max(1, space.layers // 2), "learning_rate": 3e-4}
    queue: list[dict[str, Any]] = [{"structure": NONE, "finish": f} for f in space.finishes]
    for structure in space.structures:
        if structure in (NONE, "subnet") or structure in stated:
            continue
        mine = {n: middle[n] for n in NUMBERS[structure]}
        queue.append({**mine, "structure": structure, "finish": space.quantised, **LOOSE})
    return queue


def subnets(model: Model, space: Space, widths: Sequence[tuple[int, float]]) -> list[dict[str, Any]]:
    """A trial in int8 for each sub-network, given as its depth and width; at the learning rate of model.yaml's `subnet`."""
    rate = model.techniques.get("subnet", {}).get("learning_rate", 3e-4)
    common = {"structure": "subnet", "finish": space.quantised, "learning_rate": rate, **LOOSE}
    return [{**common, "width": w, **({"depth": d} if space.layers >= 2 else {})} for d, w in widths]


#: The finishes in which a structure that was worth measuring is measured too.
OTHERWISE = ("int8", NONE, "int8-weights")


def finished_otherwise(space: Space, params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The same structure with the other finishes that are worth a look: it is not trained again for them."""
    there = (f for f in OTHERWISE if f in space.finishes)
    return [{**params, "finish": f, **LOOSE} for f in there if f != params["finish"]]
