"""Structured pruning: whole channels, attention heads and feed-forward units are removed, then the module recovers.

What has to be removed together is found by torch-pruning's dependency graph (Fang et al., "DepGraph", 2023); what
matters least is found by the L2 norm of all weights of a group. Groups that reach the model's outputs stay.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from variants.build.context import Context, Draft
from variants.build.export import example
from variants.build.layers import convolution, kinds
from variants.build.modules import load_module, module_draft
from variants.build.recovery import teach
from variants.catalog import Variant
from variants.errors import BuildError

TARGETS = ("channels", "heads", "units")
#: Fewer channels or units than this are not left, and their number is a multiple of it where there are enough.
ROUND = 8


@dataclass(frozen=True)
class Candidate:
    """Something to prune: the layer that a group starts from, what it is, and how many parts (heads: whole heads)."""

    layer: str
    target: str
    parts: int
    width: int = 1
    fused: int = 1


def prune(context: Context, parent: Variant | None) -> Draft:
    """Remove a share of the parent module's channels, heads and units.

    Parameters: `ratio` (0.5: the share of each group that is removed), `targets` (any of `channels`, `heads`, `units`;
    all), `heads` (how many attention heads a layer has, where it cannot be seen), `keep` (names of layers left alone),
    and those of `distil` for the recovery (`minutes`: 0.5; 0 for none). What cannot be pruned because the module's code
    has its size written into it is skipped, and the lineage says so. Raises BuildError when nothing can be pruned.
    """
    ratio, targets = float(context.parameter("ratio", 0.5)), list(context.parameter("targets", list(TARGETS)))
    if not 0.0 < ratio < 1.0 or not targets or set(targets) - set(TARGETS):
        raise BuildError(
            f"{context.model.name}: techniques.{context.name}: ratio must be between 0 and 1 and targets among "
            f"{', '.join(TARGETS)}; they are {ratio} and {targets}"
        )
    module, recipe = load_module(context, parent)
    before = sum(p.numel() for p in module.parameters())
    shapes = {n: tuple(t.shape) for n, t in module.state_dict().items()}
    removed, skipped = cut(context, module, ratio, targets)
    after = sum(p.numel() for p in module.parameters())
    if not removed:
        why = "; ".join(f"{n}: {r}" for n, r in skipped.items()) or "no group of layers is free of the outputs"
        raise BuildError(f"{context.model.name}: {context.name}: nothing can be pruned ({why})")
    changed = {n: list(t.shape) for n, t in module.state_dict().items() if tuple(t.shape) != shapes[n]}
    recipe = recipe.then("resize", shapes=changed)
    count, report = teach(context, parent, module, structure=recipe.model_dump_json())
    used = {"ratio": ratio, "removed": removed, "skipped": skipped, "parameters": [before, after], **report}
    packages = ("torch", "torch-pruning")
    return module_draft(context, parent, "prune", module, recipe, samples=count, packages=packages, used=used)


def cut(context: Context, module: Any, ratio: float, targets: list[str]) -> tuple[dict[str, int], dict[str, str]]:
    """Prune a module in place; returns how many parts were removed for each layer, and what was skipped and why."""
    import torch

    arguments = tuple(torch.from_numpy(a) for a in example(context).values())
    kept_layers = set(context.parameter("keep", []))
    removed: dict[str, int] = {}
    skipped: dict[str, str] = {}
    for candidate in candidates(context, module, arguments):
        if candidate.target not in targets or candidate.layer in kept_layers:
            continue
        number = candidate.parts - left(candidate, ratio)
        if not 0 < number < candidate.parts:
            skipped[candidate.layer] = f"{candidate.parts} {candidate.target} are too few"
            continue
        least = np.argsort(importance(module, arguments, candidate), kind="stable")[:number]
        if not removable(module, arguments, candidate, least):
            skipped[candidate.layer] = (
                f"the module's code has its number of {candidate.target} written into it (use -1 in reshapes)"
            )
            continue
        remove(module, arguments, candidate, least)
        removed[candidate.layer] = number
    return removed, skipped


def removable(module: Any, arguments: tuple[Any, ...], candidate: Candidate, parts: Any) -> bool:
    """Whether a module still runs without these parts; it is left as it was."""
    import torch

    trial = copy.deepcopy(module)
    try:
        remove(trial, arguments, candidate, parts)
        with torch.no_grad():
            trial(*arguments)
    except Exception:
        return False
    return True


def prunable(context: Context, module: Any, arguments: tuple[Any, ...]) -> bool:
    """Whether half of anything in a module can be removed; it is left as it was."""
    halves = ((c, left(c, 0.5)) for c in candidates(context, module, arguments))
    return any(n < c.parts and removable(module, arguments, c, np.arange(n, c.parts)) for c, n in halves)


def candidates(context: Context, module: Any, arguments: tuple[Any, ...]) -> list[Candidate]:
    """What could be pruned, in the order of the dependency graph."""
    heads = _heads(context, module, arguments)
    found = []
    for group in _graph(module, arguments).get_all_groups(root_module_types=list(kinds())):
        root = group[0][0].target
        makers, users = _layers(group)
        if any("_OutputOp" in dep.target.name for dep, _ in group) or not users or _embeds(group):
            continue
        name, size = root.name.split(" ")[0], _outputs(root.module)
        inside = int(users[0].weight.shape[1])
        if convolution(root.module):
            found.append(Candidate(name, "channels", size))
        elif len(makers) == 1 and not any("Bmm" in d.target.name for d, _ in group):
            found.append(Candidate(name, "units", size))
        elif heads and inside % heads == 0 and size % inside == 0:
            found.append(Candidate(name, "heads", heads, inside // heads, size // inside))
    return found


def _graph(module: Any, arguments: tuple[Any, ...]) -> Any:
    import torch
    import torch_pruning

    module.eval()
    with torch.enable_grad():  # it follows autograd's graph
        return torch_pruning.DependencyGraph().build_dependency(module, example_inputs=arguments, verbose=False)


def _layers(group: Any) -> tuple[list[Any], list[Any]]:
    """A group's layers whose outputs are pruned, and those whose inputs are."""
    deps = [d for d, _ in group if isinstance(d.target.module, kinds())]
    makers = {id(d.target.module): d.target.module for d in deps if "out_channels" in d.handler.__name__}
    users = {id(d.target.module): d.target.module for d in deps if "in_channels" in d.handler.__name__}
    return list(makers.values()), list(users.values())


