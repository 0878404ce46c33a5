"""A weight-sharing super-network: one module trained once at many depths and widths, out of which smaller ones are cut.

Depth: some of its repeated layers are passed over. Width: the less important channels, heads and feed-forward units are
masked where they are used, which computes what the cut module would. Sub-networks are sampled while it is trained, and
scored without training of their own. Sources: Pham et al., "ENAS" (2018); Cai et al., "Once-for-All" (2019).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from variants.build.context import Context, Draft
from variants.build.export import example
from variants.build.layers import convolution
from variants.build.losses import call, lesson
from variants.build.modules import Recipe, load_module, module_draft
from variants.build.prune import candidates, importance, left, removable, remove, users_of
from variants.build.recovery import teach
from variants.build.students import blocks, choose_layers, keep_layers
from variants.build.training import Batch, Trained, groups, schedule, train, training_data
from variants.catalog import Variant
from variants.data import inside
from variants.errors import BuildError

WIDTHS = (1.0, 0.75, 0.5, 0.25)
#: Batches that set batch normalisation's statistics for a sub-network.
NORM_BATCHES = 8


@dataclass(frozen=True)
class Choice:
    """A sub-network: how many of the repeated layers, and which share of every width."""

    depth: int
    width: float

    def cost(self, layers: int) -> float:
        """Its size as a share of the whole, roughly."""
        return (self.depth / layers if layers else 1.0) * self.width


class Elastic:
    """A module with elastic depth and width; what its code does not let shrink stays as it is."""

    def __init__(self, context: Context, module: Any) -> None:
        import torch

        self.module, self._context = module, context
        self._arguments = tuple(torch.from_numpy(a) for a in example(context).values())
        found = blocks(module)
        self._list_name: str = found[0] if found else ""
        self._layers: Any = found[1] if found else ()
        self.layers = len(self._layers)
        self._orders: list[tuple[Any, Any]] = []
        self._user_cache: dict[str, list[Any]] = {}
        for candidate in candidates(context, module, self._arguments):
            order = np.argsort(-importance(module, self._arguments, candidate), kind="stable")
            if removable(module, self._arguments, candidate, order[left(candidate, 0.5) :]):
                self._orders.append((candidate, order))
        if not self._orders and self.layers < 2:
            raise BuildError(f"{context.model.name}: {context.name}: neither depth nor width of the module is elastic")

    def choices(self) -> list[Choice]:
        """Every sub-network, the whole first, the smallest last."""
        depths = range(self.layers, 0, -1) if self.layers >= 2 else (self.layers,)
        widths = WIDTHS if self._orders else (1.0,)
        return [Choice(d, w) for d in depths for w in widths]

    @contextmanager
    def active(self, choice: Choice) -> Iterator[Any]:
        """The module as a sub-network while the context lasts; gradients reach the shared weights."""
        handles = []
        for candidate, order in self._orders:
            keep = np.zeros(candidate.parts, np.float32)
            keep[order[: left(candidate, 1.0 - choice.width)]] = 1.0
            mask = np.repeat(keep, candidate.width)
            handles += [u.register_forward_pre_hook(_masker(mask)) for u in self._users(candidate)]
        kept = set(self._kept(choice))
        passed = [layer for i, layer in enumerate(self._layers) if i not in kept]
        originals = [layer.forward for layer in passed]
        for layer in passed:
            layer.forward = lambda x, *_, **__: x
        try:
            yield self.module
        finally:
            for layer, forward in zip(passed, originals, strict=True):
                layer.forward = forward
            for handle in handles:
                handle.remove()

    def _users(self, candidate: Any) -> list[Any]:
        if candidate.layer not in self._user_cache:
            self._user_cache[candidate.layer] = users_of(self.module, self._arguments, candidate)
        return self._user_cache[candidate.layer]

    def _kept(self, choice: Choice) -> list[int]:
        if self.layers < 2:
            return list(range(self.layers))
        return choose_layers(self._context.model.name, self._context.name, self.layers, choice.depth)

    def cut(self, choice: Choice, recipe: Recipe) -> tuple[Any, Recipe]:
        """The sub-network as a module of its own, with the super-network's weights, and its recipe."""
        module = copy.deepcopy(self.module)
        before = {n: tuple(t.shape) for n, t in module.state_dict().items()}
        for candidate, order in self._orders:
            gone = order[left(candidate, 1.0 - choice.width) :]
            if len(gone):
                remove(module, self._arguments, candidate, gone)
        changed = {n: list(t.shape) for n, t in module.state_dict().items() if tuple(t.shape) != before[n]}
        if changed:
            recipe = recipe.then("resize", shapes=changed)
        kept = self._kept(choice)
        if len(kept) < self.layers:
            module = keep_layers(module, self._list_name, kept)
            recipe = recipe.then("layers", name=self._list_name, keep=kept)
        return module.eval(), recipe


