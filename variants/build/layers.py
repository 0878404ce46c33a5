"""Which layers of a torch module the techniques that change modules know: linear ones, and convolutions over 1 or 2 axes."""

from __future__ import annotations

from typing import Any


def convolution(layer: Any) -> bool:
    """Whether a layer is a convolution that can be changed."""
    import torch

    return isinstance(layer, (torch.nn.Conv1d, torch.nn.Conv2d))


def spatial(layer: Any) -> bool:
    """Whether a layer is a standard convolution: over all its inputs, with a kernel above 1, zeros beyond the edge."""
    if not convolution(layer):
        return False
    return layer.groups == 1 and any(k > 1 for k in layer.kernel_size) and layer.padding_mode == "zeros"


def kinds() -> tuple[type[Any], ...]:
    """The classes of layers that can be changed."""
    import torch

    return (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d)
