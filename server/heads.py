"""What the heads of inference requests mean: parsed once for each distinct head, since clients send the same one again and
again. Used by `server.fast_http`; a head with anything in it that needs more than is done there is none for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote

import httptools

from server import compression
from server.auth import ProxyIdentity
from server.haproxy import UNARY_PATH
from server.http_infer import HEADER_LENGTH
from server.wishes import from_headers

#: How many are remembered, and how long one may be.
MOST, LONGEST = 1024, 4096
#: Headers that change what is to be done with the message itself.
UNUSUAL = frozenset((b"expect", b"upgrade", b"content-encoding", b"connection", b"te", b"trailer", b"grpc-encoding"))
#: Headers that may be there once only.
ONCE = frozenset((b"content-length", b"transfer-encoding", b"authorization", ProxyIdentity.HEADER, HEADER_LENGTH))
GRPC_PATH = UNARY_PATH.encode()
GRPC_TYPES = frozenset((b"application/grpc", b"application/grpc+proto"))
UNITS: Mapping[bytes, float] = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


class Head(NamedTuple):
    """A plain inference request's head. `length`: of the body, None: it comes in chunks. `accepts`: how the answer may be
    compressed. `timeout`: seconds that a gRPC client waits."""

    path: str
    model: str
    version: str
    grpc: bool
    length: int | None
    header_length: bytes | None
    wishes: Mapping[str, str]
    accepts: bytes | None
    authorization: bytes | None
    certificate: bytes | None
    request_id: str
    timeout: float | None
    headers: tuple[tuple[bytes, bytes], ...]

    def body(self, data: bytes, start: int) -> bytes | None:
        """The body, when `data` from `start` is exactly one; None: there is less or more, or in more than one chunk."""
        if self.length is not None:
            return data[start:] if len(data) == start + self.length else None
        end = data.find(b"\r\n", start, start + 18)
        if end < 0 or not data.endswith(b"\r\n0\r\n\r\n"):
            return None
        size = data[start:end]
        if not size.isalnum():
            return None
        try:
            length = int(size, 16)
        except ValueError:
            return None
        return data[end + 2 : -7] if len(data) == end + 2 + length + 7 else None


class Heads:
    """Heads by their bytes; None for those that are not plain. `most_bytes`: of a body."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._known: dict[bytes, Head | None] = {}

    def get(self, raw: bytes) -> Head | None:
        """What the head says; `raw` ends with the empty line."""
        try:
            return self._known[raw]
        except KeyError:
            pass
        head = parse(raw, self._most_bytes) if len(raw) <= LONGEST else None
        if head is None or head.timeout is None:  # no two calls have the same deadline
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[raw] = head
        return head


class _Parsed:
    """Callbacks of the parser."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))


def parse(raw: bytes, most_bytes: int) -> Head | None:
    """A head's meaning, None when it is not a plain one."""
    if raw.count(b"\n") != raw.count(b"\r\n"):  # a parser may take such a head to end earlier
        return None
    parsed = _Parsed()
    parser = httptools.HttpRequestParser(parsed)
    try:
        parser.feed_data(raw)
        if parser.get_http_version() != "1.1" or not parser.should_keep_alive() or parser.should_upgrade():
            return None
        path = httptools.parse_url(parsed.url).path
    except (httptools.HttpParserError, httptools.HttpParserUpgrade, httptools.HttpParserInvalidURLError):
        return None
    names = [name for name, _ in parsed.headers]
    headers = dict(parsed.headers)
    grpc = path == GRPC_PATH
    if any(names.count(name) > 1 for name in ONCE):
        return None
    unusual = UNUSUAL.intersection(names) - ({b"te"} if grpc and headers.get(b"te") == b"trailers" else set())
    if unusual - ({b"content-encoding"} if headers.get(b"content-encoding") == b"identity" else set()):
        return None
    length = _length(headers, most_bytes, chunked=grpc)
    if length == -1:
        return None
    model = version = ""
    timeout = None
    if grpc:
        if headers.get(b"content-type") not in GRPC_TYPES:
            return None
        if (sent := headers.get(b"grpc-timeout")) is not None:
            if sent[-1:] not in UNITS or not sent[:-1].isdigit():
                return None
            timeout = int(sent[:-1]) * UNITS[sent[-1:]]
    else:
        parts = path.decode("latin-1").strip("/").split("/")
        match [unquote(part) for part in parts]:
            case ["v2", "models", model, "infer"] if model != "tasks":
                pass
            case ["v2", "models", model, "versions", version, "infer"] if "tasks" not in (model, version):
                pass
            case _:
                return None
    return Head(
        path=unquote(path.decode("ascii")),
        model=model,
        version=version,
        grpc=grpc,
        length=None if length == -2 else length,
        header_length=headers.get(HEADER_LENGTH),
        wishes=from_headers(headers),
        accepts=compression.accepted(parsed.headers),
        authorization=headers.get(b"authorization"),
        certificate=headers.get(ProxyIdentity.HEADER),
        request_id=headers.get(b"x-request-id", b"").decode("latin-1"),
        timeout=timeout,
        headers=tuple(parsed.headers),
    )


def _length(headers: Mapping[bytes, bytes], most: int, *, chunked: bool) -> int:
    """The body's length; -2: it comes in chunks; -1: not as it should be here."""
    declared, transfer = headers.get(b"content-length"), headers.get(b"transfer-encoding")
    if transfer is not None:
        return -2 if chunked and transfer == b"chunked" and declared is None else -1
    if declared is None or not declared.isdigit() or int(declared) > most:
        return -1
    return int(declared)
