"""What a page of another site can do to the admin port: nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from server.admin.app import AdminApp
from server.admin.gate import HEADERS
from server.admin.reload import Reloader
from server.settings import load_settings
from tests.server.admin_world import Rig, document

PIN = {"model": "wine", "variant": "int8"}


class Page:
    """Stands for the operations page: sets one of the headers itself."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/html"), (b"content-security-policy", b"default-src 'none'")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"page"})


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    config = tmp_path / "trimtab.yaml"
    config.write_text(yaml.safe_dump(document(tmp_path)))
    settings = load_settings(config)
    rig = Rig(settings)
    app = AdminApp(rig.control, Reloader(settings, rig.control), page=Page())
    async with rig, httpx.AsyncClient(transport=httpx.ASGITransport(app=app)) as made:
        yield made


@pytest.mark.parametrize("host", ["127.0.0.1:8002", "localhost:8002", "[::1]:8002", "127.1.2.3"])
async def test_this_machines_names_are_taken(client: httpx.AsyncClient, host: str) -> None:
    assert (await client.get(f"http://{host}/admin/v1/budgets")).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1"])
async def test_another_name_for_this_machine_is_not(client: httpx.AsyncClient, host: str) -> None:
    """DNS rebinding: the other site's own name, pointed here."""
    for path in ("/admin/v1/status", "/ui/"):
        answer = await client.get(f"http://{host}{path}")
        assert answer.status_code == 403
        assert "is not this machine's" in answer.json()["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://127.0.0.1:8002"}, 200),
        ({"origin": "http://127.0.0.1:8002", "sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
async def test_only_the_page_itself_may_change_something(
    client: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    answer = await client.post("http://127.0.0.1:8002/admin/v1/pin", json=PIN, headers=headers)
    assert answer.status_code == status, answer.text


async def test_a_form_cannot_be_posted(client: httpx.AsyncClient) -> None:
    answer = await client.post("http://127.0.0.1:8002/admin/v1/pin", data={"model": "wine", "variant": "int8"})
    assert answer.status_code == 415


@pytest.mark.parametrize("path", ["/ui/", "/admin/v1/status", "/admin/v1/nothing", "/nothing"])
async def test_every_answer_carries_the_headers(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(f"http://127.0.0.1:8002{path}")
    for name, value in HEADERS:
        if (path, name) != ("/ui/", b"content-security-policy"):
            assert answer.headers[name.decode()] == value.decode()
    if path == "/ui/":
        assert answer.headers["content-security-policy"] == "default-src 'none'"  # the page's own, once
    else:
        assert answer.headers["cache-control"] == "no-store"
    assert "strict-transport-security" not in answer.headers


async def test_the_root_leads_to_the_page(client: httpx.AsyncClient) -> None:
    answer = await client.get("http://127.0.0.1:8002/")
    assert (answer.status_code, answer.headers["location"]) == (307, "ui/")
