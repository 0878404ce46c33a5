"""Knowledge distillation: a smaller student learns the reference's outputs.

Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network" (2015), with the loss that fits the model's
metric: 1 - cosine for embeddings, KL divergence at a temperature for classifiers, mean squared error otherwise.
The teacher is the reference variant run once through its own engine; its outputs are kept, so that training time goes
into the student alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from variants import engines
from variants.build.context import Context, Draft
from variants.build.export import ARTEFACT, example, export_module
from variants.catalog import Variant
from variants.data import check_data, load_data, resolve
from variants.device import default_threads
from variants.engines.base import Array, LoadRequest
from variants.errors import BuildError
from variants.quality import concatenate
from variants.repository import variant_folder

if TYPE_CHECKING:
    import torch

TEMPERATURE = 2.0


def distil(context: Context, parent: Variant | None) -> Draft:
    """Train `techniques.distil.student` (a factory of an nn.Module) on `techniques.distil.data` (samples, no labels
    needed; default: the calibration data).

    Parameters: `student`, `data`, `minutes` (1.0, training time), `seed` (0), `learning_rate` (2e-4, falling to 0),
    `batch` (32), `mask` (name of an attention mask: samples are then grouped by length and trimmed, so that padding is
    neither taught nor learned). Raises BuildError when the student diverges or a parameter is wrong.
    """
    import torch

    if parent is None:
        raise BuildError(f"{context.model.name}: {context.name}: needs a teacher; build fp32 first")
    student_factory = context.parameter("student", "")
    if not student_factory:
        raise BuildError(
            f"{context.model.name}: {context.name}: techniques.{context.name}.student is missing (file.py:function)"
        )
    seed, minutes = context.parameter("seed", 0), float(context.parameter("minutes", 1.0))
    spec = context.parameter("data", "")
    data = load_data(context.folder, spec) if spec else context.calibration
    count = check_data(context.model, data, what=f"techniques.{context.name}.data")
    torch.manual_seed(seed)
    torch.set_num_threads(default_threads())
    groups = list(_groups(context, data, context.parameter("batch", 32), context.parameter("mask", "")))
    targets = _teacher_outputs(context, parent, groups)
    student = resolve(context.folder, student_factory)()
    seen, loss = _train(context, student, groups, targets, minutes * 60.0, seed)
    lineage = context.lineage(
        parent,
        "distil",
        count,
        ("torch",),
        student=student_factory,
        minutes=minutes,
        seed=seed,
        samples_seen=seen,
        loss=round(loss, 5),
    )
    record = Variant(
        name=context.name, engine="openvino", precision="fp32", artefact=ARTEFACT, lineage=lineage, tolerance=0.3
    )

    def fill(folder: Path) -> None:
        export_module(context.model, student, example(context), folder / ARTEFACT)

    return Draft(record, fill)


def _groups(context: Context, data: dict[str, Array], size: int, mask: str) -> Iterator[dict[str, Array]]:
    """Training batches: with a mask, samples of similar length together and trimmed to the longest of them."""
    names = [spec.name for spec in context.model.inputs]
    count = len(data[names[0]])
    if mask and mask not in names:
        raise BuildError(
            f"{context.model.name}: techniques.{context.name}.mask: no input {mask!r}; there are {', '.join(names)}"
        )
    lengths = data[mask].astype(np.int64).sum(axis=1) if mask else np.zeros(count, np.int64)
    order = np.argsort(lengths, kind="stable")
    for start in range(0, count, size):
        rows = order[start : start + size]
        longest = max(2, int(lengths[rows].max())) if mask else None
        width = data[mask].shape[1] if mask else -1
        yield {
            n: np.ascontiguousarray(
                data[n][rows][:, :longest] if mask and data[n].ndim > 1 and data[n].shape[1] == width else data[n][rows]
            )
            for n in names
        }


def _teacher_outputs(context: Context, parent: Variant, groups: list[dict[str, Array]]) -> list[dict[str, Array]]:
    folder = variant_folder(context.folder, parent.name)
    engine = engines.load(LoadRequest(context.model, parent, folder, threads=default_threads()))
    try:
        outputs = []
        for index, group in enumerate(groups):
            outputs.append(_by_max_batch(context, engine, group))
            context.progress("teacher", 0.3 * index / len(groups))
        return outputs
    finally:
        engine.close()


def _by_max_batch(context: Context, engine: engines.Engine, group: dict[str, Array]) -> dict[str, Array]:
    step = context.model.max_batch if context.model.batchable else 1
    count = len(next(iter(group.values())))
    return concatenate([engine.infer({n: a[i : i + step] for n, a in group.items()}) for i in range(0, count, step)])


def _train(
    context: Context,
    student: Any,
    groups: list[dict[str, Array]],
    targets: list[dict[str, Array]],
    seconds: float,
    seed: int,
) -> tuple[int, float]:
    """Train for a time; returns samples seen and the last smoothed loss. Raises BuildError when the loss is not finite."""
    import torch

    student.train()
    rate = float(context.parameter("learning_rate", 2e-4))
    optimiser = torch.optim.AdamW(student.parameters(), lr=rate, weight_decay=0.01)
    order = np.random.default_rng(seed)
    names = [spec.name for spec in context.model.inputs]
    outputs = [spec.name for spec in context.model.outputs]
    started, seen, smooth = time.monotonic(), 0, float("nan")
    while (share := (time.monotonic() - started) / seconds) < 1.0:
        for index in order.permutation(len(groups)):
            share = (time.monotonic() - started) / seconds
            if share >= 1.0:
                break
            for group in optimiser.param_groups:
                group["lr"] = rate * min(1.0, seen / 500 + 0.1) * (1.0 - share)
            raw = student(*(torch.from_numpy(groups[index][n]) for n in names))
            values = raw if isinstance(raw, (tuple, list)) else (raw,)
            loss = sum(
                _loss(context.model.metric, value, torch.from_numpy(targets[index][name]))
                for name, value in zip(outputs, values, strict=True)
            )
            if not isinstance(loss, torch.Tensor) or not torch.isfinite(loss):
                raise BuildError(
                    f"{context.model.name}: {context.name}: the student diverged after {seen} samples; lower learning_rate"
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimiser.step()
            seen += len(groups[index][names[0]])
            value = float(loss.detach())
            smooth = value if smooth != smooth else 0.98 * smooth + 0.02 * value
            context.progress(f"train (loss {smooth:.4f})", 0.3 + 0.7 * min(1.0, share))
    student.eval()
    return seen, smooth


def _loss(metric: str, value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    import torch.nn.functional as f

    if metric == "cosine":
        return (1.0 - f.cosine_similarity(value.flatten(1), target.flatten(1))).mean()
    if metric == "top1":
        soft = f.softmax(target / TEMPERATURE, dim=-1)
        return f.kl_div(f.log_softmax(value / TEMPERATURE, dim=-1), soft, reduction="batchmean") * TEMPERATURE**2
    return f.mse_loss(value, target) / target.var().clamp_min(1e-6)
