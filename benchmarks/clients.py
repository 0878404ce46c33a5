"""Load at a fixed rate whatever the server does (open loop), or from so many clients (closed loop), by a program of ours that
takes little of the cores itself (`load.c`). Answers are kept and looked at after the run. Needs a C compiler (Debian: gcc).
"""

from __future__ import annotations

import functools
import hashlib
import os
import struct
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httptools
import numpy as np

from benchmarks.generators import LoadFailed, require
from benchmarks.models import CACHE

SOURCE = Path(__file__).with_name("load.c")
#: Of an answer: number, status, due, ended, size.
RECORD = struct.Struct("=IIddI")
#: Requests of a closed loop before they come again.
DRAWN = 8192


@dataclass(frozen=True)
class Request:
    """One request of a plan: `at` seconds after the start, and the index of what is sent."""

    at: float
    index: int


@dataclass
class Result:
    """What became of a request. Times are seconds after the start; `ended` 0: no answer."""

    request: Request
    ended: float = 0.0
    status: int = 0
    body: bytes = b""


def message(url: str, body: bytes) -> bytes:
    """A POST of a JSON body as it goes over the wire."""
    parts = urlsplit(url)
    head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


@functools.cache
def program() -> Path:
    """`load.c`, compiled once for each text of it. Raises LoadFailed."""
    require("cc")
    built = CACHE / f"load-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}"
    if not built.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        made = built.with_suffix(f".{os.getpid()}")
        done = subprocess.run(["cc", "-O2", "-o", str(made), str(SOURCE)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise LoadFailed(f"load.c does not compile: {done.stderr.strip()[-500:]}")
        made.replace(built)
    return built


def plan_bytes(messages: Sequence[bytes], requests: Sequence[Request]) -> bytes:
    """As `load.c` reads it."""
    parts = [struct.pack("=I", len(messages))]
    parts += [part for message in messages for part in (struct.pack("=I", len(message)), message)]
    parts.append(struct.pack("=I", len(requests)))
    parts += [struct.pack("=dI", request.at, request.index) for request in requests]
    return b"".join(parts)


def read(told: bytes) -> Iterable[tuple[int, int, float, float, bytes]]:
    """What `load.c` wrote: of each request its number in the plan, status, when it was due and answered, and the whole answer."""
    at = 0
    while at < len(told):
        number, status, due, ended, size = RECORD.unpack_from(told, at)
        at += RECORD.size
        yield number, status, due, ended, told[at : at + size]
        at += size


def command(kind: str, port: int, connections: int, seconds: float) -> list[str]:
    """`load.c`'s words. Raises LoadFailed."""
    return [str(program()), kind, str(port), str(connections), f"{seconds:.3f}"]


class _Body:
    """The body of a whole answer."""

    def __init__(self, answer: bytes) -> None:
        self._parts: list[bytes] = []
        httptools.HttpResponseParser(self).feed_data(answer)
        self.bytes = b"".join(self._parts)

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)


def _run(
    kind: str, messages: Sequence[bytes], port: int, connections: int, seconds: float, plan: Sequence[Request]
) -> list[Result]:
    words = command(kind, port, connections, seconds)
    done = subprocess.run(words, input=plan_bytes(messages, plan), capture_output=True, check=False)
    if done.returncode:
        raise LoadFailed(f"load.c: {done.stderr.decode(errors='replace').strip()[-500:]}")
    return [
        Result(
            Request(due, plan[number].index), ended if status else 0.0, status, _Body(answer).bytes if status else b""
        )
        for number, status, due, ended, answer in read(done.stdout)
    ]


def open_loop(messages: Sequence[bytes], port: int, plan: Sequence[Request], seconds: float) -> list[Result]:
    """Send each request of the plan at its time to this port of this machine, whatever came back by then; in the order of the
    answers. Raises LoadFailed."""
    return _run("open", messages, port, max(1, len(plan)), seconds, plan)


def closed_loop(
    messages: Sequence[bytes], port: int, concurrency: int, seconds: float, draw: Callable[[], int]
) -> list[Result]:
    """So many clients that send their next request when they have their answer; `draw` says what is sent next. Raises
    LoadFailed."""
    return _run("closed", messages, port, concurrency, seconds, [Request(0.0, draw()) for _ in range(DRAWN)])


def poisson(rate: float, seconds: float, weights: Sequence[float], seed: int) -> list[Request]:
    """Requests at random times (`rate` per second in the mean), drawn by weight; the same for the same seed."""
    random = np.random.default_rng(seed)
    at = np.cumsum(random.exponential(1 / rate, int(rate * seconds * 1.5) + 100))
    at = at[at < seconds]
    shares = np.asarray(weights, float) / sum(weights)
    return [Request(float(t), int(i)) for t, i in zip(at, random.choice(len(shares), len(at), p=shares), strict=True)]


def zipf(count: int, exponent: float = 1.0) -> list[float]:
    """Weights of `count` things, the first the most popular."""
    return [1 / rank**exponent for rank in range(1, count + 1)]
