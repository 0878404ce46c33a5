from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

SERVER = Path(__file__).parents[1] / "server" / "protocol_server.py"
#: Token by the caller's name; what each may do is in `entries`.
TOKENS = {
    "infer": "token-of-infer",
    "read": "token-of-read",
    "operate": "token-of-operate",
    "scoped": "token-of-scoped",
    "scoped-operate": "token-of-scoped-operate",
    "limited": "token-of-limited",
}


def sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def entries() -> list[dict[str, Any]]:
    return [
        {"name": "infer", "sha256": sha256(TOKENS["infer"]), "role": "infer"},
        {"name": "read", "sha256": sha256(TOKENS["read"]), "role": "read"},
        {"name": "operate", "sha256": sha256(TOKENS["operate"]), "roles": ["operate"]},
        {"name": "scoped", "sha256": sha256(TOKENS["scoped"]), "role": "infer", "models": ["echo_*"]},
        {
            "name": "scoped-operate",
            "sha256": sha256(TOKENS["scoped-operate"]),
            "roles": ["operate", "infer"],
            "models": ["echo_*", "wine"],
        },
        {"name": "limited", "sha256": sha256(TOKENS["limited"]), "role": "infer", "requests_per_second": 2},
        {"name": "machine", "certificate": "robot", "role": "infer"},
    ]


@dataclass(frozen=True)
class Serving:
    """A protocol server that asks who calls."""

    http: int
    grpc: int
    tokens: Path
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}"

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.grpc}"


@contextmanager
def running(*arguments: str) -> Iterator[int]:
    """`tests/server/protocol_server.py`, until the block ends; yields its pid."""
    process = subprocess.Popen([sys.executable, str(SERVER), *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(scope="session")
def tokens_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "tokens.yaml"
    path.write_text(yaml.safe_dump(entries()))
    return path


@pytest.fixture(scope="session")
def serving(tokens_file: Path, free_port: Callable[[], int]) -> Iterator[Serving]:
    http, grpc = free_port(), free_port()
    with running(str(http), str(grpc), str(tokens_file)) as pid:
        yield Serving(http, grpc, tokens_file, pid)


@pytest.fixture(scope="session")
def open_server(free_port: Callable[[], int]) -> Iterator[Serving]:
    """The same server, asking nobody."""
    http, grpc = free_port(), free_port()
    with running(str(http), str(grpc)) as pid:
        yield Serving(http, grpc, Path("/nonexistent"), pid)
