"""trimtab's own log lines: for people or as JSON objects, from every process to the stderr of `trimtab serve`.

A line says what happened and which numbers led to it: decisions (`trimtab.decisions`), swaps, requests that failed, at
level debug every request. No line holds tensors, headers, or what a client's mistake looked like; a request is known by
its id (the request's own, else the header or metadata `x-request-id`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from server.settings import LoggingConfig

#: Where the processes of an embedded cluster send their lines (environment variable); without it, to their own stderr,
#: which Ray keeps in files.
SOCKET = "TRIMTAB_LOG_SOCKET"
ROOT = logging.getLogger("trimtab")
requests = logging.getLogger("trimtab.requests")
#: Failed requests that are written down each second; of the others the next line gives the number.
FAILURES_A_SECOND = 10
LONGEST_ID = 128
LONGEST_DATAGRAM = 1 << 16


def configure(config: LoggingConfig, process: str) -> None:
    """Let this process's lines go out, in place of what was configured before. `process`: server, host, controller."""
    handler = Datagrams(path) if (path := os.environ.get(SOCKET)) and process != "server" else logging.StreamHandler()
    handler.setFormatter((JsonLines if config.format == "json" else TextLines)(process))
    for old in tuple(ROOT.handlers):
        ROOT.removeHandler(old)
        old.close()
    ROOT.addHandler(handler)
    ROOT.setLevel(config.level.upper())
    ROOT.propagate = False


def speaker(config: LoggingConfig) -> Callable[[str], None]:
    """How `trimtab serve` says how far it is: a line of its output, or of the log where that is for programs."""

    def say(line: str) -> None:
        if config.format == "json":
            ROOT.info("%s", line)
        else:
            print(line, flush=True)

    return say


def answered(protocol: str, model: str, request_id: str, variant: str) -> None:
    """A request got its result. For callers that have asked `requests.isEnabledFor(DEBUG)`."""
    requests.debug("answered", extra=_fields(protocol=protocol, model=model, id=_short(request_id), variant=variant))


def failed(protocol: str, what: str, request_id: str, status: int, error: Exception) -> None:
    """A request got an error, `status` being its HTTP status. Clients' mistakes are for level debug, and without their
    words, which may quote the payload; faults of our own come with their traceback."""
    kind = type(error).__name__

    def fields(**more: Any) -> dict[str, Any]:
        return _fields(protocol=protocol, id=_short(request_id), status=status, **more)

    if status < 500:
        if requests.isEnabledFor(logging.DEBUG):
            requests.debug("%s: %s", what, kind, extra=fields())
    elif status == 500:
        requests.error("%s: %s", what, kind, extra=fields(), exc_info=error)
    elif (dropped := sparing.passes(int(time.time()))) is not None:
        requests.warning("%s: %s: %s", what, kind, error, extra=fields(dropped=dropped or ""))


def _fields(**fields: Any) -> dict[str, Any]:
    return {"fields": {key: value for key, value in fields.items() if value != ""}}


def _short(request_id: str) -> str:
    return request_id[:LONGEST_ID]


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, process, pid, logger, message, the record's `fields`, the traceback."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "process": self._process,
            "pid": record.process,
            "logger": record.name,
            "message": record.getMessage(),
            **_of(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextLines(logging.Formatter):
    """One line for people: time, level, process, message, the record's plain fields as key=value; then the traceback."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        message = record.getMessage()
        if not message.isprintable():  # clients choose names and ids: no line of theirs may look like one of ours
            message = json.dumps(message)[1:-1]
        fields = "".join(f" {k}={_plain(v)}" for k, v in _of(record).items() if isinstance(v, str | int | float))
        line = f"{_time(record)} {record.levelname} {self._process}[{record.process}] {message}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _of(record: logging.LogRecord) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = getattr(record, "fields", {})
    return fields


def _plain(value: str | float) -> str:
    text = str(value)
    return text if text.isprintable() and " " not in text else json.dumps(text)


class Sparing:
    """Lets `FAILURES_A_SECOND` lines through each second: an overloaded server must not also drown in its log. It is asked
    before a line is made, which takes longer than all else about a refusal."""

    def __init__(self) -> None:
        self._second = 0
        self._seen = 0

    def passes(self, second: int) -> int | None:
        """None: this line is kept back, in this second of the clock. Else how many were in the second before it in which
        there were any; told once."""
        dropped = 0
        if second != self._second:
            dropped = max(0, self._seen - FAILURES_A_SECOND)
            self._second, self._seen = second, 0
        self._seen += 1
        return dropped if self._seen <= FAILURES_A_SECOND else None


sparing = Sparing()


class Datagrams(logging.Handler):
    """Sends each line to the socket of `Receiver`, and never waits: what cannot be sent now goes to stderr."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
            return
        try:
            self._socket.sendto(line.encode()[:LONGEST_DATAGRAM], self._path)
        except OSError:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(line + "\n")

    def close(self) -> None:
        """See `logging.Handler`."""
        self._socket.close()
        super().close()


class Receiver:
    """Writes the lines that other processes send to a socket at `path` to a stream, from a thread of its own. A socket that
    is bound already (handed over by the process before) may be given instead."""

    def __init__(self, path: Path | socket.socket, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stderr
        if isinstance(path, Path):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            self._socket.bind(str(path))
            path.chmod(0o600)
        else:
            self._socket = path
            self._socket.setblocking(True)
        self._path = self._socket.getsockname()
        self._thread = threading.Thread(target=self._run, name="trimtab-logs", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while line := self._socket.recv(LONGEST_DATAGRAM):
            with contextlib.suppress(OSError, ValueError):
                self._stream.write(line.decode(errors="replace") + "\n")
                self._stream.flush()

    def detach(self) -> int:
        """Write what has arrived, and stop; the socket's descriptor, which stays open for what is executed next."""
        if self._thread.is_alive():
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mine:
                mine.sendto(b"", self._path)
            self._thread.join(timeout=5)
        self._socket.set_inheritable(True)
        return self._socket.detach()

    def close(self) -> None:
        """Write what has arrived, and stop. Idempotent."""
        if self._socket.fileno() >= 0:
            os.close(self.detach())
