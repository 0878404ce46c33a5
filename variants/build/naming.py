"""Variants as `model.yaml` and the command line name them: techniques joined by `+`, and the parameters that each takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from variants.build.context import Context
from variants.catalog import Model
from variants.errors import BuildError

REFERENCE = "fp32"
#: What every technique takes.
COMMON = ("max_distance", "engine")
TRAINING = (
    "minutes", "steps", "seed", "learning_rate", "batch", "checkpoint_seconds", "data", "mask", "hidden", "attention", "labels",
)  # fmt: skip
#: Parameters of each technique, besides those that all take.
PARAMETERS: Mapping[str, tuple[str, ...]] = {
    REFERENCE: ("compute_capability", "library"),
    "fp16": (),
    "bf16": (),
    "bf16-hint": (),
    "one-stream": (),
    "int8": ("tolerance", "samples", "ignored"),
    "int8-weights": ("ignored",),
    "int4-weights": ("group_size", "ratio", "ignored", "all_layers", "samples"),
    "prune": ("ratio", "targets", "keep", "heads", *TRAINING),
    "sparse24": ("keep", *TRAINING),
    "low-rank": ("energy", "rank_ratio", "speedup", "keep", *TRAINING),
    "compact": ("layers", "keep", *TRAINING),
    "distil": ("student", "layers", *TRAINING),
    "deit": ("token", "positions", "block", "norm", "head", *TRAINING),
    "subnet": ("depth", "width", "weights", "heads", *TRAINING),
    "vocabulary": ("unknown", "input", "data", "keep"),
    "torch": ("precision",),
    "tensorrt": ("compute_capabilities",),
    "tensorrt-rtx": ("compute_capabilities",),
}


def plan(model: Model, techniques: Sequence[str] | None) -> list[str]:
    """The names to build, every parent before what derives from it. Raises BuildError for an unknown technique."""
    wanted: list[str] = []
    for name in techniques or model.build:
        chain: list[str] = []
        current: str | None = name
        while current:
            technique_of(model, current)
            chain.append(current)
            current = parent_of(current)
        wanted += [n for n in reversed(chain) if n not in wanted]
    return wanted


def technique_of(model: Model, name: str) -> str:
    """The technique that makes a composed name's variant from its parent: its last part, or what
    `techniques.<last part>.technique` says, so that one technique may be used with several parameters.

    Raises BuildError for an unknown one.
    """
    last = name.rpartition("+")[2]
    technique = str(model.techniques.get(last, {}).get("technique", last))
    if technique not in PARAMETERS:
        raise BuildError(
            f"{model.name}: unknown technique {technique!r} in {name!r}; there are {', '.join(PARAMETERS)}, and names "
            "under `techniques` that say `technique: …`"
        )
    return technique


def parameters_of(model: Model, name: str) -> dict[str, Any]:
    """The parameters of a composed name: of that name, else of its last part."""
    found = model.techniques.get(name, model.techniques.get(name.rpartition("+")[2], {}))
    return {key: value for key, value in found.items() if key != "technique"}


def parent_of(name: str) -> str | None:
    """The name of the variant that a composed name derives from; None for the reference."""
    if name == REFERENCE:
        return None
    return name.rpartition("+")[0] or REFERENCE


def stored_name(name: str) -> str:
    """The folder's name of a composed name."""
    return name.replace("+", "-")


def unknown_parameters(context: Context, technique: str) -> str | None:
    """What is wrong with the names of a request's parameters, in a sentence; None where the technique takes them all."""
    taken = (*PARAMETERS[technique], *COMMON)
    unknown = sorted(set(context.parameters) - set(taken))
    if not unknown:
        return None
    where = f"{context.model.name}: {context.name}: techniques.{context.name}"
    return f"{where}: no parameter {', '.join(unknown)}; {technique} takes {', '.join(taken)}"
