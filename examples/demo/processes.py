"""The demo's processes, started and stopped: the server, the traffic, the neighbour."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import psutil

from examples.demo.record import Answer, Failure

READY_SECONDS = 120.0
STOP_SECONDS = 60.0


class DemoFailed(Exception):
    """The demo cannot go on; the message says what did not happen."""


class Server:
    """`trimtab serve` in a session of its own, so that Ctrl-C reaches the demo first. Its output goes to `log`."""

    def __init__(self, config: Path, log: Path) -> None:
        self._log = log
        self._stream = log.open("wb")
        command = [sys.executable, "-m", "server.cli", "serve", "--config", str(config)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._stream, stderr=subprocess.STDOUT, start_new_session=True
        )

    @property
    def pid(self) -> int:
        """Its process; the processes that serve are its descendants."""
        return self._process.pid

    def ready(self) -> bool:
        """True once every model answers. Raises DemoFailed when the server has ended."""
        self.check()
        return "ready in" in self._log.read_text(errors="replace")

    def check(self) -> None:
        """Raises DemoFailed when the server has ended."""
        if self._process.poll() is not None:
            tail = self._log.read_text(errors="replace").strip()[-1500:]
            raise DemoFailed(f"the server ended with {self._process.returncode}; the end of {self._log}:\n{tail}")

    def stop(self) -> list[str]:
        """Ctrl-C it and wait. Returns what it left running (killed then), as `pid name`."""
        family: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(self._process.pid).children(recursive=True)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        _, alive = psutil.wait_procs(family, timeout=3)
        left = []
        for process in alive:
            with contextlib.suppress(psutil.Error):
                left.append(f"{process.pid} {process.name()}")
                process.kill()
        self._stream.close()
        return left


class _Talker(ABC):
    """A child that writes JSON lines on stdout and stops when its stdin ends."""

    def __init__(self, module: str, arguments: list[str], log: Path) -> None:
        self._name = module.rpartition(".")[2]
        self._log = log
        self._stream = log.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stream,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"{self._name}-reader", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.hear(json.loads(line))

    @abstractmethod
    def hear(self, line: dict[str, Any]) -> None:
        """One line of the child's, in the reader's thread."""

    def tell(self, line: dict[str, Any]) -> None:
        """One line to the child. Raises DemoFailed when it is gone."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(line) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self.check()

    def check(self) -> None:
        """Raises DemoFailed when the child has ended."""
        if self.process.poll() is not None:
            tail = self._log.read_text(errors="replace").strip()[-1500:]
            raise DemoFailed(f"the {self._name} process ended with {self.process.returncode}:\n{tail}")

    def end(self, seconds: float) -> None:
        """End its stdin and wait; a child that does not end is killed."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(5.0)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._stream.close()


class Traffic(_Talker):
    """The traffic process and everything it reported so far. Lists only grow, so they may be read at any time."""

    def __init__(self, *, http: str, grpc: str, models: Path, log: Path, seed: int = 0) -> None:
        self.answers: list[Answer] = []
        self.failures: list[Failure] = []
        self.sent = 0
        self.cpu_seconds = 0.0
        self.ready = False
        self.done = False
        self.rates: dict[str, float] = {}
        arguments = ["--http", http, "--grpc", grpc, "--models", str(models), "--seed", str(seed)]
        super().__init__("examples.demo.traffic", arguments, log)

    def hear(self, line: dict[str, Any]) -> None:
        if "ready" in line:
            self.ready = True
            return
        self.answers.extend(Answer(*a) for a in line["answers"])
        self.failures.extend(Failure(*f) for f in line["failures"])
        self.sent, self.cpu_seconds = line["sent"], line["cpu_seconds"]
        self.done = self.done or line.get("done", False)

    def set_rates(self, rates: dict[str, float]) -> None:
        """Requests per second by model, from now on; models not named keep theirs."""
        self.rates |= rates
        self.tell({"rates": rates})

    def stop(self) -> None:
        """Send no more, and wait for every answer under way. Raises DemoFailed when the last report did not come."""
        self.end(60.0)
        if not self.done:
            raise DemoFailed(f"the traffic process did not say how it ended (exit code {self.process.returncode})")

    def recent(self, seconds: float, model: str | None = None) -> list[Answer]:
        """Answers to requests that were due in the last seconds, of one model or all."""
        since = time.time() - seconds
        found: list[Answer] = []
        for answer in reversed(self.answers):
            if answer.due < since - 5.0:  # answers are in the order in which they came, nearly that of their due times
                break
            if answer.due >= since and model in (None, answer.model):
                found.append(answer)
        return found


class Neighbour(_Talker):
    """The process that takes memory. `held`: (time, bytes) as it told, oldest first."""

    def __init__(self, size: int, rate: float, pid_file: Path, log: Path) -> None:
        self.target = size
        self.held: list[tuple[float, int]] = []
        arguments = ["--bytes", str(size), "--rate", str(rate), "--pid-file", str(pid_file)]
        super().__init__("examples.demo.neighbour", arguments, log)

    def hear(self, line: dict[str, Any]) -> None:
        self.held.append((line["at"], line["bytes"]))

    @property
    def bytes(self) -> int:
        """What it held when it last told."""
        return self.held[-1][1] if self.held else 0

    def leave(self) -> None:
        """Give everything back and end."""
        self.end(15.0)


def run_command(*arguments: str) -> None:
    """A `trimtab` command in the foreground, its progress visible. Raises DemoFailed when it fails."""
    done = subprocess.run([sys.executable, "-m", "server.cli", *arguments], check=False, env=os.environ)
    if done.returncode != 0:
        raise DemoFailed(f"`trimtab {' '.join(arguments)}` failed with {done.returncode}")