def train_supernet(context: Context, elastic: Elastic, *, minutes: float = 1.0) -> Trained:
    """Train the shared weights: every fourth step the whole or the smallest sub-network, else a random one, each taught
    by the reference. Parameters as for `distil`; a killed training resumes."""
    plan = schedule(context, minutes=minutes, learning_rate=2e-4)
    data, count = training_data(context)
    batches = groups(context, data, plan.batch)
    taught = lesson(context, elastic.module, batches)
    choices = elastic.choices()
    step = 0

    def loss(index: int) -> Any:
        nonlocal step
        pick = np.random.default_rng((plan.seed, index, step)).integers(len(choices))
        choice = choices[0] if step % 8 == 0 else choices[-1] if step % 8 == 4 else choices[pick]
        step += 1
        with elastic.active(choice):
            return taught.loss(index)

    return train(context, plan, elastic.module, batches, loss, identity=f"supernet {count}", extra=taught.extra)


def score(
    context: Context, elastic: Elastic, choices: Sequence[Choice], batches: Sequence[Batch], quality: Any
) -> list[tuple[Choice, float]]:
    """Each sub-network's quality (`quality(outputs by name)`) on the batches, without training of its own."""
    import torch

    scored = []
    for index, choice in enumerate(choices):
        # Statistics of batch normalisation belong to a sub-network, not to the shared weights.
        state = {n: t.clone() for n, t in elastic.module.state_dict().items()}
        with elastic.active(choice) as module, torch.no_grad():
            set_norms(context, module, batches)
            parts = [call(context, module, b) for b in batches]
        elastic.module.load_state_dict(state)
        names = [s.name for s in context.model.outputs]
        outputs = {n: np.concatenate([p[i].numpy() for p in parts]) for i, n in enumerate(names)}
        scored.append((choice, float(quality(outputs))))
        context.progress(f"score {index + 1} of {len(choices)} sub-networks", (index + 1) / len(choices))
    return scored


def set_norms(context: Context, module: Any, batches: Sequence[Batch]) -> None:
    """Give batch normalisation the statistics of these batches; a module without it is left alone."""
    import torch

    norms = [m for m in module.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
        norm.train()
    for batch in batches[:NORM_BATCHES]:
        call(context, module, batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def subnet(context: Context, parent: Variant | None) -> Draft:
    """Cut a sub-network out of the parent's module and fine-tune it.

    Parameters: `depth` (layers kept; all), `width` (share of channels, heads and units kept; 1.0), `weights` (a
    safetensors file of a trained super-network of that module; default: the module's own), and those of `distil`.
    """
    module, recipe = load_module(context, parent)
    weights = context.parameter("weights", "")
    if weights:
        module.load_state_dict(_read(context, inside(context.folder, weights)))
    elastic = Elastic(context, module)
    choice = Choice(context.parameter("depth", elastic.layers), float(context.parameter("width", 1.0)))
    if not 0.0 < choice.width <= 1.0:
        raise BuildError(f"{context.model.name}: techniques.{context.name}.width: {choice.width}; (0, 1] is accepted")
    before = sum(p.numel() for p in module.parameters())
    small, recipe = elastic.cut(choice, recipe)
    data, _ = training_data(context)
    set_norms(context, small, groups(context, data, 32))
    count, report = teach(context, parent, small, structure=recipe.model_dump_json() + weights)
    after = sum(p.numel() for p in small.parameters())
    used = {"depth": choice.depth, "width": choice.width, "weights": weights, "parameters": [before, after], **report}
    packages = ("torch", "torch-pruning")
    return module_draft(context, parent, "subnet", small, recipe, samples=count, packages=packages, used=used)


def _read(context: Context, path: Path) -> Any:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, ValueError) as error:
        raise BuildError(f"{context.model.name}: techniques.{context.name}.weights: {path}: {error}") from error


def _masker(mask: Any) -> Any:
    """A hook that zeroes a layer's masked input channels; a layer after a flatten has several inputs for each."""
    import torch

    tensor = torch.from_numpy(mask)

    def apply(layer: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        value = arguments[0]
        axis = 1 if convolution(layer) else value.dim() - 1
        wide = tensor.repeat_interleave(value.shape[axis] // len(tensor))
        shape = [1] * value.dim()
        shape[axis] = -1
        return (value * wide.reshape(shape), *arguments[1:])

    return apply
