"""`trimtab profile`: which variants still need measuring, and measuring them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from variants import profiler
from variants.catalog import Variant
from variants.device import call_threads
from variants.errors import ArtefactRefused, EngineFailed, EngineUnavailable, InvalidInput
from variants.repository import load_catalog, load_model, write_profile


def profile_model(
    folder: Path,
    *,
    only: str | None = None,
    threads: int | None = None,
    force: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Measure the variants of one model that have no profile on this device with so many threads; returns the names of those
    measured, and why others cannot run here. Each result is stored as it comes in: an interrupted run goes on with the rest.

    `threads`: of an engine call; default: what a host gives it. `only` names one variant; `force` measures again.
    `progress(step, fraction)` is called as it goes. Raises ConfigError for a model.yaml that is wrong, ArtefactRefused for a model
    that does not load, InvalidInput for an unknown variant.
    """
    load_model(folder)
    catalog = load_catalog(folder.parent)
    if folder.name not in catalog.entries:
        reasons = "; ".join(f"{r.path}: {r.reason}" for r in catalog.refused if r.model == folder.name)
        raise ArtefactRefused(f"{folder.name}: nothing to profile ({reasons or 'no variant is built'})")
    entry = catalog.entries[folder.name]
    if only is not None and only not in entry.variants:
        raise InvalidInput(f"{folder.name} has no variant {only!r}; it has {', '.join(entry.variants)}")
    todo = [
        name
        for name, variant in entry.variants.items()
        if only in (None, name) and (force or _unknown(variant, catalog.device, threads))
    ]
    measured: list[str] = []
    failed: dict[str, str] = {}
    for index, name in enumerate(todo):
        if progress:
            progress(name, index / len(todo))
        try:
            write_profile(folder, name, *profiler.measure(folder, entry, name, threads=threads))
        except (EngineUnavailable, EngineFailed) as error:
            failed[name] = str(error)
        else:
            measured.append(name)
    return measured, failed


def _unknown(variant: Variant, device: str, threads: int | None) -> bool:
    """No profile says what it costs with so many threads."""
    known = variant.profile(device)
    return known is None or known.threads != (threads or call_threads(variant.runs_on))
