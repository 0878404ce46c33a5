"""What `server.haproxy` changes of how HAProxy carries requests, seen on a real one before the protocol server."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from server.haproxy import command
from tests.security.proxied import haproxy, render
from tests.server.conftest import Ports

Front = Callable[..., contextlib.AbstractContextManager[tuple[str, Path]]]


@pytest.fixture
def front(protocol_server: Ports, free_port: Callable[[], int]) -> Iterator[Front]:
    """front(environment, replaced): a running HAProxy's URL and admin socket; `replaced` in the configuration beforehand."""
    folder = Path(tempfile.mkdtemp(prefix="trimtab-test-", dir="/tmp"))
    http, rpc, stats, metrics = (free_port() for _ in range(4))

    @contextlib.contextmanager
    def run(environment: dict[str, str], *replaced: tuple[str, str]) -> Iterator[tuple[str, Path]]:
        behind = (protocol_server.http, protocol_server.grpc)
        config = render(folder, http=http, grpc=rpc, behind=behind, stats=stats, metrics=metrics)
        text = config.read_text()
        for old, new in replaced:
            assert old in text
            text = text.replace(old, new)
        config.write_text(text)
        with haproxy(config, environment, http):
            yield f"http://127.0.0.1:{http}", folder / "admin.sock"

    yield run
    shutil.rmtree(folder, ignore_errors=True)


def test_connections_to_hosts_are_kept_however_many_clients_have_one(front: Front) -> None:
    clients = 40
    with front({}, ("maxconn ", "maxconn 50 #")) as (url, admin), contextlib.ExitStack() as stack:
        for _ in range(clients):
            client = stack.enter_context(httpx.Client(base_url=url, trust_env=False, timeout=20))
            assert client.get("/v2/health/live").status_code == 200  # and its connection stays
        lines = [line.split(",") for line in command(str(admin), "show stat").splitlines()]
        [server] = [line for line in lines if line[:2] == ["http-trimtab", "http-trimtab-0"]]
        made, reused = (int(server[lines[0].index(column)]) for column in ("connect", "reuse"))
    assert made + reused == clients
    assert made <= 2


@pytest.mark.parametrize("wanted", [False, True])
def test_a_line_about_each_request_is_sent_only_where_somebody_said_where(front: Front, wanted: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(0.5)
        target = f"127.0.0.1:{receiver.getsockname()[1]}"
        environment = {"RAY_SERVE_HAPROXY_LOG_TARGET": target} if wanted else {}
        with front(environment, ("log 127.0.0.1:514 ", f"log {target} ")) as (url, _):  # not the start of a port
            assert httpx.get(f"{url}/v2/health/live", trust_env=False).status_code == 200
            seen = []
            with contextlib.suppress(TimeoutError):
                while True:
                    seen.append(receiver.recv(10000))
    assert any(b"/v2/health/live" in line for line in seen) is wanted
