"""What a student is taught: the reference's outputs, and on request its hidden states and its attention.

Sources: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network" (2015) for outputs; Jiao et al., "TinyBERT"
(2019) for hidden states (through a learned projection where widths differ) and attention; Touvron et al., "Training
data-efficient image transformers" (2020) for the distillation token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from variants import engines
from variants.build.context import Context
from variants.build.modules import load_module
from variants.build.students import blocks
from variants.build.training import Batch
from variants.catalog import Variant
from variants.data import LABEL
from variants.device import default_threads
from variants.engines.base import Array, LoadRequest
from variants.errors import BuildError
from variants.quality import concatenate
from variants.repository import load_catalog, variant_folder

if TYPE_CHECKING:
    import torch

TEMPERATURE = 2.0
#: Epochs of teacher outputs are kept up to this many bytes.
KEEP_BYTES = 1 << 30


@dataclass(frozen=True)
class Weights:
    """Weights of the parts of the loss: outputs always count 1."""

    hidden: float = 0.0
    attention: float = 0.0
    labels: float = 0.0

    @property
    def inner(self) -> bool:
        """Whether the teacher must run as a torch module beside the student."""
        return self.hidden > 0 or self.attention > 0


@dataclass
class Lesson:
    """The loss of a student on batch i, and the modules that are trained beside it and thrown away."""

    loss: Callable[[int], torch.Tensor]
    extra: list[Any] = field(default_factory=list)
    teacher: str = ""


def lesson(context: Context, student: Any, batches: Sequence[Batch]) -> Lesson:
    """The loss that a technique's parameters `hidden` (0.0), `attention` (0.0) and `labels` (0.0) ask for.

    The teacher is the model's reference variant. Raises BuildError where there is none, or where hidden states or
    attention are asked for and the modules have none.
    """
    weights = Weights(*(float(context.parameter(name, 0.0)) for name in ("hidden", "attention", "labels")))
    teacher = reference(context)
    if weights.labels > 0 and any(LABEL not in b for b in batches):
        raise BuildError(
            f"{context.model.name}: {context.name}: labels has a weight, but the data has no array `{LABEL}`"
        )
    if weights.inner:
        return _inner(context, teacher, student, batches, weights)
    outputs = Outputs(context, teacher, batches)

    def loss(index: int) -> Any:
        values = call(context, student, batches[index])
        return output_loss(context, values, outputs[index]) + _label_loss(values, batches[index], weights.labels)

    return Lesson(loss, teacher=teacher.name)


def reference(context: Context) -> Variant:
    """The model's reference variant. Raises BuildError when it is not built."""
    entry = load_catalog(context.folder.parent).entries.get(context.model.name)
    found = next((v for v in entry.variants.values() if v.lineage.parent is None), None) if entry else None
    if found is None:
        raise BuildError(f"{context.model.name}: {context.name}: needs the reference as its teacher; build fp32 first")
    return found


class Outputs:
    """The teacher's outputs on each batch, computed by its own engine when first asked for and then kept."""

    def __init__(self, context: Context, teacher: Variant, batches: Sequence[Batch]) -> None:
        self._context, self._batches = context, batches
        folder = variant_folder(context.folder, teacher.name)
        self._engine = engines.load(LoadRequest(context.model, teacher, folder, threads=default_threads()))
        self._kept: dict[int, dict[str, Array]] = {}
        self._bytes = 0

    def __getitem__(self, index: int) -> dict[str, Array]:
        if index in self._kept:
            return self._kept[index]
        batch = {s.name: self._batches[index][s.name] for s in self._context.model.inputs}
        step = self._context.model.max_batch if self._context.model.batchable else 1
        count = len(next(iter(batch.values())))
        parts = [self._engine.infer({n: a[i : i + step] for n, a in batch.items()}) for i in range(0, count, step)]
        outputs = concatenate(parts)
        self._bytes += sum(a.nbytes for a in outputs.values())
        if self._bytes <= KEEP_BYTES:
            self._kept[index] = outputs
        return outputs


