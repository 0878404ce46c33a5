"""The health check of a container."""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from server.alive import main, url_of


@pytest.fixture
def answering() -> Iterator[Callable[..., int]]:
    """answering(status, context=None): the port of a server that gives that status where it is asked whether it lives."""
    servers: list[http.server.HTTPServer] = []

    def start(status: int, context: ssl.SSLContext | None = None) -> int:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status if self.path == "/v2/health/live" else 404)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        made = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        if context is not None:
            made.socket = context.wrap_socket(made.socket, server_side=True)
        threading.Thread(target=made.serve_forever, daemon=True).start()
        servers.append(made)
        return int(made.server_address[1])

    yield start
    for made in servers:
        made.shutdown()
        made.server_close()


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Path]:
    def write(**server: object) -> Path:
        path = tmp_path / "trimtab.yaml"
        path.write_text(yaml.safe_dump({"server": server} if server else {}))
        return path

    return write


@pytest.mark.parametrize(
    ("server", "url"),
    [
        ({}, "http://127.0.0.1:8000/v2/health/live"),
        ({"host": "0.0.0.0", "http_port": 1234}, "http://127.0.0.1:1234/v2/health/live"),
        ({"host": "::", "tls": {"certificate": "c", "key": "k"}}, "https://[::1]:8000/v2/health/live"),
        ({"host": "10.1.2.3"}, "http://10.1.2.3:8000/v2/health/live"),
    ],
)
def test_where_it_asks(config: Callable[..., Path], server: dict[str, object], url: str) -> None:
    assert url_of(config(**server)) == url


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_it_says_what_the_server_says(
    config: Callable[..., Path], answering: Callable[..., int], status: int, code: int
) -> None:
    assert main([str(config(http_port=answering(status)))]) == code


def test_what_does_not_answer_is_not_alive(
    config: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([str(config(http_port=1))]) == 1
    assert "trimtab.yaml" in capsys.readouterr().err
    assert main([str(tmp_path / "nothing.yaml")]) == 1
    assert "nothing.yaml" in capsys.readouterr().err
