"""What every answer of the admin port carries, and which requests a browser may make.

A page of another site must neither change anything (CSRF) nor read anything by pointing its own name at this machine (DNS
rebinding), nor show the operations page inside itself (clickjacking). Sources: Fetch Metadata Request Headers (W3C);
OWASP HTTP Headers and CSRF Prevention cheat sheets.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from server import auth
from server.addresses import is_loopback

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
SAFE_METHODS = frozenset({"GET", "HEAD"})
Send = Callable[[Any], Awaitable[None]]


def guarded(send: Send, *, tls: bool) -> Send:
    """`send` with the headers above on every answer; one that an application has set itself is kept."""
    extra = (*HEADERS, (b"strict-transport-security", b"max-age=31536000")) if tls else HEADERS

    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            own = list(message.get("headers", ()))
            there = {name.lower() for name, _ in own}
            message = {**message, "headers": [*own, *((n, v) for n, v in extra if n not in there)]}
        await send(message)

    return sending


def check_browser(scope: Any, *, local_only: bool) -> None:
    """Raises auth.Forbidden for a request that another site's page makes.

    `local_only`: nobody is authenticated and only this machine may call, so the name that is called must be this machine's.
    """
    headers = scope["headers"]
    host = (auth.header(headers, b"host") or b"").decode("latin-1")
    if local_only and not is_loopback(urlsplit(f"//{host}").hostname or ""):
        raise auth.Forbidden(f"host {host[:80]!r} is not this machine's; call 127.0.0.1 or localhost")
    if scope["method"] in SAFE_METHODS:
        return
    site = auth.header(headers, b"sec-fetch-site")
    if site not in (None, b"same-origin", b"none"):
        raise auth.Forbidden("a page of another site may not change anything here")
    origin = auth.header(headers, b"origin")
    if origin is not None and urlsplit(origin.decode("latin-1")).netloc.lower() != host.lower():
        raise auth.Forbidden("the request's origin is another site")