def call(context: Context, module: Any, batch: Batch) -> tuple[Any, ...]:
    """A module's outputs on a batch, in the order of `model.yaml`."""
    import torch

    raw = module(*(torch.from_numpy(batch[s.name]) for s in context.model.inputs))
    return tuple(raw) if isinstance(raw, (tuple, list)) else (raw,)


def output_loss(context: Context, values: Sequence[Any], targets: Mapping[str, Array]) -> torch.Tensor:
    """The sum over outputs of the loss that fits the model's metric: 1 - cosine, KL divergence at a temperature, or
    mean squared error by the target's variance. A module in training that returns one output more has a distillation
    token: the first output then learns softly and the second one the teacher's decision."""
    import torch
    from torch.nn import functional as f

    names = [s.name for s in context.model.outputs]
    if len(values) == 2 and len(names) == 1:
        target = torch.from_numpy(targets[names[0]])
        return 0.5 * one_loss(context.model.metric, values[0], target) + 0.5 * f.cross_entropy(
            values[1], target.argmax(-1)
        )
    if len(values) != len(names):
        raise BuildError(
            f"{context.model.name}: {context.name}: the student returns {len(values)} outputs, model.yaml has {len(names)}"
        )
    parts = []
    for name, value in zip(names, values, strict=True):
        target = torch.from_numpy(targets[name])
        if not value.is_floating_point():  # decisions follow from scores, and have no gradient
            continue
        if value.shape != target.shape:
            raise BuildError(
                f"{context.model.name}: {context.name}: the student's output {name!r} is {list(value.shape)}, the "
                f"reference's {list(target.shape)}"
            )
        parts.append(one_loss(context.model.metric, value, target))
    if not parts:
        raise BuildError(
            f"{context.model.name}: {context.name}: no output is in floating point, so a student cannot learn from them"
        )
    return torch.stack(parts).sum()


