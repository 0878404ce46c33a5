"""What serves the page: files, types, caching, headers."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import httpx
import pytest
from pydantic import ValidationError

from server.console import Console, ConsoleConfig
from server.console.app import STATIC, TYPES


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = Console(ConsoleConfig(grafana_url="https://grafana.example.org/base/"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://trimtab") as c:
        yield c


async def test_every_file_is_served_with_its_type(client: httpx.AsyncClient) -> None:
    for file in STATIC.iterdir():
        name = "" if file.name == "index.html" else file.name
        answer = await client.get(f"/ui/{name}")
        assert (answer.status_code, answer.content) == (200, file.read_bytes()), file.name
        assert answer.headers["content-type"] == TYPES[file.suffix]


async def test_every_reference_of_the_page_and_its_modules_is_there(client: httpx.AsyncClient) -> None:
    files = [f for f in STATIC.iterdir() if f.suffix in (".html", ".js")]
    found = {ref for f in files for ref in re.findall(r'(?:src="|href="|from "\./)([\w.-]+)"', f.read_text())}
    assert {"style.css", "theme.js", "main.js", "mark.svg", "why.js"} <= found
    for name in found:
        assert (await client.get(f"/ui/{name}")).status_code == 200, name


async def test_headers_on_every_answer(client: httpx.AsyncClient) -> None:
    for path in ("/ui", "/ui/", "/ui/main.js", "/ui/config.json", "/ui/absent"):
        headers = (await client.get(path)).headers
        policy = dict(p.strip().split(" ", 1) for p in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["object-src"] == "'none'"
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"


def test_nothing_is_inline() -> None:
    page = (STATIC / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:|https?:", page)
    for file in STATIC.glob("*.js"):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", file.read_text()), file


async def test_a_known_file_is_not_sent_again(client: httpx.AsyncClient) -> None:
    first = await client.get("/ui/main.js")
    assert first.headers["cache-control"] == "no-cache"
    tag = first.headers["etag"]
    for known in (tag, f'W/{tag}, "other"', "*"):
        again = await client.get("/ui/main.js", headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert (await client.get("/ui/main.js", headers={"if-none-match": '"other"'})).status_code == 200


async def test_head_says_the_length_and_sends_nothing(client: httpx.AsyncClient) -> None:
    answer = await client.head("/ui/")
    size = (STATIC / "index.html").stat().st_size
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", str(size))


async def test_without_the_slash_it_points_to_it(client: httpx.AsyncClient) -> None:
    answer = await client.get("/ui")
    assert (answer.status_code, answer.headers["location"]) == (308, "ui/")


@pytest.mark.parametrize("path", ["/ui/absent.js", "/ui/../app.py", "/ui/%2e%2e/app.py", "/ui//etc/passwd", "/uix"])
async def test_what_is_not_there(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.send(httpx.Request("GET", httpx.URL("http://trimtab").copy_with(raw_path=path.encode())))
    assert answer.status_code == 404
    assert "the operations page is at /ui/" in answer.json()["error"]


async def test_other_methods_are_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/ui/", content=b"x")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_the_configuration_it_is_given(client: httpx.AsyncClient) -> None:
    answer = await client.get("/ui/config.json")
    assert answer.json() == {"grafana_url": "https://grafana.example.org/base"}


@pytest.mark.parametrize("url", ["javascript:alert(1)", "grafana.example.org", "//grafana"])
def test_a_link_that_is_no_web_address_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match=r"is not a web address; write http://… or https://…"):
        ConsoleConfig(grafana_url=url)
