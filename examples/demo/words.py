"""The report in words: `report.md`, and the summary at the end of the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console


def markdown(report: Mapping[str, Any]) -> str:
    """`report.md`."""
    requests, total = report["requests"], report["bytes"]
    passed = all(check["passed"] for check in report["checks"])
    lines = [
        "# trimtab under pressure",
        "",
        f"**{'Passed' if passed else 'FAILED'}**: {requests['total']} requests to {len(report['models'])} models over HTTP "
        f"and gRPC in {report['seconds']:.0f} s, {requests['failed']} failed.",
        "",
        "![RAM against the budget, p99 against the objective, and what each model ran](timeline.png)",
        "",
    ]
    for phase in report["phases"]:
        lines += _phase(phase)
    lines += [
        "## Memory that came back",
        "",
        f"Planned {mib(total['planned'])}, measured {mib(total['measured'])}"
        + (f" ({total['ratio']:.0%})." if total["ratio"] is not None else "."),
        "",
        "## Checks",
        "",
        "| | check | |",
        "|---|---|---|",
        *(f"| {'✓' if c['passed'] else '✗'} | {c['name']} | {_cell(c['detail'])} |" for c in report["checks"]),
        "",
        "## Requests",
        "",
        "| model | answered |",
        "|---|---:|",
        *(f"| {model} | {count} |" for model, count in sorted(requests["by_model"].items())),
        "",
    ]
    if requests["errors"]:
        lines += ["What failed:", "", *(f"- {error}" for error in requests["errors"]), ""]
    return "\n".join(lines)


def _phase(phase: Mapping[str, Any]) -> list[str]:
    where = phase["trigger"].removeprefix("slo:")
    what = "p99 against its objective" if phase["kind"] == "latency" else "usage against its limit"
    after = "the trigger" if phase["foreseen_at"] is None else "trimtab had degraded, ahead of the trigger"
    relief = "never" if phase["relief_seconds"] is None else f"{phase['relief_seconds']:.1f} s after {after}"
    who = where if phase["kind"] == "latency" else "all models"
    rows = [("before", "before"), ("during", "under pressure"), ("relieved", "degraded, pressure relieved")]
    rows.append(("after", "restored"))
    qualities = {
        "before": phase["quality_before"],
        "during": None,
        "relieved": phase["quality_during"],
        "after": phase["quality_after"],
    }
    return [
        f"## {phase['name'].capitalize()} pressure",
        "",
        f"`{where}`: {what} rose to {number(phase['pressure_peak'])} (threshold {phase['enter']:.2f}); relieved {relief}.",
        "",
        f"| | p99 ({who}) | quality in force |",
        "|---|---:|---:|",
        *(
            f"| {text} | {ms(phase[f'p99_{key}_seconds'])} | {'' if qualities[key] is None else f'{qualities[key]:.4f}'} |"
            for key, text in rows
        ),
        "",
        "| at | | model | from | to | mode | took | planned | measured | outcome |",
        "|---:|---|---|---|---|---|---:|---:|---:|---|",
        *(_swap(swap) for swap in phase["swaps"]),
        "",
    ]


def _swap(swap: Mapping[str, Any]) -> str:
    at = "" if swap["started_at"] is None else f"{swap['started_at']:.0f} s"
    took = "" if swap["seconds"] is None else f"{swap['seconds']:.2f} s"
    cells = [
        at,
        swap["direction"],
        swap["model"],
        swap["from"] or "parked",
        swap["to"] or "parked",
        swap["mode"].replace("_", " "),
        took,
        mib(swap["bytes_planned"]),
        mib(swap["bytes_measured"]),
        swap["outcome"].replace("_", " "),
    ]
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def mib(size: int | None) -> str:
    """Bytes for people."""
    return "-" if size is None else f"{size / 2**20:.0f} MiB"


def ms(seconds: float | None) -> str:
    """Seconds for people."""
    return "-" if seconds is None else f"{seconds * 1e3:.0f} ms"


def number(value: float | None) -> str:
    """A ratio for people."""
    return "-" if value is None else f"{value:.2f}"


def print_summary(console: Console, report: Mapping[str, Any]) -> None:
    """Each check as a line, the swaps, the first failures."""
    console.print()
    for phase in report["phases"]:
        before, during, after = (phase[f"quality_{key}"] for key in ("before", "during", "after"))
        console.print(
            f"[bold]{phase['name']}[/]: pressure {number(phase['pressure_peak'])}, p99 {ms(phase['p99_before_seconds'])} → "
            f"{ms(phase['p99_during_seconds'])} → {ms(phase['p99_relieved_seconds'])} → {ms(phase['p99_after_seconds'])}, "
            f"quality {number4(before)} → {number4(during)} → {number4(after)}",
            soft_wrap=True,
        )
    console.print()
    for check in report["checks"]:
        mark = "[green]✓[/]" if check["passed"] else "[bold red]✗[/]"
        console.print(f"{mark} {check['name']}: ", end="")
        console.print(check["detail"], soft_wrap=True, markup=False)
    for error in report["requests"]["errors"]:
        console.print(f"  failed: {error}", soft_wrap=True, markup=False)


def number4(value: float | None) -> str:
    """A quality for people."""
    return "-" if value is None else f"{value:.4f}"
