"""What `server.haproxy` changes of how HAProxy carries requests, seen on a real one before the protocol server."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from server.haproxy import FULL, command, hardened
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
        with front(environment, ("127.0.0.1:514", target)) as (url, _):
            assert httpx.get(f"{url}/v2/health/live", trust_env=False).status_code == 200
            seen = []
            with contextlib.suppress(TimeoutError):
                while True:
                    seen.append(receiver.recv(10000))
    assert any(b"/v2/health/live" in line for line in seen) is wanted


class Crowded(ThreadingHTTPServer):
    """A host whose model `full` has no room; `seen` are the requests that reach it."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer.seen.append(self.path)
                if "chunked" in self.headers.get("transfer-encoding", ""):
                    while self.rfile.readline() != b"0\r\n":
                        pass
                    self.rfile.readline()
                self.rfile.read(int(self.headers.get("content-length", 0)))
                self.send_response(503 if "/full/" in self.path else 200)
                if "/full/" in self.path:
                    self.send_header(FULL, "1")
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def do_GET(self) -> None:  # HAProxy's health check
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def crowded() -> Iterator[Crowded]:
    server = Crowded()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_a_host_has_no_room_for_is_refused_in_front_of_it(crowded: Crowded, free_port: Callable[[], int]) -> None:
    with tempfile.TemporaryDirectory(prefix="trimtab-test-", dir="/tmp") as folder, contextlib.ExitStack() as stack:
        http, rpc, stats, metrics = (free_port() for _ in range(4))
        behind = (int(crowded.server_address[1]), rpc)
        config = render(Path(folder), http=http, grpc=free_port(), behind=behind, stats=stats, metrics=metrics)
        text = hardened(config.read_text(), {}, None)
        assert "expire 10ms" in text
        config.write_text(text.replace("expire 10ms", "expire 10m"))
        stack.enter_context(haproxy(config, {}, http))
        client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{http}", trust_env=False, timeout=20))
        path, other = "/v2/models/full/infer", "/v2/models/other/infer"
        first = client.post(path, json={})
        assert (first.status_code, first.json(), FULL in first.headers) == (503, {}, False)
        assert crowded.seen == [path]
        refused = client.post(path, json={"inputs": []})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json() == {"error": "the model's queue is full"}
        assert crowded.seen == [path]
        # … but not what may have a priority of its own, nor what is another model's
        assert client.post(path, json={"parameters": {"priority": 1}}).json() == {}
        assert client.post(path, json={}, headers={"X-Trimtab-Priority": "1"}).json() == {}
        assert client.post(path, content=b"x" * 10000).json() == {}
        assert client.post(path, content=b"zipped", headers={"content-encoding": "gzip"}).json() == {}
        assert client.post(path, content=iter([b"in", b"pieces"])).json() == {}
        assert client.post(other, json={}).status_code == 200
        assert crowded.seen == [path] * 6 + [other]


def test_where_another_host_may_have_room_it_is_asked() -> None:
    text = (
        "global\ndefaults\nfrontend http_frontend\n    bind 127.0.0.1:1\n    use_backend http-a if is_http-a\n"
        "backend http-a\n    server one 127.0.0.1:7 check\n{}frontend grpc_frontend\n    bind 127.0.0.1:2 proto h2\n"
    )
    assert "trimtab_full" in hardened(text.format(""), {}, None)
    assert "trimtab_full" not in hardened(text.format("    server two 127.0.0.1:8 check\n"), {}, None)
