"""Figures of replays: load, quality, violations and memory over time, one line a policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from variants.errors import ConfigError

#: A policy keeps its colour whichever it is compared with; this one is drawn on top.
OURS = "trimtab"


def draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Write a figure of these results (`budgets.replay.run.replay`) to a PNG, SVG or PDF file.

    Raises ConfigError when matplotlib is not installed or the file cannot be written.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise ConfigError("--plot needs matplotlib: pip install 'trimtab[replay]'") from None
    figure, axes = pyplot.subplots(4, 1, figsize=(10, 11), sharex=True, constrained_layout=True)
    load, quality, violations, memory = axes
    first = results[0]["series"]
    times = [s["time_seconds"] for s in first]
    bin_seconds = results[0]["bin_seconds"]
    load.fill_between(times, [s["requests"] / bin_seconds for s in first], color="0.8", step="mid")
    load.set_ylabel("requests / s")
    for result in sorted(results, key=lambda r: r["policy"] == OURS):
        series = result["series"]
        at = [s["time_seconds"] for s in series]
        style = {"lw": 2.2, "color": "#0b6e4f"} if result["policy"] == OURS else {"lw": 1.1}
        share = [100 * s["slo_violations"] / s["requests"] if s["requests"] else 0.0 for s in series]
        label = f"{result['policy']}  ({result['slo_violation_ratio']:.2%} late or dropped)"
        quality.plot(at, [s["effective_quality"] for s in series], label=label, **style)
        violations.plot(at, share, **style)
        memory.plot(at, [None if s["memory_bytes"] is None else s["memory_bytes"] / 2**30 for s in series], **style)
    quality.set_ylabel("quality of what was served")
    quality.legend(fontsize=8, loc="lower left")
    violations.set_ylabel("late or dropped, %")
    violations.set_yscale("symlog", linthresh=1.0)
    memory.set_ylabel("memory, GiB")
    memory.set_xlabel("seconds")
    for axis in axes:
        axis.grid(alpha=0.3)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    finally:
        pyplot.close(figure)
