"""`/admin/v1` over a real control loop: what each operation does, and what is refused how."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from server.admin.app import AdminApp
from server.admin.events import Hub
from server.admin.reload import Reloader
from server.admin.requests import MAX_BODY
from server.settings import load_settings
from tests.server.admin_world import MIB, Rig, document

BASE = "http://127.0.0.1:8002"


@dataclass
class Admin:
    """The application, a client of it, and the world behind it."""

    rig: Rig
    app: AdminApp
    client: httpx.AsyncClient
    config: Path
    reloader: Reloader

    async def get(self, path: str, **query: Any) -> Any:
        answer = await self.client.get(f"/admin/v1/{path}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def call(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        extra = {} if body is None else {"json": body}
        answer = await self.client.request(method, f"/admin/v1/{path}", **extra, **options)
        return answer.status_code, answer.json()


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[Admin]:
    config = tmp_path / "trimtab.yaml"
    config.write_text(yaml.safe_dump(document(tmp_path)))
    settings = load_settings(config)
    rig = Rig(settings)
    reloader = Reloader(settings, rig.control)
    app = AdminApp(rig.control, reloader, hub=Hub(clients=2, queue=8, heartbeat_seconds=0.05))
    async with rig, httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=BASE) as client:
        await rig.until(lambda: rig.control.status()["at"] is not None)
        yield Admin(rig, app, client, config, reloader)


async def test_what_there_is_to_see(admin: Admin) -> None:
    status = await admin.get("status")
    assert status["models"]["minilm"]["variant"] == "fp32"
    assert [b["name"] for b in status["budgets"]] == ["ram"]
    plan = await admin.get("plan")
    assert plan["assignment"] == {"minilm": "fp32", "wine": "fp32"}
    assert (plan["swaps"], plan["at"]) == ([], None)
    explained = await admin.get("explain", model="wine")
    assert explained["lines"][-1] == "now: wine runs fp32"
    assert (explained["why"]["variant"], explained["restore"]["rungs"]) == ("fp32", [])
    described = (await admin.get("openapi.json"))["paths"]
    assert {"/admin/v1/status", "/admin/v1/budgets/{name}", "/admin/v1/events"} <= set(described)


async def test_what_would_follow_from_another_limit(admin: Admin) -> None:
    ram = (await admin.get("status"))["budgets"][0]
    less = int(ram["usage"] / 0.95 - ram["limit"])
    answer = await admin.get("what-if", budget="ram", delta_bytes=less)
    assert answer["limit"] == ram["limit"] + less
    assert answer["swaps"]
    assert answer["swaps"][0]["sentence"].startswith("degrade ")
    assert (await admin.get("what-if", budget="ram", delta_bytes=0))["swaps"] == []
    assert (await admin.get("status"))["generation"] == answer_generation(await admin.get("plan"))
    status, refused = await admin.call("GET", "what-if?budget=x&delta_bytes=1")
    assert (status, refused["error"]) == (404, "no memory budget 'x'; there are: ram")


def answer_generation(plan: Any) -> int:
    return int(plan["generation"])


async def test_a_swap_is_made_once_and_is_no_pin(admin: Admin) -> None:
    before = (await admin.get("status"))["generation"]
    status, answer = await admin.call("POST", "swap", {"model": "minilm", "variant": "int8"})
    assert (status, answer["generation"], answer["holds"]) == (202, before + 1, [])
    assert admin.rig.world.variants == {"minilm": "int8", "wine": "fp32"}
    assert (await admin.get("status"))["pins"] == {}
    assert (await admin.get("status"))["models"]["minilm"]["pinned"] is False

    def restoring() -> bool:
        """The controller is after the best rung again: it says what it still waits for."""
        holds = admin.rig.control.status()["holds"]
        return any((h["model"], h["variant"]) == ("minilm", "fp32") and "not restored" in h["reason"] for h in holds)

    await admin.rig.until(restoring)


async def test_a_pinned_model_is_not_swapped(admin: Admin) -> None:
    assert await admin.call("POST", "pin", {"model": "minilm", "variant": "int8"}) == (200, {"minilm": "int8"})
    status, answer = await admin.call("POST", "swap", {"model": "minilm", "variant": "fp32"})
    assert status == 409
    assert answer["error"] == "model 'minilm' is pinned to int8 by hand; unpin it first"
    await admin.rig.until(lambda: admin.rig.world.variants["minilm"] == "int8")
    assert await admin.call("POST", "unpin", {"model": "minilm"}) == (200, {})


async def test_parking_is_the_operators_right(admin: Admin) -> None:
    assert await admin.call("POST", "park", {"model": "wine"}) == (200, {"wine": None})
    await admin.rig.until(lambda: admin.rig.world.variants["wine"] is None)


async def test_quarantine(admin: Admin) -> None:
    admin.rig.world.fails = {("minilm", "int8")}
    await admin.call("POST", "swap", {"model": "minilm", "variant": "int8"})

    async def refused() -> str:
        return (await admin.call("POST", "swap", {"model": "minilm", "variant": "int8"}))[1].get("error", "")

    async with asyncio.timeout(20):
        while "quarantined" not in await refused():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    body = {"model": "minilm", "variant": "int8"}
    assert await admin.call("POST", "quarantine/clear", body) == (200, body)
    status, answer = await admin.call("POST", "quarantine/clear", body)
    assert (status, answer["error"]) == (409, "minilm/int8 is not quarantined")


async def test_a_budget_is_changed_seen_journalled_and_reset(admin: Admin) -> None:
    admin.rig.world.used_mib = 500
    status, budget = await admin.call("PATCH", "budgets/ram", {"limit": "600MiB", "enter": 0.8})
    assert (status, budget["limit"], budget["enter"]) == (200, 600 * MIB, 0.8)
    assert budget["overridden"] == {"limit": 600 * MIB, "enter": 0.8}
    # 500 of 600 MiB is past 0.8: the controller gives back what it can
    await admin.rig.until(lambda: "int8" in admin.rig.world.variants.values())
    lines = [json.loads(line) for line in admin.rig.journal.read_text().splitlines()]
    assert lines[-1]["overrides"]["ram"]["limit"] == 600 * MIB
    again = Rig(load_settings(admin.config))
    assert again.control.budgets()[0]["limit"] == 600 * MIB  # another controller, the same journal
    _, budget = await admin.call("PATCH", "budgets/ram", {"enter": None})
    assert (budget["enter"], budget["overridden"]) == (0.9, {"limit": 600 * MIB})
    _, budget = await admin.call("DELETE", "budgets/ram")
    assert (budget["limit"], budget["overridden"]) == (1000 * MIB, {})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"exit": 0.95}, "exit (0.95) must be below enter (0.9)"),
        ({"limit": "3 parsecs"}, "KiB"),
        ({"limit": -1}, "above 0"),
        ({"enter": "0.9"}, "enter: "),
        ({"name": "x"}, "name: "),
    ],
)
async def test_a_budget_that_would_be_wrong(admin: Admin, body: Any, message: str) -> None:
    status, answer = await admin.call("PATCH", "budgets/ram", body)
    assert status == 400
    assert message in answer["error"]
    assert (await admin.get("budgets/ram"))["overridden"] == {}


async def test_decisions_are_paged_from_memory_into_the_journal(admin: Admin) -> None:
    for variant in ("int8", "fp32") * 3:
        await admin.call("POST", "pin", {"model": "wine", "variant": variant})
        await admin.rig.until(lambda v=variant: admin.rig.world.variants["wine"] == v)
    whole = (await admin.get("decisions", limit=500))["decisions"]
    assert [d["at"] for d in whole] == sorted((d["at"] for d in whole), reverse=True)
    assert any("pin wine: fp32 -> int8" in s for d in whole for s in d["sentences"])
    again = Rig(load_settings(admin.config)).control  # nothing in memory: all from the journal
    paged, before = [], None
    while True:
        page = await again.decisions(before, 4)
        paged += page["decisions"]
        before = page["next"]
        if before is None:
            break
    assert [d["at"] for d in paged][-len(whole) :] == [d["at"] for d in whole]
    assert [d["sentences"] for d in paged][-len(whole) :] == [d["sentences"] for d in whole]


async def test_reload(admin: Admin) -> None:
    changed = document(admin.config.parent)
    changed["budgets"][0]["limit"] = 800 * MIB
    changed["models"] = {"minilm": {"weight": 5, "batching": {"max_batch": 2}}}
    changed["server"] = {"http_port": 9999}
    admin.config.write_text(yaml.safe_dump(changed))
    admin.reloader.look()
    assert (await admin.get("budgets/ram"))["limit"] == 800 * MIB
    changed["budgets"][0]["limit"] = 700 * MIB
    admin.config.write_text(yaml.safe_dump(changed))
    status, answer = await admin.call("POST", "reload")
    assert (status, answer["applied"]) == (200, ["budgets.ram"])
    assert answer["restart"] == ["models.minilm.batching", "server.http_port"]
    for text, message in (
        ("budgets: [", "not YAML"),
        (yaml.safe_dump({**changed, "models": {"x": {}}}), "no such model"),
    ):
        admin.config.write_text(text)
        status, answer = await admin.call("POST", "reload")
        assert status == 400
        assert answer["error"].startswith("nothing was changed: ")
        assert message in answer["error"]
    assert (await admin.get("budgets/ram"))["limit"] == 700 * MIB


async def test_a_reload_keeps_what_was_changed_at_run_time(admin: Admin) -> None:
    await admin.call("PATCH", "budgets/ram", {"exit": 0.8})
    changed = document(admin.config.parent)
    changed["budgets"][0] |= {"enter": 0.7, "exit": 0.6}
    admin.config.write_text(yaml.safe_dump(changed))
    status, answer = await admin.call("POST", "reload")
    assert status == 400
    assert "budget 'ram': exit (0.8) must be below enter (0.7)" in answer["error"]
    assert (await admin.get("budgets/ram"))["enter"] == 0.9


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", "pin", b"{", 400, "not JSON"),
        ("POST", "pin", b"[]", 400, "bad request body"),
        ("POST", "pin", b'{"model": "wine"}', 400, "variant: Field required"),
        ("POST", "pin", b'{"model": "", "variant": null}', 400, "model: "),
        ("POST", "pin", b'{"model": "wine", "variant": null, "x": 1}', 400, "x: "),
        ("POST", "pin", b'{"model": "' + b"m" * MAX_BODY + b'"}', 413, f"exceeds {MAX_BODY} bytes"),
        ("POST", "pin", b'{"model": "x", "variant": null}', 404, "no model 'x'; there are: minilm, wine"),
        ("POST", "pin", b'{"model": "wine", "variant": "x"}', 400, "no variant 'x'; it has fp32, int8"),
        ("POST", "reload", b'{"x": 1}', 400, "no request body"),
        ("PATCH", "budgets/x", b"{}", 404, "no budget 'x'; there are: ram"),
        ("GET", "explain?model=x", b"", 404, "no model 'x'"),
        ("GET", "explain?mode=x", b"", 400, "mode: "),
        ("GET", "decisions?limit=501", b"", 400, "limit: "),
        ("GET", "decisions?limit=1&limit=2", b"", 400, "given twice"),
        ("GET", "nothing", b"", 404, "/admin/v1/ has status"),
        ("GET", "../v2", b"", 404, "nothing is at"),
        ("GET", "pin", b"", 405, "use POST"),
        ("PUT", "budgets/ram", b"{}", 405, "use DELETE, GET, PATCH"),
        ("POST", "events", b"{}", 405, "use GET"),
    ],
)
async def test_what_is_refused(admin: Admin, method: str, path: str, body: bytes, status: int, message: str) -> None:
    headers = {"content-type": "application/json"} if body else {}
    answer = await admin.client.request(method, f"/admin/v1/{path}", content=body, headers=headers)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert message in answer.json()["error"]
    if status == 405:
        assert answer.headers["allow"] == answer.json()["error"].rpartition("use ")[2]


async def test_a_body_must_be_json_by_its_type(admin: Admin) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", ""):
        headers = {"content-type": content_type} if content_type else {}
        answer = await admin.client.post("/admin/v1/unpin", content=b'{"model": "wine"}', headers=headers)
        assert answer.status_code == 415


async def test_nothing_of_the_inside_is_told(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> dict[str, Any]:
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr(admin.rig.control, "plan", broken)
    status, answer = await admin.call("GET", "plan")
    assert status == 500
    assert "secret" not in answer["error"]


async def events(app: AdminApp, count: int) -> list[tuple[str, Any]]:
    """The first events of a client that reads them as they come."""
    got: list[tuple[str, Any]] = []
    enough = asyncio.Event()
    buffer = b""

    async def receive() -> Any:
        await enough.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal buffer
        buffer += message.get("body", b"")
        while b"\n\n" in buffer:
            block, _, buffer = buffer.partition(b"\n\n")
            kind, _, data = block.decode().partition("\ndata: ")
            got.append((kind.removeprefix("event: "), json.loads(data) if data else None))
        if len(got) >= count:
            enough.set()

    path = "/admin/v1/events"
    scope = {"type": "http", "method": "GET", "path": path, "headers": [(b"host", b"127.0.0.1")], "query_string": b""}
    async with asyncio.timeout(20):
        await app(scope, receive, send)
    return got


async def test_events(admin: Admin) -> None:
    listening = asyncio.create_task(events(admin.app, 12))
    await admin.rig.until(lambda: admin.app.hub.clients == 1)
    await admin.call("POST", "pin", {"model": "wine", "variant": "int8"})
    got = await listening
    assert got[0][0] == "status"
    assert {kind for kind, _ in got} >= {"status", "decision"}
    decisions = [content for kind, content in got if kind == "decision"]
    assert any("pin wine: fp32 -> int8" in s for d in decisions for s in d["sentences"])
    stored = (await admin.get("decisions", limit=500))["decisions"]
    assert all(d in stored for d in decisions)
    await admin.rig.until(lambda: admin.app.hub.clients == 0)


async def test_a_heartbeat_where_nothing_happens() -> None:
    sent: list[bytes] = []
    hub = Hub(heartbeat_seconds=0.01)

    async def receive() -> Any:
        while len(sent) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    await hub.serve(receive, send, b"first")
    assert sent[1:3] == [b"first", b": still here\n\n"]


async def test_listeners_are_bounded_and_slow_ones_let_go() -> None:
    hub = Hub(clients=1, queue=2)
    blocked = asyncio.Event()

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        if message.get("body") not in (None, b"first", b""):
            await blocked.wait()

    slow = asyncio.create_task(hub.serve(receive, send, b"first"))
    while hub.clients == 0:  # noqa: ASYNC110
        await asyncio.sleep(0)
    with pytest.raises(Exception, match="1 clients listen already"):
        await hub.serve(receive, send, b"first")
    for _ in range(5):
        hub.publish({"at": 1.0}, None)
        await asyncio.sleep(0)
    assert hub.clients == 0
    blocked.set()
    await asyncio.wait_for(slow, 5)
