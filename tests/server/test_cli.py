"""The command line: what people and programs get, and what goes wrong said in one line."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import typer
import yaml

from server.cli import app

STATUS = {
    "generation": 12,
    "at": 1.0,
    "error": "",
    "budgets": [
        {"name": "ram", "state": "scaling", "ratio": 0.934, "usage": 3 * 2**30, "limit": 4 * 2**30, "slope": 0.1},
        {"name": "gpu", "state": "calm", "ratio": None, "usage": None, "limit": None, "missing": "not exposed"},
        {"name": "slo:minilm", "state": "calm", "ratio": 0.2, "usage": 0.05, "limit": 0.25},
    ],
    "models": {
        "minilm": {
            "variant": "int8",
            "rung": 1,
            "ladder": [{"variant": "fp32"}, {"variant": "int8"}],
            "quality": 0.9971,
            "resident_bytes": 108 * 2**20,
            "rate": 12.5,
            "latency": 0.0031,
            "pinned": True,
        },
        "wine": {"variant": None, "rung": None, "ladder": [], "quality": None, "pinned": False},
        "mnist": {"variant": "fp32", "rung": 0, "ladder": [{"variant": "fp32"}], "unloaded": True},
    },
}


class Server:
    """Answers the admin API from a table and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.answers: dict[str, tuple[int, bytes]] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                outer.asked.append((self.command, self.path, body))
                status, content = outer.answers.get(self.path.split("?")[0], (404, b'{"error": "no such thing"}'))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PATCH = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


Run = Callable[..., tuple[int, str, str]]


def test_status_for_people_and_programs(trimtab: Run, server: Server) -> None:
    server.answers["/admin/v1/status"] = (200, json.dumps(STATUS).encode())
    code, text, _ = trimtab("status", "--url", server.url)
    assert code == 0
    for part in (
        "plan 12",
        "scaling",
        "0.93",
        "3.00 GiB",
        "not exposed",
        "50.0 ms",
        "1/1",
        "108.0 MiB",
        "parked",
        "unloaded",
    ):
        assert part in text, part
    code, text, _ = trimtab("status", "--url", server.url, "--json")
    assert (code, json.loads(text)) == (0, STATUS)


def test_explain_prints_sentences_as_they_are(trimtab: Run, server: Server) -> None:
    server.answers["/admin/v1/explain"] = (200, b'{"lines": ["[red]not markup[/]", "second"]}')
    assert trimtab("explain", "minilm", "--url", server.url)[1] == "[red]not markup[/]\nsecond\n"
    assert server.asked == [("GET", "/admin/v1/explain?model=minilm", None)]


def test_what_if(trimtab: Run, server: Server) -> None:
    found = {"budget": "ram", "usage": 900 << 20, "limit": 950 << 20, "infeasible": ["ram"], "missing": ""}
    found["swaps"] = [{"sentence": "degrade a: x -> y"}]
    server.answers["/admin/v1/what-if"] = (200, json.dumps(found).encode())
    code, text, _ = trimtab("what-if", "ram", "--smaller", "2GiB", "--url", server.url)
    assert (code, text) == (0, "ram at 900 MiB of 950 MiB:\n  degrade a: x -> y\n  could not be kept: ram\n")
    trimtab("what-if", "ram", "--larger", "1024", "--url", server.url)
    asked = [path for _, path, _ in server.asked]
    assert asked == [f"/admin/v1/what-if?budget=ram&delta_bytes={n}" for n in (-(2 << 30), 1024)]
    assert trimtab("what-if", "ram", "--url", server.url)[0] == 2
    assert trimtab("what-if", "ram", "--smaller", "much", "--url", server.url)[0] == 2


def test_pinning(trimtab: Run, server: Server) -> None:
    server.answers["/admin/v1/pin"] = (200, b'{"minilm": "int8", "wine": null}')
    server.answers["/admin/v1/unpin"] = (200, b"{}")
    assert (
        trimtab("swap", "minilm", "--pin", "int8", "--url", server.url)[1] == "pinned: minilm -> int8, wine -> parked\n"
    )
    trimtab("swap", "wine", "--pin", "parked", "--url", server.url)
    assert trimtab("unpin", "minilm", "--url", server.url)[1] == "pinned: none\n"
    assert [body for _, _, body in server.asked] == [
        {"model": "minilm", "variant": "int8"},
        {"model": "wine", "variant": None},
        {"model": "minilm"},
    ]


