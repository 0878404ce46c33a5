"""`make demo`: build what is missing, serve, send traffic, press, watch, report. Exits with 0 when every check passed."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from budgets.journal import records
from examples.demo import report as reports
from examples.demo import timeline, words
from examples.demo.live import View
from examples.demo.processes import DemoFailed, Server, Traffic, run_command
from examples.demo.record import Bounds, ModelFacts, Recording, facts
from examples.demo.script import Script
from examples.demo.stage import Stage, Watch
from server.settings import Settings, load_settings

HERE = Path(__file__).parent
#: The controller writes outcomes one tick after they came.
LAST_TICKS_SECONDS = 2.0


def main() -> None:
    """Entry point of `python -m examples.demo`."""
    console = Console(highlight=False)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: with everything stopped
    try:
        passed = demo(console, HERE / "trimtab.yaml")
    except DemoFailed as error:
        console.print(f"[bold red]the demo failed:[/] {error}", soft_wrap=True)
        passed = False
    except KeyboardInterrupt:
        console.print("interrupted")
        sys.exit(130)
    sys.exit(0 if passed else 1)


def demo(console: Console, config: Path) -> bool:
    """Run everything; True when every check passed. What is written goes beside the configured journal, into a folder
    that is emptied first. Raises DemoFailed when there is not even something to report."""
    settings = load_settings(config)
    out = Path(settings.controller.journal).parent
    console.print("[bold]models[/]: built and measured once, then kept")
    run_command("build", settings.repository)
    run_command("profile", settings.repository)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    settings = prepare(settings, out)
    recording = perform(console, settings, out)
    recording.save(out / "recording.json")
    return write_report(console, recording, out)


def prepare(settings: Settings, out: Path) -> Settings:
    """The configuration that is served, written to `out/trimtab.yaml`: free ports where the usual ones are taken."""
    usual = settings.server
    ports = {name: free_port(getattr(usual, name)) for name in ("http_port", "grpc_port", "admin_port")}
    settings = settings.model_copy(update={"server": usual.model_copy(update=ports)})
    document = settings.model_dump(mode="json", exclude_none=True, exclude={"config_path"})
    (out / "trimtab.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return settings


def free_port(wanted: int) -> int:
    """That port on loopback when nobody has it, else another."""
    for port in (wanted, 0):
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(s.getsockname()[1])
    raise DemoFailed("no free TCP port on loopback")


def perform(console: Console, settings: Settings, out: Path) -> Recording:
    """Serve, play the turns and stop everything again; what went wrong is in the recording's `problems`."""
    started = time.time()
    console.print("[bold]server[/]: starting")
    server = Server(out / "trimtab.yaml", out / "server.log")
    traffic: Traffic | None = None
    watch: Watch | None = None
    stage: Stage | None = None
    problems: list[str] = []
    models: dict[str, ModelFacts] = {}
    bounds = {n: Bounds(enter=t.enter, exit=t.exit) for n, t in settings.budgets_config().thresholds().items()}
    try:
        address = settings.server
        _until("the server is ready", server.ready, 120.0)
        console.print(
            f"[bold]server[/]: ready after {time.time() - started:.1f} s, http://{address.host}:{address.http_port}"
        )
        traffic = Traffic(
            http=f"{address.host}:{address.http_port}",
            grpc=f"{address.host}:{address.grpc_port}",
            models=Path(settings.repository),
            log=out / "traffic.log",
        )
        watch = Watch(f"http://{address.admin_address}:{address.admin_port}")
        _until("the traffic process is ready", lambda: _alive(traffic) and traffic.ready, 60.0)
        _until("the controller has looked", lambda: bool(watch.moments), 30.0)
        models = facts(watch.status, settings)
        with View(console, models, bounds) as view:
            stage = Stage(server, traffic, watch, view.show, started)
            problems += play(Script(stage, models, bounds, out), settings)
            stage.say("the last answers come in")
            traffic.stop()
            time.sleep(LAST_TICKS_SECONDS)
    except DemoFailed as error:
        problems.append(str(error))
    finally:
        ended = time.time()
        if stage is not None and stage.neighbour is not None:
            stage.neighbour.leave()
        if watch is not None:
            watch.stop()
        if traffic is not None and not traffic.done:
            traffic.end(5.0)
        console.print("[bold]server[/]: stopping")
        left = server.stop()
    if left:
        problems.append(f"the server left processes behind: {', '.join(left)}")
    if traffic is None or watch is None or stage is None:
        raise DemoFailed("; ".join(problems))
    return Recording(
        started=started,
        ended=ended,
        models=models,
        bounds=bounds,
        sent=traffic.sent,
        answers=tuple(traffic.answers),
        failures=tuple(traffic.failures),
        traffic_cpu_seconds=traffic.cpu_seconds,
        moments=tuple(watch.moments),
        neighbour=tuple(stage.held),
        phases=tuple(stage.phases),
        decisions=tuple(records(Path(settings.controller.journal))),
        problems=tuple(problems),
    )


def play(script: Script, settings: Settings) -> list[str]:
    """The turns, one after the other; a turn that does not happen does not keep the next from being tried."""
    budget = next(b for b in settings.budgets if b.neighbours)
    pid_file = Path(next(n.pid_file for n in budget.neighbours if n.pid_file))
    model = next(name for name, policy in settings.models.items() if policy.slo is not None)
    problems = []
    turns: dict[str, Callable[[], None]] = {
        "steady traffic": script.steady,
        "memory pressure": lambda: script.memory(budget.name, pid_file),
        "latency pressure": lambda: script.latency(model),
    }
    for name, turn in turns.items():
        try:
            turn()
        except DemoFailed as error:
            problems.append(f"{name}: {error}")
    return problems


def write_report(console: Console, recording: Recording, out: Path) -> bool:
    """`report.json`, `report.md`, `timeline.png` and the summary; True when every check passed."""
    report: Mapping[str, Any] = reports.make(recording)
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    (out / "report.md").write_text(words.markdown(report))
    timeline.draw(recording, out / "timeline.png")
    words.print_summary(console, report)
    console.print(f"\n{out / 'report.md'}, report.json, timeline.png, journal.jsonl, server.log", soft_wrap=True)
    return all(check["passed"] for check in report["checks"])


def _alive(traffic: Traffic) -> bool:
    traffic.check()
    return True


def _until(what: str, condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise DemoFailed(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.1)