def _embeds(group: Any) -> bool:
    """Whether a group is (part of) a residual stream: embeddings, layer norms, parameters of their own."""
    import torch

    stream = (torch.nn.Embedding, torch.nn.LayerNorm, torch.nn.Parameter)
    return any(isinstance(d.target.module, stream) for d, _ in group)


def _outputs(layer: Any) -> int:
    return int(layer.weight.shape[0])


def _heads(context: Context, module: Any, arguments: tuple[Any, ...]) -> int:
    """Attention heads of a layer: as the parameter says, else as attention's shapes show; 0 without attention."""
    import torch
    from torch.overrides import TorchFunctionMode

    stated: int = context.parameter("heads", 0)
    if stated:
        return stated
    seen: set[int] = set()

    class Shapes(TorchFunctionMode):  # type: ignore[misc, unused-ignore]
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            name = getattr(func, "__name__", "")
            if name in ("softmax", "scaled_dot_product_attention") and result.dim() == 4:
                seen.add(int(result.shape[1]))
            return result

    with torch.no_grad(), Shapes():
        module(*arguments)
    return seen.pop() if len(seen) == 1 else 0


def importance(module: Any, arguments: tuple[Any, ...], candidate: Candidate) -> Any:
    """The squared L2 norm of all weights of each of a candidate's parts (float64, [parts])."""
    graph = _graph(module, arguments)
    layer = module.get_submodule(candidate.layer)
    everything = list(range(_outputs(layer)))
    makers, users = _layers(graph.get_pruning_group(layer, _handler(layer), idxs=everything))
    score = np.zeros(len(everything))
    for maker in makers:
        score += _norms(maker.weight, 0, len(everything))
    if candidate.fused > 1:
        score = score.reshape(candidate.fused, -1).sum(0)
    for user in users:
        score += _norms(user.weight, 1, len(score))
    return score.reshape(-1, candidate.width).sum(1)


def users_of(module: Any, arguments: tuple[Any, ...], candidate: Candidate) -> list[Any]:
    """The layers that take a candidate's parts as their inputs."""
    layer = module.get_submodule(candidate.layer)
    everything = list(range(_outputs(layer)))
    return _layers(_graph(module, arguments).get_pruning_group(layer, _handler(layer), idxs=everything))[1]


def left(candidate: Candidate, ratio: float) -> int:
    """How many parts are left when a share is removed: whole heads, multiples of 8 of anything else."""
    number = candidate.parts - int(candidate.parts * ratio)
    return number if candidate.target == "heads" else max(ROUND, number // ROUND * ROUND)


def remove(module: Any, arguments: tuple[Any, ...], candidate: Candidate, parts: Any) -> None:
    """Remove these parts (indices) from a module, in place."""
    import torch_pruning as tp

    layer = module.get_submodule(candidate.layer)
    channels = (np.sort(parts)[:, None] * candidate.width + np.arange(candidate.width)).reshape(-1)
    graph, everything = _graph(module, arguments), list(range(_outputs(layer)))
    if candidate.fused == 1:
        graph.get_pruning_group(layer, _handler(layer), idxs=channels.tolist()).prune()
        return
    makers, users = _layers(graph.get_pruning_group(layer, _handler(layer), idxs=everything))
    inside = len(everything) // candidate.fused
    for maker in makers:
        threefold = [channels + i * inside for i in range(candidate.fused)]
        tp.prune_linear_out_channels(maker, np.concatenate(threefold).tolist())
    for user in users:
        tp.prune_linear_in_channels(user, channels.tolist())


def _handler(layer: Any) -> Any:
    import torch_pruning as tp

    return tp.prune_conv_out_channels if convolution(layer) else tp.prune_linear_out_channels


def _norms(weight: Any, axis: int, parts: int) -> Any:
    """Squared norm of a weight for each of `parts` channels along an axis (a layer after a flatten has several inputs
    for each)."""
    import torch

    values = weight.detach().transpose(0, axis).reshape(parts, -1)
    return torch.sum(values.double() ** 2, dim=1).numpy()


def resize(module: Any, shapes: Mapping[str, list[int]]) -> Any:
    """Give parameters and buffers these shapes (their values are to be loaded), and their layers the sizes to match."""
    import torch

    for name, shape in shapes.items():
        where, _, last = name.rpartition(".")
        layer = module.get_submodule(where)
        old = getattr(layer, last)
        new = torch.zeros(shape, dtype=old.dtype)
        setattr(layer, last, torch.nn.Parameter(new) if isinstance(old, torch.nn.Parameter) else new)
        if last != "weight":
            continue
        if isinstance(layer, torch.nn.Linear):
            layer.out_features, layer.in_features = shape
        elif convolution(layer):
            depthwise = layer.groups > 1 and layer.groups == layer.out_channels
            layer.groups = shape[0] if depthwise else layer.groups
            layer.out_channels, layer.in_channels = shape[0], shape[1] * layer.groups
        elif isinstance(layer, torch.nn.LayerNorm):
            layer.normalized_shape = tuple(shape)
        elif isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            layer.num_features = shape[0]
    return module
