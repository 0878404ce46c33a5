"""A distillation token for vision transformers: a second token beside the class token that learns the teacher's decision.

Source: Touvron et al., "Training data-efficient image transformers & distillation through attention" (2020). In
training the module returns both tokens' scores, in use their mean.
"""

from __future__ import annotations

import copy
from typing import Any

from variants.build.context import Context, Draft
from variants.build.modules import load_module, module_draft, restructure
from variants.build.recovery import teach
from variants.catalog import Variant
from variants.errors import BuildError

PARTS = ("token", "positions", "block", "norm", "head")


def deit(context: Context, parent: Variant | None) -> Draft:
    """Give the parent's vision transformer a distillation token and train it.

    Parameters: names of its parts: `token` (the class token's parameter, [1, 1, width]), `positions` (the position
    embedding's, [1, tokens, width]), `block` (the last block, whose output is [batch, tokens, width]), `norm` and `head`
    (applied to the class token); and those of `distil` for the training. Raises BuildError for a part that is not there.
    """
    module, recipe = load_module(context, parent)
    step = {part: context.parameter(part, "") for part in PARTS}
    for part, name in step.items():
        if not name:
            raise BuildError(
                f"{context.model.name}: techniques.{context.name}.{part} is missing (a name in the module)"
            )
    try:
        module = restructure(module, {"kind": "distillation-token", **step})
    except AttributeError as error:
        raise BuildError(f"{context.model.name}: techniques.{context.name}: {error}") from error
    recipe = recipe.then("distillation-token", **step)
    count, report = teach(context, parent, module, minutes=1.0, structure=recipe.model_dump_json())
    return module_draft(context, parent, "deit", module, recipe, samples=count, used={**step, **report})


def add_token(module: Any, token: str, positions: str, block: str, norm: str, head: str) -> Any:
    """The module around a vision transformer that has one token more. The new token, its position and its head start as
    copies of the class token's. Raises AttributeError for a part that is not there."""
    import torch

    _lengthen(module, token)
    _lengthen(module, positions)

    seen: list[torch.Tensor] = []
    module.get_submodule(block).register_forward_hook(lambda _, __, out: seen.append(out))

    class WithToken(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = module
            self.distilled = copy.deepcopy(module.get_submodule(head))

        def forward(self, *inputs: torch.Tensor) -> Any:
            """Both scores in training, their mean in use."""
            seen.clear()
            scores = self.net(*inputs)
            other = self.distilled(self.net.get_submodule(norm)(seen.pop()[:, 1]))
            return (scores, other) if self.training else (scores + other) / 2

    return WithToken()


def _lengthen(module: Any, name: str) -> None:
    """Repeat a token parameter's first token: [1, n, width] -> [1, n + 1, width]."""
    import torch

    where, _, last = name.rpartition(".")
    owner = module.get_submodule(where)
    value = getattr(owner, last).detach()
    setattr(owner, last, torch.nn.Parameter(torch.cat([value[:, :1], value], 1)))
