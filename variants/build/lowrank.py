"""Low-rank factorisation: a linear layer becomes two by SVD, a convolution three by Tucker-2, and the module recovers.

The rank keeps a share of the energy (the squared singular values); a layer is replaced only where its factors measured
faster on this machine. Sources: Eckart, Young (1936); Kim et al., "Compression of Deep Convolutional Neural Networks for
Fast and Low Power Mobile Applications" (2015).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from variants.build.context import Context, Draft
from variants.build.export import example
from variants.build.layers import spatial
from variants.build.modules import load_module, module_draft
from variants.build.recovery import teach
from variants.catalog import Variant
from variants.errors import BuildError

ROUND = 8
SMALLEST = 32
REPEATS = 15


def low_rank(context: Context, parent: Variant | None) -> Draft:
    """Factorise the layers of the parent's module.

    Parameters: `energy` (0.9), or `rank_ratio` (that share of the full rank instead); `speedup` (1.05: a layer's factors
    must measure that much faster; 0 takes all that have fewer weights); `keep` (names of layers left alone); and those of
    `distil` for the recovery. Raises BuildError when no layer gains.
    """
    energy, ratio = float(context.parameter("energy", 0.9)), float(context.parameter("rank_ratio", 0.0))
    speedup = float(context.parameter("speedup", 1.05))
    if not 0.0 < energy <= 1.0 or not 0.0 <= ratio < 1.0:
        raise BuildError(
            f"{context.model.name}: techniques.{context.name}: energy must be in (0, 1] and rank_ratio in [0, 1); "
            f"they are {energy} and {ratio}"
        )
    module, recipe = load_module(context, parent)
    ranks, passed = choose(context, module, energy, ratio, speedup)
    if not ranks:
        why = "; ".join(f"{n}: {r}" for n, r in list(passed.items())[:3]) or "no layer is large enough"
        raise BuildError(f"{context.model.name}: {context.name}: no layer gains from low rank ({why})")
    before = sum(p.numel() for p in module.parameters())
    for name, rank in ranks.items():
        factors = factorise(module.get_submodule(name), rank)
        _set(module, name, factors)
    recipe = recipe.then("low-rank", ranks=ranks)
    count, report = teach(context, parent, module, structure=recipe.model_dump_json())
    after = sum(p.numel() for p in module.parameters())
    used = {"energy": energy, "ranks": ranks, "left": passed, "parameters": [before, after], **report}
    return module_draft(context, parent, "low-rank", module, recipe, samples=count, used=used)


def choose(
    context: Context, module: Any, energy: float, ratio: float, speedup: float
) -> tuple[dict[str, list[int]], dict[str, str]]:
    """Ranks of the layers that gain (one for a linear layer, two for a convolution), and why others were left."""
    import torch

    kept = set(context.parameter("keep", []))
    inputs = _inputs(context, module)
    ranks: dict[str, list[int]] = {}
    passed: dict[str, str] = {}
    for name, layer in module.named_modules():
        if name in kept or name not in inputs or not _eligible(layer):
            continue
        rank = _ranks(layer, energy, ratio)
        factors = factorise(layer, rank)
        sizes = [sum(p.numel() for p in m.parameters()) for m in (layer, factors)]
        if sizes[1] >= sizes[0]:
            passed[name] = f"rank {rank} needs {sizes[1]} weights, the layer has {sizes[0]}"
            continue
        if speedup > 0:
            with torch.no_grad():
                gain = _seconds(layer, inputs[name]) / _seconds(factors, inputs[name])
            if gain < speedup:
                passed[name] = f"rank {rank} measured {gain:.2f} times as fast"
                continue
        ranks[name] = rank
    return ranks, passed


def _eligible(layer: Any) -> bool:
    import torch

    if isinstance(layer, torch.nn.Linear):
        return min(layer.weight.shape) >= SMALLEST
    return spatial(layer) and min(layer.weight.shape[:2]) >= SMALLEST


def _inputs(context: Context, module: Any) -> dict[str, Any]:
    """What each layer gets on the example."""
    import torch

    seen: dict[str, Any] = {}
    handles = []
    for name, layer in module.named_modules():
        if _eligible(layer):
            handles.append(layer.register_forward_pre_hook(_keeper(seen, name)))
    with torch.no_grad():
        module.eval()(*(torch.from_numpy(a) for a in example(context).values()))
    for handle in handles:
        handle.remove()
    return seen


def _keeper(seen: dict[str, Any], name: str) -> Any:
    def keep(_: Any, arguments: tuple[Any, ...]) -> None:
        seen[name] = arguments[0].detach().clone()

    return keep


def _ranks(layer: Any, energy: float, ratio: float) -> list[int]:
    weight = layer.weight.detach()
    unfolded = [weight] if weight.dim() == 2 else [weight.flatten(1), weight.transpose(0, 1).flatten(1)]
    return [_rank(matrix, energy, ratio) for matrix in unfolded]


def _rank(matrix: Any, energy: float, ratio: float) -> int:
    """The least rank that keeps the energy, or that share of the full rank, rounded up to a multiple of 8."""
    import torch

    full = min(matrix.shape)
    if ratio > 0:
        rank = ratio * full
    else:
        values = torch.linalg.svdvals(matrix.double()) ** 2
        rank = int((torch.cumsum(values, 0) / values.sum() < energy).sum()) + 1
    return int(min(full, max(ROUND, -(-int(rank) // ROUND) * ROUND)))


def factorise(layer: Any, rank: list[int]) -> Any:
    """Layers in sequence that compute nearly what one does. Rank: [r] for a linear layer, [out, in] for a convolution."""
    import torch

    parts = skeleton(layer, rank)
    weight = layer.weight.detach().double()
    with torch.no_grad():
        if weight.dim() == 2:
            u, s, v = torch.linalg.svd(weight, full_matrices=False)
            root = s[: rank[0]].sqrt()
            parts[0].weight.copy_(root[:, None] * v[: rank[0]])
            parts[1].weight.copy_(u[:, : rank[0]] * root)
        else:
            outer = torch.linalg.svd(weight.flatten(1), full_matrices=False)[0][:, : rank[0]]
            inner = torch.linalg.svd(weight.transpose(0, 1).flatten(1), full_matrices=False)[0][:, : rank[1]]
            parts[0].weight.copy_(inner.T.reshape(parts[0].weight.shape))
            parts[1].weight.copy_(torch.einsum("oi...,or,is->rs...", weight, outer, inner))
            parts[2].weight.copy_(outer.reshape(parts[2].weight.shape))
        if layer.bias is not None:
            parts[-1].bias.copy_(layer.bias)
    return parts


def skeleton(layer: Any, rank: list[int]) -> Any:
    """The layers that replace one, with weights of their own."""
    from torch import nn

    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        first = nn.Linear(layer.in_features, rank[0], bias=False)
        return nn.Sequential(first, nn.Linear(rank[0], layer.out_features, bias=bias))
    kind = type(layer)
    core = kind(rank[1], rank[0], layer.kernel_size, layer.stride, layer.padding, layer.dilation, bias=False)
    return nn.Sequential(
        kind(layer.in_channels, rank[1], 1, bias=False), core, kind(rank[0], layer.out_channels, 1, bias=bias)
    )


def replace(module: Any, ranks: Mapping[str, list[int]]) -> Any:
    """Replace layers by their factors' structure, in place; the weights are to be loaded."""
    for name, rank in ranks.items():
        _set(module, name, skeleton(module.get_submodule(name), rank))
    return module


def _set(module: Any, name: str, layer: Any) -> None:
    where, _, last = name.rpartition(".")
    setattr(module.get_submodule(where), last, layer)


def _seconds(layer: Any, value: Any) -> float:
    """The fastest of several calls, which is the least disturbed one."""
    best = float("inf")
    for _ in range(REPEATS):
        started = time.perf_counter()
        layer(value)
        best = min(best, time.perf_counter() - started)
    return best
