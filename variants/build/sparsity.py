"""2:4 sparsity: of every four weights along a layer's input, the two smallest are zero, and stay so while it recovers.

Engines on CPU do not profit; NVIDIA GPUs from Ampere on do, through TensorRT (`sparse24+tensorrt`). Source: Mishra et
al., "Accelerating Sparse Deep Neural Networks" (2021).
"""

from __future__ import annotations

from typing import Any

from variants.build.context import Context, Draft
from variants.build.layers import kinds
from variants.build.modules import load_module, module_draft
from variants.build.recovery import teach
from variants.catalog import Variant
from variants.errors import BuildError


def sparse24(context: Context, parent: Variant | None) -> Draft:
    """Make every linear layer and convolution with a multiple of four inputs 2:4 sparse.

    Parameters: `keep` (names of layers left dense), and those of `distil` for the recovery. Raises BuildError when no
    layer qualifies.
    """
    import torch

    module, recipe = load_module(context, parent)
    dense = set(context.parameter("keep", []))
    masks: list[tuple[Any, Any]] = []
    names = []
    for name, layer in module.named_modules():
        if isinstance(layer, kinds()) and name not in dense and layer.weight.shape[1] % 4 == 0:
            masks.append((layer.weight, mask24(layer.weight.detach())))
            names.append(name)
    if not masks:
        raise BuildError(f"{context.model.name}: {context.name}: no layer has a multiple of four inputs")

    def apply() -> None:
        with torch.no_grad():
            for weight, mask in masks:
                weight.mul_(mask)

    apply()
    count, report = teach(context, parent, module, structure="2:4 " + " ".join(names), after_step=apply)
    used = {"layers": names, **report}
    return module_draft(context, parent, "sparse24", module, recipe, samples=count, used=used)


def mask24(weight: Any) -> Any:
    """1 for the two largest of every four weights along axis 1, else 0."""
    import torch

    flat = weight.movedim(1, -1)
    fours = flat.reshape(-1, 4)
    mask = torch.zeros_like(fours).scatter_(1, fours.abs().topk(2, dim=1).indices, 1.0)
    return mask.reshape(flat.shape).movedim(-1, 1)
