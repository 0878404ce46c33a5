"""`/admin/v1` over a stand-in for the control deployment, and the command line's client on top of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from server.admin_api import MAX_BODY, AdminApi


class Control:
    """Answers as the control deployment does; keeps what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.answer: Any = {"ok": {"fine": True}}

    def __getattr__(self, method: str) -> Any:
        control = self

        class Remote:
            async def remote(self, *args: Any) -> Any:
                control.calls.append((method, *args))
                if isinstance(control.answer, Exception):
                    raise control.answer
                return control.answer

        return Remote()


@pytest.fixture
def control() -> Control:
    return Control()


@pytest.fixture
async def client(control: Control) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=AdminApi(control))
    async with httpx.AsyncClient(transport=transport, base_url="http://test/admin/v1") as made:
        yield made


async def test_each_call_reaches_its_method(client: httpx.AsyncClient, control: Control) -> None:
    assert (await client.get("/status")).json() == {"fine": True}
    await client.get("/explain")
    await client.get("/explain", params={"model": "a b"})
    await client.post("/pin", json={"model": "m", "variant": "int8"})
    await client.post("/pin", json={"model": "m", "variant": None})
    await client.post("/unpin", json={"model": "m"})
    assert control.calls == [
        ("status",),
        ("explain", None),
        ("explain", "a b"),
        ("pin", "m", "int8"),
        ("pin", "m", None),
        ("unpin", "m"),
    ]


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        ({"error": "UnknownModel", "message": "no model 'x'"}, 404, "no model 'x'"),
        ({"error": "InvalidInput", "message": "no variant"}, 400, "no variant"),
        ({"error": "RuntimeError", "message": "broken"}, 503, "broken"),
        (ConnectionError("gone"), 503, "the controller does not answer: gone"),
    ],
)
async def test_the_controllers_refusals_keep_their_words(
    client: httpx.AsyncClient, control: Control, answer: Any, status: int, message: str
) -> None:
    control.answer = answer
    got = await client.post("/unpin", json={"model": "x"})
    assert (got.status_code, got.json()["error"]) == (status, message)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "not JSON"),
        (b"[]", 400, "bad request body"),
        (b'{"model": "m"}', 400, "variant: Field required"),
        (b'{"model": "", "variant": null}', 400, "model: "),
        (b'{"model": "m", "variant": null, "extra": 1}', 400, "extra: "),
        (b'{"model": "' + b"m" * MAX_BODY + b'"}', 413, f"exceeds {MAX_BODY} bytes"),
    ],
)
async def test_bodies_that_are_refused(
    client: httpx.AsyncClient, control: Control, body: bytes, status: int, message: str
) -> None:
    got = await client.post("/pin", content=body)
    assert got.status_code == status
    assert message in got.json()["error"]
    assert control.calls == []


async def test_wrong_methods_and_paths(client: httpx.AsyncClient, control: Control) -> None:
    wrong = await client.get("/pin")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    wrong = await client.post("/status")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET")
    unknown = await client.get("/nothing")
    assert unknown.status_code == 404
    assert "status, explain, pin, unpin" in unknown.json()["error"]
    assert control.calls == []
