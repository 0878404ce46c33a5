"""Closed-loop load by programs fast enough not to be what is measured: wrk over HTTP, h2load over gRPC.

wrk looks into every answer: a script of ours has it search the numbers that are expected. h2load cannot, and takes gRPC
errors for answers; so the bytes that came back are counted: an error has no message, and is missed in the sum.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

WRK = Path(__file__).with_name("wrk.lua")
PACKAGES = {"wrk": "wrk", "h2load": "nghttp2-client", "cc": "gcc"}


class LoadFailed(Exception):
    """A load generator is missing, or an answer was wrong."""


@dataclass(frozen=True)
class Load:
    """Of one run: answers per second, quantiles of the latency in milliseconds, and how many answers there were, all of
    them right."""

    rate: float
    p50: float
    p99: float
    answers: int


def require(program: str) -> None:
    """Raises LoadFailed when a program is not installed."""
    if shutil.which(program) is None:
        raise LoadFailed(f"{program} is not installed (Debian: {PACKAGES[program]})")


def http(url: str, body: bytes, expected: str, concurrency: int, seconds: float) -> Load:
    """POST the JSON body over and over on so many connections; each answer must contain `expected`. Raises LoadFailed."""
    require("wrk")
    with tempfile.TemporaryDirectory() as scratch:
        sent, needle = Path(scratch, "body"), Path(scratch, "expected")
        sent.write_bytes(body)
        needle.write_text(expected, encoding="utf-8")
        command = ["wrk", "-t1", f"-c{concurrency}", f"-d{seconds:g}s", "--timeout", "10s", "-s", str(WRK), url]
        command += ["--", str(sent), str(needle), *(["alone"] if concurrency == 1 else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LoadFailed(f"wrk: {(done.stderr or done.stdout).strip()[-500:]}")
    return read_wrk(done.stdout)


def read_wrk(output: str) -> Load:
    """What `wrk.lua` prints last. Raises LoadFailed unless every answer was right."""
    told = json.loads(output.splitlines()[-1])
    if told["wrong"] or told["errors"] or not told["requests"]:
        raise LoadFailed(f"wrk: of {told['requests']} answers {told['wrong']} were wrong; {told['errors']} errors")
    rate = told["requests"] / (told["microseconds"] / 1e6)
    return Load(rate, told["p50"] / 1e3, told["p99"] / 1e3, told["requests"])


def grpc(url: str, message: bytes, answer: int, concurrency: int, seconds: float) -> Load:
    """Send the message over and over on so many connections, one request at a time on each. `answer`: bytes of a right
    answer's message. Raises LoadFailed."""
    require("h2load")
    with tempfile.TemporaryDirectory() as scratch:
        sent, log = Path(scratch, "message"), Path(scratch, "log")
        sent.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
        command = ["h2load", "-t", "1", "-m", "1", "-c", str(concurrency), "-D", f"{seconds:g}", "-d", str(sent)]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers", "--log-file", str(log), url]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LoadFailed(f"h2load: {(done.stderr or done.stdout).strip()[-500:]}")
        return read_h2load(done.stdout, log.read_text(), 5 + answer, concurrency)


def read_h2load(output: str, log: str, size: int, concurrency: int) -> Load:
    """What h2load prints and logs (start, status and duration of each request, microseconds). Raises LoadFailed unless
    every answer was 200 and all had `size` bytes; those under way at the end may be cut short."""
    finished = re.search(r"finished in ([\d.]+)(ms|s|m)?, ([\d.]+) req/s", output)
    traffic = re.search(r"\((\d+)\) data", output)
    rows = [line.split("\t") for line in log.splitlines() if line]
    if finished is None or traffic is None or not rows:
        raise LoadFailed(f"h2load said something else than expected: {output[-500:]}")
    wrong = sum(status != "200" for _, status, _ in rows)
    missing = len(rows) * size - int(traffic[1])
    if wrong or abs(missing) > concurrency * size:
        raise LoadFailed(f"h2load: of {len(rows)} answers {wrong} were not 200, and {missing} bytes are missing in all")
    milliseconds = np.array([int(taken) for _, _, taken in rows]) / 1e3
    p50, p99 = np.quantile(milliseconds, (0.5, 0.99)).tolist()
    return Load(float(finished[3]), p50, p99, len(rows))