def test_a_refusal_is_one_line(trimtab: Run, server: Server) -> None:
    server.answers["/admin/v1/pin"] = (404, b'{"error": "no model \'x\'; there are: minilm"}')
    code, out, err = trimtab("swap", "x", "--pin", "int8", "--url", server.url)
    assert (code, out, err) == (1, "", "error: no model 'x'; there are: minilm\n")
    server.answers["/admin/v1/status"] = (502, b"<html>")
    code, _, err = trimtab("status", "--url", server.url)
    assert code == 1
    assert "HTTP 502, not JSON: <html>" in err


def test_nobody_there(trimtab: Run, free_port: Callable[[], int]) -> None:
    code, _, err = trimtab("status", "--url", f"http://127.0.0.1:{free_port()}")
    assert code == 1
    assert "is the server's admin port there? (--url says where)" in err


def test_ladders(trimtab: Run, affine_repository: Path) -> None:
    code, text, _ = trimtab("ladder", str(affine_repository), "--json")
    assert code == 0
    rows = json.loads(text)["models"]
    assert set(rows) == {"alpha", "beta"}
    by_variant = {r["variant"]: r for r in rows["alpha"]}
    assert [by_variant[v]["rung"] for v in ("full", "lite", "broken")] == [0, 1, None]
    code, text, _ = trimtab("ladder", str(affine_repository / "alpha"))
    assert code == 0
    assert "not profiled" in text
    assert "beta" not in text


def test_a_folder_without_models(trimtab: Run, tmp_path: Path) -> None:
    code, _, err = trimtab("ladder", str(tmp_path))
    assert code == 1
    assert err == f"error: {tmp_path}: no model.yaml here or one folder below\n"


def test_a_model_without_measurements_is_profiled(trimtab: Run, affine_repository: Path, tmp_path: Path) -> None:
    """For real: each variant in a fresh process."""
    folder = tmp_path / "alpha"
    shutil.copytree(affine_repository / "alpha", folder)
    code, text, err = trimtab("profile", str(folder), "--variant", "broken", "--threads", "1")
    assert (code, text) == (0, "alpha: measured broken\n"), err
    rows = json.loads(trimtab("ladder", str(folder), "--json")[1])["models"]["alpha"]
    broken = next(r for r in rows if r["variant"] == "broken")
    assert broken["quality"] is not None
    assert (
        trimtab("profile", str(folder), "--variant", "broken", "--threads", "1")[1] == "alpha: measured nothing new\n"
    )


