"""The live view: RAM against its budget, triggers, what each model runs, rate and p99, the last decisions."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from examples.demo.measure import p99
from examples.demo.record import Bounds, Gauge, ModelFacts
from examples.demo.stage import Stage

WINDOW_SECONDS = 5.0
#: Without a terminal, a line of numbers this often.
LINE_SECONDS = 5.0
EVENTS = 7
STATE = {"calm": "green", "scaling": "yellow", "saturated": "bold red"}


class View:
    """Shows a stage; use as a context manager. On a terminal it redraws in place, elsewhere it prints plain lines."""

    def __init__(self, console: Console, models: Mapping[str, ModelFacts], bounds: Mapping[str, Bounds]) -> None:
        self._console = console
        self._models = models
        self._bounds = bounds
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._printed = 0
        self._line_at = 0.0
        self._drawn = 0.0

    def __enter__(self) -> View:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, stage: Stage) -> None:
        """Bring it up to date; cheap when little time has passed."""
        if self._live is not None:
            if time.monotonic() - self._drawn >= 0.4 or len(stage.events) != self._printed:
                self._live.update(render(stage, self._models, self._bounds), refresh=True)
                self._printed, self._drawn = len(stage.events), time.monotonic()
            return
        for event in stage.events[self._printed :]:
            self._console.print(event, soft_wrap=True, markup=False)
        self._printed = len(stage.events)
        if time.monotonic() - self._line_at >= LINE_SECONDS and stage.watch.moments:
            self._line_at = time.monotonic()
            self._console.print(line(stage, self._models), soft_wrap=True, markup=False)


def by_model(stage: Stage) -> dict[str, list[float]]:
    """Seconds of the latest answers."""
    latest: dict[str, list[float]] = defaultdict(list)
    for answer in stage.traffic.recent(WINDOW_SECONDS):
        latest[answer.model].append(answer.seconds)
    return latest


def line(stage: Stage, models: Mapping[str, ModelFacts]) -> str:
    """Everything in one line."""
    now = stage.now
    gauges = ", ".join(f"{n} {g.ratio:.2f} {g.state}" for n, g in now.gauges.items() if g.ratio is not None)
    lower = [f"{m}={v or 'parked'}" for m, v in now.variants.items() if m in models and models[m].rung(v) != 0]
    late = p99([a.seconds for a in stage.traffic.recent(WINDOW_SECONDS)])
    return (
        f"{time.time() - stage.started:6.1f} s    {gauges}; {'degraded: ' + ', '.join(lower) if lower else 'all on top'}; "
        f"{stage.traffic.sent} sent, {len(stage.traffic.failures)} failed, p99 {milliseconds(late)}"
    )


def render(stage: Stage, models: Mapping[str, ModelFacts], bounds: Mapping[str, Bounds]) -> RenderableType:
    """The whole view."""
    head = Text.assemble(
        (f"{time.time() - stage.started:5.0f} s  ", "dim"),
        (stage.doing, "bold"),
        (f"\n         {stage.traffic.sent} requests sent, ", ""),
        (f"{len(stage.traffic.failures)} failed", "bold red" if stage.traffic.failures else "green"),
    )
    if not stage.watch.moments:
        return head
    now = stage.now
    budgets = Table.grid(padding=(0, 2))
    for name, gauge in now.gauges.items():
        budgets.add_row(name, _bar(gauge), _numbers(name, gauge, bounds), Text(gauge.state, STATE[gauge.state]))
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for column in ("model", "runs", "rung", "quality", "requests/s", "p99", "objective"):
        table.add_column(column, justify="right" if column in ("quality", "requests/s", "p99", "objective") else "left")
    latest = by_model(stage)
    for name, facts in models.items():
        table.add_row(*_cells(name, facts, now.variants.get(name), name in now.swapping, latest.get(name, [])))
    events = Text("\n".join(stage.events[-EVENTS:]), "dim")
    return Panel(Group(head, Text(), budgets, Text(), table, Text(), events), title="trimtab", title_align="left")


def _bar(gauge: Gauge) -> RenderableType:
    colour = {"calm": "green", "scaling": "yellow", "saturated": "red"}[gauge.state]
    return ProgressBar(
        total=1.0, completed=min(1.0, gauge.ratio or 0.0), width=36, complete_style=colour, finished_style=colour
    )


def _numbers(name: str, gauge: Gauge, bounds: Mapping[str, Bounds]) -> str:
    if gauge.ratio is None or gauge.usage is None or gauge.limit is None:
        return "no reading"
    limits = f"(enter {bounds[name].enter:.2f}, exit {bounds[name].exit:.2f})" if name in bounds else ""
    if name.startswith("slo:"):
        return f"{gauge.ratio:5.2f}  p99 {milliseconds(gauge.usage)} of {milliseconds(gauge.limit)} {limits}"
    return f"{gauge.ratio:5.2f}  {gauge.usage / 2**30:.2f} of {gauge.limit / 2**30:.2f} GiB {limits}"


def _cells(
    name: str, facts: ModelFacts, variant: str | None, swapping: bool, seconds: list[float]
) -> list[RenderableType]:
    rung = facts.rung(variant)
    steps = Text(
        "".join("●" if i == rung else "○" for i in range(len(facts.rungs))), "green" if rung == 0 else "yellow"
    )
    late = p99(seconds)
    over = late is not None and facts.slo_seconds is not None and late > facts.slo_seconds
    return [
        name,
        Text(f"{variant or 'parked'}{' …' if swapping else ''}", "" if rung == 0 else "yellow"),
        steps,
        f"{facts.quality(variant):.4f}",
        f"{len(seconds) / WINDOW_SECONDS:.1f}",
        Text(milliseconds(late), "bold red" if over else ""),
        milliseconds(facts.slo_seconds) if facts.slo_seconds else "",
    ]


def milliseconds(seconds: float | None) -> str:
    """Seconds for people."""
    return "-" if seconds is None else f"{seconds * 1e3:.0f} ms"
