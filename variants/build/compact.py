"""Compact layers: standard convolutions become depthwise-separable ones, and the module recovers by distillation.

Each input channel's kernels are approximated by one spatial kernel and a weight for each output (their best rank-one
approximation), so the recovery starts from what the convolution computed. Source: Howard et al., "MobileNets" (2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from variants.build.context import Context, Draft
from variants.build.layers import convolution, spatial
from variants.build.modules import load_module, module_draft
from variants.build.recovery import teach
from variants.catalog import Variant
from variants.errors import BuildError

SMALLEST = 16


def compact(context: Context, parent: Variant | None) -> Draft:
    """Replace convolutions of the parent's module.

    Parameters: `layers` (names; default: all with a kernel above 1x1 and at least 16 input channels), `keep` (names left
    alone), and those of `distil` for the recovery (`minutes`: 1.0). Raises BuildError when there is none to replace.
    """
    module, recipe = load_module(context, parent)
    there = {n: m for n, m in module.named_modules() if convolution(m)}
    wanted = context.parameter("layers", [])
    unknown = sorted(set(wanted) - set(there))
    if unknown:
        raise BuildError(
            f"{context.model.name}: techniques.{context.name}.layers: no convolution {', '.join(unknown)}; "
            f"there are {', '.join(there) or 'none'}"
        )
    kept = set(context.parameter("keep", []))
    names = [n for n in (wanted or standard(module)) if n not in kept and spatial(there[n])]
    if not names:
        raise BuildError(f"{context.model.name}: {context.name}: no standard convolution to replace")
    before = sum(p.numel() for p in module.parameters())
    for name in names:
        _set(module, name, separable(there[name]))
    recipe = recipe.then("separable", layers=names)
    count, report = teach(context, parent, module, minutes=1.0, learning_rate=1e-3, structure=recipe.model_dump_json())
    after = sum(p.numel() for p in module.parameters())
    used = {"layers": names, "parameters": [before, after], **report}
    return module_draft(context, parent, "compact", module, recipe, samples=count, used=used)


def standard(module: Any) -> dict[str, Any]:
    """A module's convolutions that are replaced unless a request names others, by name."""
    return {n: m for n, m in module.named_modules() if spatial(m) and m.in_channels >= SMALLEST}


def separable(layer: Any) -> Any:
    """The depthwise-separable layers nearest to a convolution."""
    import torch

    parts = skeleton(layer)
    weight = layer.weight.detach().double()
    kernels = weight.transpose(0, 1).flatten(2)  # in, out, places of the kernel
    u, s, v = torch.linalg.svd(kernels, full_matrices=False)
    with torch.no_grad():
        parts[0].weight.copy_(v[:, 0].reshape(parts[0].weight.shape))
        parts[1].weight.copy_((u[:, :, 0] * s[:, :1]).T.reshape(parts[1].weight.shape))
        if layer.bias is not None:
            parts[1].bias.copy_(layer.bias)
    return parts


def skeleton(layer: Any) -> Any:
    """The layers that replace one, with weights of their own."""
    from torch import nn

    kind = type(layer)
    depthwise = kind(
        layer.in_channels,
        layer.in_channels,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        groups=layer.in_channels,
        bias=False,
    )
    return nn.Sequential(depthwise, kind(layer.in_channels, layer.out_channels, 1, bias=layer.bias is not None))


def replace(module: Any, layers: Sequence[str]) -> Any:
    """Replace convolutions by the structure of separable ones, in place; the weights are to be loaded."""
    for name in layers:
        _set(module, name, skeleton(module.get_submodule(name)))
    return module


def _set(module: Any, name: str, layer: Any) -> None:
    where, _, last = name.rpartition(".")
    setattr(module.get_submodule(where), last, layer)
