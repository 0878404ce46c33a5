"""What the script plays on: the running processes, what is known of the server now, and waiting with a limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from examples.demo.processes import DemoFailed, Neighbour, Server, Traffic
from examples.demo.record import Moment, Phase, moment

POLL_SECONDS = 0.4
LOOK_SECONDS = 0.2
#: The admin API may be silent this long (a busy machine) before the demo gives up.
SILENT_SECONDS = 20.0


class Watch:
    """Asks the server for its status over and over, in a thread. Lists only grow."""

    def __init__(self, url: str) -> None:
        self.moments: list[Moment] = []
        self.status: dict[str, Any] = {}
        self._url = f"{url}/admin/v1/status"
        self._heard = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with httpx.Client(timeout=5.0, trust_env=False) as client:
            while not self._stop.wait(POLL_SECONDS):
                try:
                    self._take(client.get(self._url).raise_for_status().json())
                except (httpx.HTTPError, ValueError, KeyError):
                    continue

    def _take(self, status: dict[str, Any]) -> None:
        seen = moment(status)
        if seen is None:
            return
        self.status, self._heard = status, time.monotonic()
        if not self.moments or seen.at > self.moments[-1].at:
            self.moments.append(seen)

    def check(self) -> None:
        """Raises DemoFailed when the server has not told its status for long."""
        silent = time.monotonic() - self._heard
        if silent > SILENT_SECONDS:
            raise DemoFailed(f"{self._url} has not answered for {silent:.0f} s")

    def stop(self) -> None:
        """Ask no more."""
        self._stop.set()
        self._thread.join(10.0)


@dataclass
class Stage:
    """Everything that is running, and what is going on in words."""

    server: Server
    traffic: Traffic
    watch: Watch
    look: Callable[[Stage], None]
    started: float
    doing: str = ""
    neighbour: Neighbour | None = None
    held: list[tuple[float, int]] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    @property
    def now(self) -> Moment:
        """The newest moment. Raises DemoFailed before the first."""
        if not self.watch.moments:
            raise DemoFailed("the controller has not looked at anything yet")
        return self.watch.moments[-1]

    def say(self, text: str) -> None:
        """Note what is being done now."""
        self.doing = text
        self.events.append(f"{time.time() - self.started:6.1f} s  {text}")
        self.look(self)

    def check(self) -> None:
        """Raises DemoFailed when a process has ended or the server is silent."""
        self.server.check()
        self.traffic.check()
        self.watch.check()
        if self.neighbour is not None:
            self.neighbour.check()

    def wait(self, what: str, condition: Callable[[], bool], seconds: float) -> float:
        """Return, with the time, as soon as the condition holds. Raises DemoFailed naming `what` when it does not within
        `seconds`, or a process ends meanwhile."""
        deadline = time.monotonic() + seconds
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise DemoFailed(f"{what}: not within {seconds:.0f} s ({self.summary()})")
            self.look(self)
            time.sleep(LOOK_SECONDS)
        return time.time()

    def rest(self, seconds: float) -> None:
        """Let things go on for a while."""
        end = time.monotonic() + seconds
        self.wait("time", lambda: time.monotonic() >= end, seconds + 60.0)

    def summary(self) -> str:
        """Where things stand, for an error's message."""
        gauges = ", ".join(
            f"{name} {g.state} at {'missing' if g.ratio is None else f'{g.ratio:.2f}'}"
            for name, g in self.now.gauges.items()
        )
        running = ", ".join(f"{model} {variant or 'parked'}" for model, variant in self.now.variants.items())
        holds = "; ".join(f"{h['model']}: {h['reason']}" for h in self.watch.status.get("holds", []))
        return f"{gauges}; running {running}; {'holds: ' + holds if holds else 'no holds'}"
