from __future__ import annotations

import gzip
import zlib

import pytest

from server.compression import accepted, compress


@pytest.mark.parametrize(
    ("value", "encoding"),
    [
        ("", None),
        ("gzip", b"gzip"),
        ("deflate", b"deflate"),
        ("gzip, deflate, br", b"gzip"),
        ("GZIP;Q=0.5, deflate;q=0.8", b"deflate"),
        ("gzip;q=0", None),
        ("gzip;q=0, *", b"deflate"),
        ("*", b"gzip"),
        ("*;q=0", None),
        ("br", None),
        ("identity", None),
        ("gzip;q=0.5, identity", None),
        ("gzip;q=soon", None),
    ],
)
def test_what_the_client_likes_best(value: str, encoding: bytes | None) -> None:
    assert accepted([(b"host", b"x"), (b"accept-encoding", value.encode())]) == encoding


def test_several_headers_are_one_list_and_none_is_none() -> None:
    assert accepted([(b"accept-encoding", b"br"), (b"accept-encoding", b"deflate")]) == b"deflate"
    assert accepted([]) is None


def test_bodies_come_back() -> None:
    body = b"0123456789" * 1000
    assert gzip.decompress(compress(body, b"gzip")) == body
    assert zlib.decompress(compress(body, b"deflate")) == body
