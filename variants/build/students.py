"""Smaller students cut out of the reference: fewer of its repeated layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from variants.errors import BuildError


def blocks(module: Any, least: int = 2) -> tuple[str, Any] | None:
    """Name and value of the `ModuleList` that holds a module's repeated layers: the one with most parameters among
    those of at least so many entries of one class. None where there is none."""
    import torch

    best: tuple[int, str, Any] | None = None
    for name, child in module.named_modules():
        if not isinstance(child, torch.nn.ModuleList) or len(child) < least or len({type(c) for c in child}) != 1:
            continue
        size = sum(p.numel() for p in child.parameters())
        if best is None or size > best[0]:
            best = (size, name, child)
    return None if best is None else best[1:]


def keep_layers(module: Any, name: str, keep: Sequence[int]) -> Any:
    """Leave only these entries of the `ModuleList` of that name, in place."""
    import torch

    where, _, last = name.rpartition(".")
    owner = module.get_submodule(where)
    layers = getattr(owner, last)
    setattr(owner, last, torch.nn.ModuleList(layers[i] for i in keep))
    return module


def choose_layers(model: str, name: str, count: int, wanted: int | Sequence[int]) -> list[int]:
    """Which layers of `count` a student keeps: those listed, or so many spread from the first to the last."""
    if isinstance(wanted, int):
        if not 1 <= wanted <= count:
            raise BuildError(f"{model}: techniques.{name}.layers: {wanted}; the reference has {count} layers")
        return [round(i * (count - 1) / max(1, wanted - 1)) for i in range(wanted)]
    bad = [i for i in wanted if not isinstance(i, int) or not 0 <= i < count]
    if bad or not wanted:
        raise BuildError(
            f"{model}: techniques.{name}.layers: {list(wanted)}; indices from 0 to {count - 1} are accepted"
        )
    return list(wanted)
