"""Training with a budget: minutes or steps, a seed, checkpoints that a killed build resumes from.

With `steps` a training is reproducible exactly on the same machine and libraries: the order of batches depends on the
seed and the step alone. With `minutes` the number of steps depends on the machine's speed.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from variants.build.context import Context
from variants.data import LABEL, check_data, load_data
from variants.device import default_threads
from variants.engines.base import Array
from variants.errors import BuildError

if TYPE_CHECKING:
    import torch

FOLDER = ".checkpoints"
WARMUP_SAMPLES = 500
#: A step that took longer than so many of the fastest one, and than a second, waited for something (a stopped process, a
#: frozen container): what is above that is not training time.
SLOWEST_STEP = 5.0
Batch = dict[str, Array]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train: `steps` if positive, else `minutes` of training time (the teacher's excluded)."""

    minutes: float
    steps: int
    seed: int
    learning_rate: float
    batch: int
    checkpoint_seconds: float

    def share(self, step: int, elapsed: float) -> float:
        """How much of the budget is spent, 1 and above when all is."""
        if self.steps > 0:
            return step / self.steps
        return elapsed / (self.minutes * 60.0) if self.minutes > 0 else 1.0


def schedule(context: Context, *, minutes: float, learning_rate: float) -> Schedule:
    """The schedule that a technique's parameters `minutes`, `steps`, `seed` (0), `learning_rate`, `batch` (32) and
    `checkpoint_seconds` (20) ask for. Raises BuildError for values that make no sense."""
    made = Schedule(
        minutes=float(context.parameter("minutes", minutes)),
        steps=context.parameter("steps", 0),
        seed=context.parameter("seed", 0),
        learning_rate=float(context.parameter("learning_rate", learning_rate)),
        batch=context.parameter("batch", 32),
        checkpoint_seconds=float(context.parameter("checkpoint_seconds", 20.0)),
    )
    if made.minutes < 0 or made.steps < 0 or made.batch < 1 or not made.learning_rate > 0:
        raise BuildError(
            f"{context.model.name}: techniques.{context.name}: minutes and steps must not be negative, batch and "
            f"learning_rate must be positive; they are {made.minutes}, {made.steps}, {made.batch}, {made.learning_rate}"
        )
    return made


def training_data(context: Context) -> tuple[dict[str, Array], int]:
    """Samples of the technique's parameter `data` (default: the calibration data), and how many. Raises BuildError."""
    spec = context.parameter("data", "")
    data = load_data(context.folder, spec) if spec else context.calibration
    return data, check_data(context.model, data, what=f"techniques.{context.name}.data" if spec else "data.calibration")


def groups(context: Context, data: Mapping[str, Array], size: int) -> list[Batch]:
    """Training batches, labels (if any) included. With the parameter `mask` (name of an attention mask), samples of
    similar length are together and trimmed to the longest of them, so that padding is neither taught nor learned."""
    mask = context.parameter("mask", "")
    names = [*(spec.name for spec in context.model.inputs), *([LABEL] if LABEL in data else [])]
    if mask and mask not in names:
        raise BuildError(
            f"{context.model.name}: techniques.{context.name}.mask: no input {mask!r}; there are {', '.join(names)}"
        )
    count = len(data[names[0]])
    lengths = data[mask].astype(np.int64).sum(axis=1) if mask else np.zeros(count, np.int64)
    order = np.argsort(lengths, kind="stable") if mask else np.arange(count)
    made = []
    for start in range(0, count, size):
        rows = order[start : start + size]
        longest = max(2, int(lengths[rows].max())) if mask else None
        width = data[mask].shape[1] if mask else -1
        cut = {n: data[n].ndim > 1 and data[n].shape[1] == width for n in names}
        made.append({n: np.ascontiguousarray(data[n][rows][:, :longest] if cut[n] else data[n][rows]) for n in names})
    # A batch of one breaks batch normalisation, and is no loss among others.
    return [g for g in made if len(g[names[0]]) > 1] or made


@dataclass(frozen=True)
class Trained:
    """What a training did: optimiser steps, samples seen, the last smoothed loss, and the step it was resumed at."""

    steps: int
    samples_seen: int
    loss: float
    resumed_at: int

    def report(self, plan: Schedule) -> dict[str, Any]:
        """For the lineage."""
        loss = None if math.isnan(self.loss) else round(self.loss, 6)
        budget = {"steps": plan.steps} if plan.steps else {"minutes": plan.minutes, "steps": self.steps}
        resumed = {"resumed_at": self.resumed_at} if self.resumed_at else {}
        return {**budget, **resumed, "seed": plan.seed, "samples_seen": self.samples_seen, "loss": loss}


