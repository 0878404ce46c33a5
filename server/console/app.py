"""Serves the operations page: plain files under `/ui`, and `/ui/config.json`.

The page asks everything else of `/admin/v1` beside it. Nothing here is secret, so nothing here asks for a token. The
headers follow OWASP's HTTP Security Response Headers Cheat Sheet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator

from variants.catalog import Frozen

STATIC = Path(__file__).parent / "static"
PREFIX = "/ui"
#: No external resource, no inline script or style, no frame around the page, and DOM sinks that parse HTML are closed.
POLICY = (
    "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
]
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
}
Send = Callable[[dict[str, Any]], Awaitable[None]]


def _web_address(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError(f"{value!r} is not a web address; write http://… or https://…")
    return value.rstrip("/")


class ConsoleConfig(Frozen):
    """What the page is told. `grafana_url`: where Grafana answers, such as https://grafana.example.org; no links
    without it."""

    grafana_url: Annotated[str, AfterValidator(_web_address)] | None = None


@dataclass(frozen=True)
class File:
    """One file as it is sent; `tag` is its entity tag (RFC 9110, 8.8.3)."""

    body: bytes
    content_type: str
    tag: str

    @classmethod
    def of(cls, body: bytes, suffix: str) -> File:
        """A file of this content; raises KeyError for a suffix that has no content type."""
        return cls(body, TYPES[suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"')


class Console:
    """An ASGI app for the paths `/ui` and `/ui/…`. Its files are read once, here; raises OSError when they are absent.

    Files are found by their exact name, so no path leads out of the folder.
    """

    def __init__(self, config: ConsoleConfig | None = None) -> None:
        self._files = {f.name: File.of(f.read_bytes(), f.suffix) for f in STATIC.iterdir() if f.suffix in TYPES}
        self._files[""] = self._files.pop("index.html")
        settings = orjson.dumps((config or ConsoleConfig()).model_dump(mode="json"))
        self._files["config.json"] = File.of(settings, ".json")

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        if scope["type"] != "http":
            return
        method, path = scope["method"], scope["path"]
        if method not in ("GET", "HEAD"):
            await _refuse(send, 405, f"{method} is not allowed here; use GET", [(b"allow", b"GET, HEAD")])
        elif path == PREFIX:
            # Relative, so that it holds behind a proxy that serves trimtab under a path of its own.
            await _answer(send, 308, b"", [(b"location", b"ui/")])
        elif not path.startswith(PREFIX + "/") or (file := self._files.get(path.removeprefix(PREFIX + "/"))) is None:
            await _refuse(send, 404, f"no {path!r}; the operations page is at {PREFIX}/", [])
        else:
            headers = [(b"etag", file.tag.encode()), (b"cache-control", b"no-cache")]
            if _matches(scope, file.tag):
                await _answer(send, 304, None, headers)
                return
            headers += [(b"content-type", file.content_type.encode())]
            await _answer(send, 200, file.body, headers, head=method == "HEAD")


def _matches(scope: Any, tag: str) -> bool:
    """Whether the client has this file already (If-None-Match, weak comparison: RFC 9110, 13.1.2)."""
    known = b",".join(v for k, v in scope["headers"] if k == b"if-none-match").decode("latin-1")
    return any(item.strip().removeprefix("W/") in (tag, "*") for item in known.split(","))


async def _refuse(send: Send, status: int, error: str, headers: list[tuple[bytes, bytes]]) -> None:
    await _answer(send, status, orjson.dumps({"error": error}), [(b"content-type", b"application/json"), *headers])


async def _answer(
    send: Send, status: int, body: bytes | None, headers: list[tuple[bytes, bytes]], *, head: bool = False
) -> None:
    size = [] if body is None else [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*HEADERS, *size, *headers]})
    await send({"type": "http.response.body", "body": b"" if head or body is None else body})