def test_a_repository_is_fetched(trimtab: Run, affine_repository: Path, tmp_path: Path) -> None:
    target = tmp_path / "models"
    code, text, err = trimtab("fetch", f"file://{affine_repository}", str(target))
    assert code == 0, err
    assert text.splitlines()[-1].startswith("verified alpha, beta: ")
    assert (target / "alpha" / "model.yaml").is_file()
    for options in ("{", "[1]"):
        code, _, err = trimtab("fetch", "s3://bucket", str(target), "--options", options)
        assert code == 1
        assert err.startswith("error: --options: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repository": "nowhere"}, "nowhere"),
        ({"colour": "red"}, "colour"),
        ({"models": {"gamma": {"weight": 2}}}, "gamma"),
        ({"models": {"alpha": {"pin": "int3"}}}, "int3"),
    ],
)
def test_serve_refuses_a_config_that_does_not_fit(
    trimtab: Run, affine_repository: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    config = tmp_path / "trimtab.yaml"
    config.write_text(yaml.safe_dump({"repository": str(affine_repository), **change}))
    code, _, err = trimtab("serve", "--config", str(config))
    assert code == 1
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err


def test_the_installed_command_lists_its_commands() -> None:
    command = Path(sys.executable).parent / "trimtab"
    done = subprocess.run([command, "--help"], capture_output=True, text=True, timeout=60, check=True)
    named = list(typer.main.get_command(app).commands)
    assert len(named) >= 8
    for name in named:
        assert name in done.stdout


def test_the_plan_in_words(trimtab: Run, server: Server) -> None:
    hold = {"model": "wine", "variant": None, "reason": "cooldown: 3 s left"}
    plan = {"now": 100.0, "at": 103.0, "swaps": [{"sentence": "degrade minilm: [fp32] -> int8"}], "holds": [hold]}
    server.answers["/admin/v1/plan"] = (200, json.dumps(plan).encode())
    _, text, _ = trimtab("plan", "--url", server.url)
    assert text.splitlines() == [
        "in 3 s, if nothing changes:",
        "  degrade minilm: [fp32] -> int8",
        "not now: wine: cooldown: 3 s left",
    ]


def test_decisions_oldest_first_and_where_there_are_more(trimtab: Run, server: Server) -> None:
    told = [{"at": float(at), "generation": at, "sentences": [f"event {at}"] if at != 2 else []} for at in (3, 2, 1)]
    server.answers["/admin/v1/decisions"] = (200, json.dumps({"decisions": told, "next": 1.0}).encode())
    _, text, _ = trimtab("decisions", "-n", "3", "--url", server.url)
    assert [line.rpartition("] ")[2] for line in text.splitlines()] == [
        "event 1",
        "event 3",
        "older ones: --before 1.0",
    ]
    assert server.asked[0][1] == "/admin/v1/decisions?limit=3"


BUDGET = {
    "name": "ram",
    "resource": "ram",
    "scope": "trimtab",
    "limit": 3 << 30,
    "limit_fraction": None,
    "enter": 0.9,
    "exit": 0.75,
    "enter_seconds": 1.0,
    "exit_seconds": 10.0,
    "reserve": 0,
    "overridden": {"limit": 3 << 30},
}


def test_budgets(trimtab: Run, server: Server) -> None:
    server.answers["/admin/v1/budgets"] = (200, json.dumps({"budgets": [BUDGET]}).encode())
    server.answers["/admin/v1/budgets/ram"] = (200, json.dumps(BUDGET).encode())
    _, text, _ = trimtab("budgets", "list", "--url", server.url)
    assert "3.00 GiB *" in text
    trimtab("budgets", "set", "ram", "--limit", "3GiB", "--enter", "0.8", "--reserve", "1000", "--url", server.url)
    trimtab("budgets", "reset", "ram", "--url", server.url)
    assert server.asked[1:] == [
        ("PATCH", "/admin/v1/budgets/ram", {"limit": "3GiB", "enter": 0.8, "reserve": 1000}),
        ("DELETE", "/admin/v1/budgets/ram", None),
    ]
    assert trimtab("budgets", "set", "ram", "--url", server.url)[0] != 0


def test_swapping_once_parking_clearing_reloading(trimtab: Run, server: Server) -> None:
    server.answers["/admin/v1/swap"] = (202, b'{"generation": 7, "holds": ["waiting: a host"]}')
    server.answers["/admin/v1/park"] = (200, b'{"wine": null}')
    server.answers["/admin/v1/quarantine/clear"] = (200, b"{}")
    server.answers["/admin/v1/reload"] = (200, b'{"applied": ["budgets.ram"], "restart": ["server.http_port"]}')
    assert trimtab("swap", "minilm", "int8", "--url", server.url)[1] == (
        "minilm -> int8: plan 7\nwaiting: waiting: a host\n"
    )
    assert trimtab("park", "wine", "--url", server.url)[1] == "pinned: wine -> parked\n"
    trimtab("quarantine", "clear", "minilm", "int8", "--url", server.url)
    assert trimtab("reload", "--url", server.url)[1] == "applied: budgets.ram\nneeds a restart: server.http_port\n"
    assert [body for _, _, body in server.asked] == [
        {"model": "minilm", "variant": "int8"},
        {"model": "wine"},
        {"model": "minilm", "variant": "int8"},
        None,
    ]
    assert trimtab("swap", "minilm", "--url", server.url)[0] != 0


def test_a_token_is_made_with_its_sum(trimtab: Run) -> None:
    _, text, _ = trimtab("token")
    lines = dict(line.split(": ") for line in text.replace("token:  ", "token: ").splitlines())
    assert hashlib.sha256(lines["token"].encode()).hexdigest() == lines["sha256"]
    assert len(lines["token"]) == 43