def one_loss(metric: str, value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The loss of one output."""
    from torch.nn import functional as f

    if metric == "cosine":
        return (1.0 - f.cosine_similarity(value.flatten(1), target.flatten(1))).mean()
    if metric == "top1":
        soft = f.softmax(target / TEMPERATURE, dim=-1)
        return f.kl_div(f.log_softmax(value / TEMPERATURE, dim=-1), soft, reduction="batchmean") * TEMPERATURE**2
    return f.mse_loss(value, target) / target.var(correction=0).clamp_min(1e-6)


def _label_loss(values: Sequence[Any], batch: Batch, weight: float) -> Any:
    import torch
    from torch.nn import functional as f

    if weight <= 0:
        return 0.0
    labels = torch.from_numpy(np.asarray(batch[LABEL]))
    if labels.dtype == torch.int64:
        return weight * f.cross_entropy(values[0], labels.reshape(-1))
    return weight * f.mse_loss(values[0], labels)


def _inner(context: Context, reference: Variant, student: Any, batches: Sequence[Batch], weights: Weights) -> Lesson:
    """Hidden states and attention, matched by depth: the last student layer learns from the last teacher layer."""
    import torch

    teacher, _ = load_module(context, reference)
    probe = {n: a[:2] for n, a in batches[0].items()}
    with torch.no_grad(), watching(teacher) as theirs:
        targets = call(context, teacher, probe)
    student.eval()
    with torch.no_grad(), watching(student) as mine:
        call(context, student, probe)
    for what, weight, found in (
        ("hidden", weights.hidden, (mine.hidden, theirs.hidden)),
        ("attention", weights.attention, (mine.attention, theirs.attention)),
    ):
        if weight > 0 and not all(found):
            who = "the student" if not found[0] else "the reference"
            raise BuildError(
                f"{context.model.name}: techniques.{context.name}.{what}: {who} has none that can be seen "
                "(repeated blocks in a ModuleList; softmax of four axes, or scaled_dot_product_attention)"
            )
    del targets
    pairs = depth_pairs(len(mine.hidden), len(theirs.hidden))
    projections = torch.nn.ModuleList(
        torch.nn.Identity()
        if mine.hidden[a].shape[-1] == theirs.hidden[b].shape[-1]
        else torch.nn.Linear(mine.hidden[a].shape[-1], theirs.hidden[b].shape[-1])
        for a, b in pairs
    )
    names = [s.name for s in context.model.outputs]

    def loss(index: int) -> Any:
        with torch.no_grad(), watching(teacher) as theirs:
            targets = call(context, teacher, batches[index])
        with watching(student) as mine:
            values = call(context, student, batches[index])
        total = output_loss(context, values, {n: t.numpy() for n, t in zip(names, targets, strict=True)})
        total = total + _label_loss(values, batches[index], weights.labels)
        if weights.hidden > 0:
            apart = [
                _relative(project(mine.hidden[a]), theirs.hidden[b])
                for project, (a, b) in zip(projections, pairs, strict=True)
            ]
            total = total + weights.hidden * torch.stack(apart).mean()
        if weights.attention > 0:
            matched = depth_pairs(len(mine.attention), len(theirs.attention))
            apart = [_relative(mine.attention[a], theirs.attention[b]) for a, b in matched]
            total = total + weights.attention * torch.stack(apart).mean()
        return total

    return Lesson(loss, [projections], reference.name)


def _relative(value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared error by the target's mean square. A student with another number of tokens (a distillation token)
    is compared on the teacher's first ones."""
    if value.dim() == target.dim() == 3 and value.shape[1] != target.shape[1]:
        value = value[:, : target.shape[1]]
    if value.dim() == target.dim() == 4 and value.shape != target.shape:
        value = value[:, :, : target.shape[2], : target.shape[3]]
    difference = (value - target).square().mean()
    return difference / target.square().mean().clamp_min(1e-9)


def depth_pairs(student: int, teacher: int) -> list[tuple[int, int]]:
    """Which teacher layer each student layer learns from, evenly, the last from the last."""
    return [(i, round((i + 1) * teacher / student) - 1) for i in range(student)]


@dataclass
class Seen:
    """Outputs of the repeated blocks, and attention probabilities averaged over heads, in order."""

    hidden: list[Any] = field(default_factory=list)
    attention: list[Any] = field(default_factory=list)


@contextmanager
def watching(module: Any) -> Iterator[Seen]:
    """What passes inside a module while the context lasts; gradients flow through it."""
    from torch.overrides import TorchFunctionMode

    seen = Seen()

    class Attention(TorchFunctionMode):  # type: ignore[misc, unused-ignore]
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            name = getattr(func, "__name__", "")
            if name == "softmax" and result.dim() == 4:
                seen.attention.append(result.mean(1, keepdim=True))
            elif name == "scaled_dot_product_attention":
                seen.attention.append(_probabilities(*args, **(kwargs or {})).mean(1, keepdim=True))
            return result

    def keep(_: Any, __: Any, output: Any) -> None:
        seen.hidden.append(output[0] if isinstance(output, (tuple, list)) else output)

    found = blocks(module, least=1)  # a student may have one layer left
    handles = [block.register_forward_hook(keep) for block in (found[1] if found else [])]
    try:
        with Attention():
            yield seen
    finally:
        for handle in handles:
            handle.remove()


def _probabilities(
    q: Any, k: Any, v: Any, attn_mask: Any = None, *_: Any, scale: float | None = None, **__: Any
) -> Any:
    scores = q @ k.transpose(-1, -2) * (scale if scale is not None else q.shape[-1] ** -0.5)
    if attn_mask is not None and attn_mask.dtype.is_floating_point:
        scores = scores + attn_mask
    elif attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    return scores.softmax(-1)
