"""Response bodies compressed as the client asks. Sources: RFC 9110, 12.5.3 (Accept-Encoding), RFC 1950 and 1952."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

#: Smaller bodies would hardly get smaller.
LEAST_BYTES = 1024
#: Larger ones are (de)compressed in a thread: the event loop has others to answer.
LARGE_BYTES = 128 << 10
#: Level 1: most of the gain for a third of the time.
LEVEL = 1
WINDOWS = {b"gzip": 31, b"deflate": 15}


def accepted(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The encoding to answer with: of gzip and deflate the one that the client likes best (gzip where it likes them
    equally), None where it asks for neither or likes a plain body better."""
    value = b",".join([v for name, v in headers if name == b"accept-encoding"])
    if not value:
        return None
    weights: dict[bytes, float] = {}
    for part in value.lower().split(b","):
        name, _, parameter = part.partition(b";")
        key, _, number = parameter.strip().partition(b"=")
        try:
            weights[name.strip()] = float(number) if key.strip() == b"q" else 1.0
        except ValueError:
            weights[name.strip()] = 0.0
    other = weights.get(b"*", 0.0)
    best = max(WINDOWS, key=lambda name: weights.get(name, other))
    weight = weights.get(best, other)
    return best if weight > 0 and weight >= weights.get(b"identity", 0.0) else None


def headers(encoding: bytes) -> list[tuple[bytes, bytes]]:
    """What an answer in that encoding says of it."""
    return [(b"content-encoding", encoding), (b"vary", b"accept-encoding")]


def compress(body: bytes, encoding: bytes) -> bytes:
    """The body in that encoding (a key of `WINDOWS`)."""
    deflater = zlib.compressobj(LEVEL, zlib.DEFLATED, WINDOWS[encoding])
    return deflater.compress(body) + deflater.flush()
