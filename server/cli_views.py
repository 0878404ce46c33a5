"""How the command line shows things to people."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from variants.catalog import Refused


@contextlib.contextmanager
def progress(console: Console, title: str) -> Iterator[Callable[[str, float], None]]:
    """A progress bar; yields `report(step, fraction in [0, 1])`. Without a terminal, a line
    for each new step and each twentieth of the way."""
    if not console.is_terminal:
        printed: list[tuple[str, int]] = []

        def line(step: str, fraction: float) -> None:
            mark = (step.partition(" (")[0], int(fraction * 20))
            if printed[-1:] != [mark]:
                printed.append(mark)
                console.print(f"{title}: {step} {fraction:.0%}", soft_wrap=True, markup=False)

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[step]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=1.0, step="")
        yield lambda step, fraction: bar.update(task, completed=fraction, step=step)


def size(value: float | None) -> str:
    """Bytes for people."""
    if value is None:
        return "-"
    return f"{value / 2**30:.2f} GiB" if abs(value) >= 2**30 else f"{value / 2**20:.1f} MiB"


def seconds(value: float | None) -> str:
    """Seconds for people."""
    if value is None:
        return "-"
    return f"{value * 1e3:.1f} ms" if value < 1 else f"{value:.2f} s"


def print_refused(console: Console, refused: Sequence[Refused]) -> None:
    """What was not loaded from the repository, and why."""
    for item in refused:
        console.print(f"[yellow]refused[/] {escape(item.path)}: {escape(item.reason)}", soft_wrap=True)


def print_status(console: Console, status: Mapping[str, Any]) -> None:
    """`trimtab status`; of several host groups one after another."""
    for group, one in _groups(status):
        _print_group(console, one, f" of group {group}" if group else "")


def _groups(answer: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """An answer's parts by host group; itself, under no name, where there is one group."""
    return list(answer.get("groups", {"": answer}).items())


def _headed(console: Console, answer: Mapping[str, Any], show: Callable[[Console, Mapping[str, Any]], None]) -> None:
    for group, one in _groups(answer):
        if group:
            console.print(f"group {group}:", markup=False)
        show(console, one)


def _print_group(console: Console, status: Mapping[str, Any], whose: str) -> None:
    budgets = Table(title=f"budgets{whose} (plan {status['generation']})", title_justify="left")
    for column in ("budget", "state", "pressure", "usage", "limit"):
        budgets.add_column(column)
    for row in status["budgets"]:
        is_time = row["name"].startswith("slo:")
        is_size = not is_time and (row.get("limit") or 0) > 1000
        show = seconds if is_time else size if is_size else (lambda v: "-" if v is None else f"{v:.2f}")
        pressure = row.get("missing", "missing") if row.get("ratio") is None else f"{row['ratio']:.2f}"
        budgets.add_row(row["name"], row["state"], pressure, show(row.get("usage")), show(row.get("limit")))
    console.print(budgets)
    models = Table(title=f"models{whose}", title_justify="left")
    for column in ("model", "runs", "rung", "quality", "resident", "rate", "latency", "batch", "pinned"):
        models.add_column(column)
    for name, model in status["models"].items():
        rate = model.get("rate")
        models.add_row(
            name,
            "unloaded" if model.get("unloaded") else model["variant"] or "parked",
            _rung(model),
            "-" if model.get("quality") is None else f"{model['quality']:.4f}",
            size(model.get("resident_bytes")),
            "-" if rate is None else f"{rate:.1f}/s",
            seconds(model.get("latency")),
            str(model.get("batch", "-")),
            "yes" if model.get("pinned") else "",
        )
    console.print(models)
    for q in status.get("quarantined", ()):
        until = "until it is cleared" if q["until"] is None else f"until {_clock(q['until'])}"
        what = f"{q['model']}/{q['variant'] or 'parked'}"
        console.print(f"quarantined{whose}: {what}, {until}: {q['reason']}", soft_wrap=True, markup=False)


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _rung(model: Mapping[str, Any]) -> str:
    if model.get("rung") is None:
        return "-"
    return f"{model['rung']}/{len(model['ladder']) - 1}"