def train(
    context: Context,
    plan: Schedule,
    module: Any,
    batches: Sequence[Batch],
    loss_of: Callable[[int], torch.Tensor],
    *,
    identity: str,
    extra: Sequence[Any] = (),
    after_step: Callable[[], None] | None = None,
) -> Trained:
    """Train `module` (and `extra` modules beside it) on `loss_of(index of a batch)`.

    AdamW; the rate rises over the first samples and falls to 0 at the end of the budget. Every `checkpoint_seconds` all
    state is kept under the model's folder; a later call with the same `identity` and schedule goes on from there.
    Raises BuildError when the loss is not finite.
    """
    import torch

    torch.manual_seed(plan.seed)
    torch.set_num_threads(default_threads())
    trained = torch.nn.ModuleList([module, *extra])
    parameters = [p for p in trained.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=plan.learning_rate, weight_decay=0.01)
    checkpoint = Checkpoint(context, plan, identity)
    step, seen, smooth, elapsed = checkpoint.load(trained, optimiser)
    resumed_at = step
    sizes = [len(next(iter(b.values()))) for b in batches]
    trained.train()
    kept = time.monotonic()
    order = _order(plan.seed, len(batches), step)
    fastest = math.inf
    while (share := plan.share(step, elapsed)) < 1.0:
        index = next(order)
        for group in optimiser.param_groups:
            group["lr"] = plan.learning_rate * min(1.0, seen / WARMUP_SAMPLES + 0.1) * (1.0 - share)
        # Dropout follows the step, not what ran before it, so that a resumed training is the same training.
        torch.manual_seed(plan.seed * 1_000_003 + step)
        loss, seconds = _timed(loss_of, index, optimiser, parameters, after_step)
        if not math.isfinite(loss):
            checkpoint.clear()
            raise BuildError(
                f"{context.model.name}: {context.name}: the training diverged after {seen} samples "
                f"(loss {loss}); lower techniques.{context.name}.learning_rate ({plan.learning_rate})"
            )
        fastest = min(fastest, seconds)
        step, seen = step + 1, seen + sizes[index]
        elapsed += min(seconds, max(1.0, SLOWEST_STEP * fastest))
        smooth = loss if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss
        context.progress(f"train (loss {smooth:.4f})", 0.1 + 0.85 * min(1.0, plan.share(step, elapsed)))
        if time.monotonic() - kept >= plan.checkpoint_seconds:
            checkpoint.save(trained, optimiser, step, seen, smooth, elapsed)
            kept = time.monotonic()
    trained.eval()
    return Trained(step, seen, smooth, resumed_at)


def _timed(
    loss_of: Callable[[int], torch.Tensor],
    index: int,
    optimiser: Any,
    parameters: list[Any],
    after_step: Callable[[], None] | None,
) -> tuple[float, float]:
    import torch

    started = time.monotonic()
    loss = loss_of(index)
    value = float(loss.detach())
    if math.isfinite(value):
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if after_step is not None:
            after_step()
    return value, time.monotonic() - started


def _order(seed: int, count: int, step: int) -> Iterator[int]:
    """Indices of batches from a step on: each epoch a permutation of its own, by seed and epoch."""
    epoch, skip = divmod(step, count)
    while True:
        for index in np.random.default_rng((seed, epoch)).permutation(count)[skip:]:
            yield int(index)
        epoch, skip = epoch + 1, 0


class Checkpoint:
    """All of a training's state in one file, replaced atomically. Another request's checkpoint is never resumed."""

    def __init__(self, context: Context, plan: Schedule, identity: str) -> None:
        self._path = context.folder / FOLDER / f"{context.name}.pt"
        self._digest = hashlib.sha256(f"{plan}|{identity}|{dict(context.parameters)}".encode()).hexdigest()

    def load(self, modules: Any, optimiser: Any) -> tuple[int, int, float, float]:
        """Put the stored state into the modules; returns step, samples seen, loss, elapsed seconds (0, 0, nan, 0
        without a checkpoint)."""
        import torch

        nothing = (0, 0, float("nan"), 0.0)
        try:
            state = torch.load(self._path, weights_only=True)
            if state["digest"] != self._digest:
                return nothing
            modules.load_state_dict(state["modules"])
            optimiser.load_state_dict(state["optimiser"])
        except FileNotFoundError:
            return nothing
        except Exception:  # torn by a full disk, or of another structure: worth no more than none
            return nothing
        return state["step"], state["seen"], state["loss"], state["elapsed"]

    def save(self, modules: Any, optimiser: Any, step: int, seen: int, loss: float, elapsed: float) -> None:
        """Keep the state. Raises OSError (a full disk)."""
        import torch

        state = {"digest": self._digest, "modules": modules.state_dict(), "optimiser": optimiser.state_dict()}
        state |= {"step": step, "seen": seen, "loss": loss, "elapsed": elapsed}
        self._path.parent.mkdir(exist_ok=True)
        temporary = self._path.with_suffix(f".{os.getpid()}")
        try:
            torch.save(state, temporary)
            os.replace(temporary, self._path)
        finally:
            temporary.unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget the state."""
        self._path.unlink(missing_ok=True)


def clear_checkpoint(folder: Path, name: str) -> None:
    """Remove a variant's checkpoint: it has been built."""
    (folder / FOLDER / f"{name}.pt").unlink(missing_ok=True)
