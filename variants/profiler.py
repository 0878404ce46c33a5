"""Measures a variant through its engine, in a fresh process: bytes, seconds, throughput, quality.

Resident bytes are the engine's own share: what the process holds (`variants.process.held`) after load and run, less what it held
when the same variant had been loaded, called and closed. What a runtime keeps then is there with any model, and no swap gives
it back.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from variants.catalog import BatchProfile, Entry, Profile
from variants.data import LABEL, check_data, load_data
from variants.device import call_threads, calls_at_once, fingerprint
from variants.engines import COMPILING
from variants.engines.base import Array
from variants.errors import ConfigError, EngineFailed, EngineUnavailable
from variants.process import ALLOCATOR
from variants.quality import confidence, quality
from variants.repository import read_canary, variant_folder

TIMEOUT_SECONDS = 600.0
EVALUATION = ".evaluation.npz"


def profile(
    model_folder: Path,
    entry: Entry,
    variant_name: str,
    *,
    threads: int | None = None,
    batches: tuple[int, ...] | None = None,
    seconds_per_batch: float = 0.5,
    progress: Callable[[str, float], None] | None = None,
) -> Profile:
    """As `measure`, without what the engine made of the artefact."""
    return measure(
        model_folder,
        entry,
        variant_name,
        threads=threads,
        batches=batches,
        seconds_per_batch=seconds_per_batch,
        progress=progress,
    )[0]


def measure(
    model_folder: Path,
    entry: Entry,
    variant_name: str,
    *,
    threads: int | None = None,
    batches: tuple[int, ...] | None = None,
    seconds_per_batch: float = 0.5,
    progress: Callable[[str, float], None] | None = None,
) -> tuple[Profile, bytes | None]:
    """Measure one variant on this machine: its profile, and what its engine made of the artefact, where it can load that
    instead (`repository.write_profile` stores both).

    `batches` default to 1, 2, 4, … up to the model's `max_batch`; each is measured for about `seconds_per_batch` after
    a warm-up, in rounds of which the fastest counts. Quality is measured on `data.evaluation`, else on the canary inputs, against the
    reference. Raises EngineUnavailable, EngineFailed when the variant cannot run here, ConfigError when
    there is nothing to run it on.
    """
    model = entry.model
    report = progress or (lambda step, fraction: None)
    threads = threads or call_threads(entry.variants[variant_name].runs_on)
    data = evaluation_data(model_folder, entry)
    reference_name = next(iter(entry.variants))
    if batches is None:
        largest = model.max_batch if model.batchable else 1
        batches = (*(n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n < largest), largest)
    report("measure", 0.1)
    measured = run_worker(model_folder, entry, variant_name, data, threads, batches, seconds_per_batch)
    outputs = measured.outputs
    if variant_name == reference_name:
        reference = outputs
    else:
        report("reference", 0.7)
        reference = reference_outputs(model_folder, entry, reference_name, data, threads)
    labels = data.get(LABEL)
    named = (
        "accuracy"
        if model.metric == "top1" and labels is not None
        else f"fidelity to {reference_name} ({model.metric})"
    )
    low, high = confidence(model.metric, outputs, reference, labels)
    if variant_name == reference_name and named != "accuracy":
        low = high = 1.0  # its fidelity to itself is no estimate
    made = Profile(
        device=fingerprint(),
        threads=threads,
        quality=round(quality(model.metric, outputs, reference, labels), 6),
        quality_low=round(low, 6),
        quality_high=round(high, 6),
        quality_metric=named,
        quality_samples=len(next(iter(data.values()))),
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        **measured.numbers,
    )
    return made, measured.compiled


def evaluation_data(model_folder: Path, entry: Entry) -> dict[str, Array]:
    """The evaluation samples (and labels), else the canary's inputs. Raises ConfigError when there are neither, BuildError for
    samples that the model does not take."""
    if entry.model.data.evaluation:
        data = load_data(model_folder, entry.model.data.evaluation)
        check_data(entry.model, data, what="data.evaluation")
        return data
    canary = read_canary(model_folder)
    if canary is None:
        raise ConfigError(
            f"{entry.model.name}: no data.evaluation in model.yaml and no canary to measure quality on; give data.evaluation, or "
            "build the reference again where it can run (--force)"
        )
    return canary[0]


def reference_outputs(
    model_folder: Path, entry: Entry, name: str, data: dict[str, Array], threads: int
) -> dict[str, Array]:
    """The reference variant's outputs on the evaluation data, kept in the model's folder for the next variant."""
    cache = model_folder / EVALUATION
    artefact = entry.variants[name].files[entry.variants[name].artefact]
    digest = hashlib.sha256(artefact.encode())
    for input_name in sorted(data):
        digest.update(np.ascontiguousarray(data[input_name]).tobytes())
    key = digest.hexdigest()
    try:
        with np.load(cache, allow_pickle=False) as arrays:
            if str(arrays["key"]) == key:
                return {n.removeprefix("output/"): arrays[n] for n in arrays.files if n != "key"}
    except (OSError, ValueError, KeyError):
        pass
    outputs = run_worker(model_folder, entry, name, data, threads, (), 0.0).outputs
    arrays = {f"output/{n}": a for n, a in outputs.items()} | {"key": np.array(key)}
    temporary = cache.with_suffix(".tmp.npz")
    np.savez(temporary, **arrays)
    temporary.replace(cache)
    return outputs


class Measured:
    """What the worker process found: the numbers of a Profile, the outputs on the evaluation data, and what the engine
    made of the artefact."""

    def __init__(self, answer: dict[str, object], outputs: dict[str, Array], compiled: bytes | None) -> None:
        self.outputs = outputs
        self.compiled = compiled
        self.numbers: dict[str, object] = {k: answer[k] for k in answer if k != "batches"}
        self.numbers["batches"] = tuple(BatchProfile.model_validate(b) for b in answer["batches"])  # type: ignore[attr-defined]


def run_worker(
    model_folder: Path,
    entry: Entry,
    variant_name: str,
    data: dict[str, Array],
    threads: int,
    batches: tuple[int, ...],
    seconds_per_batch: float,
) -> Measured:
    """Run `variants.measure` in fresh processes on the variant. Raises EngineUnavailable, EngineFailed."""
    variant = entry.variants[variant_name]
    with tempfile.TemporaryDirectory(prefix="trimtab-profile-") as scratch:
        folder = Path(scratch)
        inputs = {spec.name: data[spec.name] for spec in entry.model.inputs}
        np.savez(folder / "inputs.npz", **inputs)  # type: ignore[arg-type]
        order = {
            "model": entry.model.model_dump(mode="json"),
            "variant": variant.model_dump(mode="json"),
            "folder": str(variant_folder(model_folder, variant_name)),
            "threads": threads,
            "calls": calls_at_once(threads),
            "batches": batches,
            "seconds_per_batch": seconds_per_batch,
        }
        (folder / "order.json").write_text(json.dumps(order))
        where = f"{entry.model.name}/{variant_name}: "
        if batches and variant.engine in COMPILING:
            _run("compile", folder, where)
        _run("measure", folder, where)
        with np.load(folder / "outputs.npz", allow_pickle=False) as arrays:
            outputs = {n: arrays[n] for n in arrays.files}
        stored = folder / "compiled"
        compiled = stored.read_bytes() if stored.is_file() else None
        return Measured(json.loads((folder / "answer.json").read_text()), outputs, compiled)


def _run(step: str, folder: Path, where: str) -> None:
    # -P: whatever the working directory holds
    command = [sys.executable, "-P", "-m", "variants.measure", step, str(folder)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
            env={**os.environ, **ALLOCATOR},  # what is measured is what a host will hold
        )
    except subprocess.TimeoutExpired as error:
        raise EngineFailed(f"{where}no result after {TIMEOUT_SECONDS:.0f} s") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        last = next((line for line in reversed(lines) if re.match(r"[\w.]+: ", line)), lines[-1])
        kind = EngineUnavailable if "EngineUnavailable" in last else EngineFailed
        raise kind(where + re.sub(r"^variants\.errors\.\w+: ", "", last).removeprefix(where))