def print_explanation(console: Console, answer: Mapping[str, Any]) -> None:
    """`trimtab explain`: sentences, newest last; of several host groups one after another."""
    for group, one in _groups(answer):
        for line in one["lines"]:
            console.print(f"{group}: {line}" if group else line, soft_wrap=True, markup=False)


def print_what_if(console: Console, answer: Mapping[str, Any]) -> None:
    """`trimtab what-if`; of several host groups one after another."""
    _headed(console, answer, _print_what_if)


def _print_what_if(console: Console, answer: Mapping[str, Any]) -> None:
    if answer["missing"]:
        console.print(f"not known: {answer['missing']}", soft_wrap=True, markup=False)
        return
    usage, limit = (f"{answer[key] / 2**20:.0f} MiB" for key in ("usage", "limit"))
    console.print(f"{answer['budget']} at {usage} of {limit}:", markup=False)
    for swap in answer["swaps"]:
        console.print(f"  {swap['sentence']}", soft_wrap=True, markup=False)
    if not answer["swaps"]:
        console.print("  no model would change")
    if answer["infeasible"]:
        console.print(f"  could not be kept: {', '.join(answer['infeasible'])}", markup=False)


def print_plan(console: Console, answer: Mapping[str, Any]) -> None:
    """`trimtab plan`."""
    _headed(console, answer, _print_plan)


def _print_plan(console: Console, answer: Mapping[str, Any]) -> None:
    if not answer["swaps"]:
        console.print("nothing would be done")
    else:
        wait = answer["at"] - answer["now"]
        console.print("now:" if wait <= 0 else f"in {wait:.0f} s, if nothing changes:")
        for swap in answer["swaps"]:
            console.print(f"  {swap['sentence']}", soft_wrap=True, markup=False)
    for hold in answer["holds"]:
        who = "all models" if hold["model"] == "*" else hold["model"]
        console.print(f"not now: {who}: {hold['reason']}", soft_wrap=True, markup=False)


def print_decisions(console: Console, answer: Mapping[str, Any]) -> None:
    """`trimtab decisions`: oldest first, those in which something happened."""
    told = [d for d in reversed(answer["decisions"]) if d["sentences"]]
    for decision in told:
        when = _clock(decision["at"])
        for sentence in decision["sentences"]:
            plan = f"{decision['group']} {decision['generation']}" if "group" in decision else decision["generation"]
            console.print(f"{when} [{plan}] {sentence}", soft_wrap=True, markup=False)
    if not told:
        console.print("nothing has happened in these decisions")
    if answer["next"] is not None:
        console.print(f"older ones: --before {answer['next']}")


def print_budgets(console: Console, answer: Mapping[str, Any]) -> None:
    """`trimtab budgets`: what was changed at run time has a star."""
    table = Table()
    for column in ("budget", "resource", "scope", "limit", "enter", "exit", "enter s", "exit s", "reserve"):
        table.add_column(column)
    for budget in answer["budgets"]:
        changed = budget["overridden"]

        def cell(field: str, text: str, changed: Mapping[str, Any] = changed) -> str:
            return f"{text} *" if field in changed else text

        limit = "all there is"
        if budget["limit"] is not None:
            limit = cell("limit", size(budget["limit"]))
        elif budget["limit_fraction"] is not None:
            limit = cell("limit_fraction", f"{budget['limit_fraction']:.0%} of it")
        table.add_row(
            budget["name"],
            budget["resource"],
            budget["scope"],
            limit,
            *(cell(f, f"{budget[f]:g}") for f in ("enter", "exit", "enter_seconds", "exit_seconds")),
            cell("reserve", size(budget["reserve"])),
        )
    console.print(table)
    if any(b["overridden"] for b in answer["budgets"]):
        console.print("*: changed at run time; `trimtab budgets reset` gives the file's value back")


def pins_text(pins: Mapping[str, str | None]) -> str:
    """All pins in one line."""
    return ", ".join(f"{m} -> {v or 'parked'}" for m, v in pins.items()) or "none"
