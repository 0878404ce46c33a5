"""Bad input in bulk on the admin port. Afterwards it serves, has answered no 5xx that was not meant, and has its memory back."""

from __future__ import annotations

import contextlib
import gzip
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.security.test_fuzz import SLACK, drip, resident

BODY_LIMIT = 64 << 10
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Admin:
    """The port, and whose it is."""

    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def healthy(self) -> None:
        """It answers, and the controller ticks."""
        answer = httpx.get(f"{self.url}/admin/v1/status", trust_env=False, timeout=30)
        assert answer.json()["error"] == ""


@pytest.fixture(scope="module")
def process(free_port: Callable[[], int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    port = free_port()
    command = [sys.executable, str(HERE / "admin_process.py"), str(tmp_path_factory.mktemp("admin")), str(port)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "ready"
        yield Admin(port, child.pid)
    finally:
        child.terminate()
        child.wait(20)
        assert child.stdout is not None
        child.stdout.close()


@pytest.fixture
def unharmed(process: Admin) -> Iterator[Admin]:
    """The port, checked afterwards."""
    process.healthy()
    before = resident(process.pid)
    yield process
    process.healthy()
    deadline = time.monotonic() + 15
    while resident(process.pid) > before + SLACK:
        assert time.monotonic() < deadline, f"{resident(process.pid) - before} bytes are not given back"
        time.sleep(0.2)


def fuzz(schema: Any, examples: int) -> None:
    """Every operation with generated and with deliberately wrong input: no 5xx, answers as described."""
    import hypothesis
    import schemathesis

    done = set()
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path.endswith("/events"):
            continue  # has no end
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):

            @hypothesis.settings(
                max_examples=examples,
                deadline=None,
                database=None,
                derandomize=True,
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
            def check(case: Any) -> None:
                case.call_and_validate(excluded_checks=[])

            with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # nothing in it can be wrong
                check()
                done.add((operation.method, operation.path, mode))
    assert {(method, path) for method, path, mode in done if mode is schemathesis.GenerationMode.POSITIVE} == {
        (method, path)
        for path, operations in schema.raw_schema["paths"].items()
        for method in operations
        if not path.endswith(("/events", "/openapi.json"))  # the description itself is left out by schemathesis
    }
    assert len(done) >= 22


@pytest.mark.parametrize("examples", [10, pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_schemathesis(unharmed: Admin, examples: int) -> None:
    import schemathesis

    fuzz(schemathesis.openapi.from_url(f"{unharmed.url}/admin/v1/openapi.json"), examples)


def test_oversized_bodies_and_bombs(unharmed: Admin) -> None:
    pin = f"{unharmed.url}/admin/v1/pin"
    json = {"content-type": "application/json"}
    with httpx.Client(trust_env=False, timeout=30) as client:
        for content, more, expected in (
            (b" " * (BODY_LIMIT + 1), {}, {413}),
            (gzip.compress(b"[" * (64 << 20)), {"content-encoding": "gzip"}, {400, 413, 415}),
            (b"[" * 60_000, {}, {400}),  # deeply nested
            (b'{"model": "' + b"a" * 60_000 + b'", "variant": null}', {}, {400, 404}),
        ):
            answer = client.post(pin, content=content, headers=json | more)
            assert answer.status_code in expected, (answer.status_code, answer.text[:200])

        def endless() -> Iterator[bytes]:
            for _ in range(64):
                yield b" " * (BODY_LIMIT // 8)

        try:
            status = client.post(pin, content=endless(), headers=json).status_code
        except httpx.HTTPError:  # cut off on the way
            status = 413
        assert status == 413


def test_slow_clients_and_half_requests(unharmed: Admin) -> None:
    body = b"POST /admin/v1/pin HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 9000\r\n\r\n"
    sockets = []
    try:
        for start in (b"", b"GET", b"GET /admin/v1/status HTTP/1.1\r\nx", b"PRI * HTTP/2.0\r\n\r\n", b"\0" * 1000) * 8:
            sockets.append(socket.create_connection(("127.0.0.1", unharmed.port), timeout=5))
            with contextlib.suppress(OSError):
                sockets[-1].sendall(start)
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: drip(unharmed.port, body, b" ", 25.0), range(16)))
            unharmed.healthy()
        assert all(answer == b"" or answer.startswith((b"HTTP/1.1 408", b"HTTP/1.1 400")) for answer in answers), (
            answers
        )
        for connection in sockets:  # all of them were let go
            connection.settimeout(10)
            with contextlib.suppress(ConnectionError):
                while connection.recv(4096):
                    pass
    finally:
        for connection in sockets:
            connection.close()


def test_listeners_that_come_and_go(unharmed: Admin) -> None:
    """Streams of events, left without a word: their places are free again."""
    request = b"GET /admin/v1/events HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    for _ in range(4):
        listeners = []
        for _ in range(40):
            listeners.append(socket.create_connection(("127.0.0.1", unharmed.port), timeout=10))
            listeners[-1].sendall(request)
        answers = {listener.recv(12) for listener in listeners}
        assert answers <= {b"HTTP/1.1 200", b"HTTP/1.1 503"}
        for listener in listeners:
            listener.close()
    deadline = time.monotonic() + 20
    while True:
        with socket.create_connection(("127.0.0.1", unharmed.port), timeout=10) as listener:
            listener.sendall(request)
            if listener.recv(12) == b"HTTP/1.1 200":
                break
        assert time.monotonic() < deadline, "the places are taken still"
        time.sleep(0.2)
