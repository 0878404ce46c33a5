from __future__ import annotations

import time

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from deployments.api import Answer
from server.response_cache import ENTRY_BYTES, ModelCache, ResponseCache, key_of
from variants.catalog import Model, Source, TensorSpec

MODEL = Model(
    name="m",
    task="t",
    inputs=(TensorSpec(name="a", datatype="FP32", shape=(-1, -1)), TensorSpec(name="b", datatype="BYTES", shape=(-1,))),
    outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1,)),),
    source=Source(onnx="m.onnx"),
)


def answer(size: int = 16, value: float = 1.0) -> Answer:
    return Answer({"y": np.full(size // 4, value, np.float32)}, "v", 0.1, 0.2, 1)


def question(shape: tuple[int, ...] = (1, 4), texts: tuple[bytes, ...] = (b"x",)) -> dict[str, np.ndarray]:
    b = np.empty(len(texts), np.object_)
    b[:] = texts
    return {"a": np.zeros(shape, np.float32), "b": b}


def test_questions_are_told_apart_by_bytes_shape_and_variant() -> None:
    keys = {
        key_of(MODEL, question(), "v"),
        key_of(MODEL, question(), "w"),
        key_of(MODEL, question((2, 2)), "v"),
        key_of(MODEL, question((4, 1)), "v"),
        key_of(MODEL, question(texts=(b"y",)), "v"),
        key_of(MODEL, question(texts=(b"x", b"")), "v"),
        key_of(MODEL, question(texts=(b"", b"x")), "v"),
        key_of(MODEL, {**question(), "a": np.full((1, 4), -0.0, np.float32)}, "v"),
    }
    assert len(keys) == 8
    assert key_of(MODEL, question(), "v") in keys


def test_the_least_recently_used_goes_first() -> None:
    cache = ModelCache(2 * (ENTRY_BYTES + 16))
    now = time.monotonic()
    for key in (b"1", b"2"):
        cache.keep(key, answer())
    assert cache.find(b"1", now) is not None
    cache.keep(b"3", answer())
    assert cache.find(b"2", now) is None
    assert cache.find(b"1", now) is not None
    assert cache.find(b"3", now) is not None
    assert (cache.hits, cache.misses, cache.evictions, len(cache)) == (3, 1, 1, 2)
    assert cache.bytes == 2 * (ENTRY_BYTES + 16)
    assert (cache.counts().hit.count, cache.counts().miss.count) == (3, 1)


def test_what_is_too_large_is_not_kept() -> None:
    cache = ModelCache(ENTRY_BYTES + 100)
    cache.keep(b"1", answer(400))
    assert (len(cache), cache.bytes) == (0, 0)


def test_what_is_kept_is_a_copy_that_cannot_be_written() -> None:
    cache = ModelCache(1 << 20)
    batch = np.arange(1_000_000, dtype=np.float32)
    cache.keep(b"1", Answer({"y": batch[:4]}, "v", 0.1, 0.2, 9))
    batch[:] = -1
    found = cache.find(b"1", time.monotonic())
    assert found is not None
    assert found.outputs["y"].tolist() == [0, 1, 2, 3]
    assert found.outputs["y"].base is None, "the batch it was part of is not held"
    with pytest.raises(ValueError, match="read-only"):
        found.outputs["y"][0] = 5


def test_only_models_with_room_have_a_cache_and_are_counted() -> None:
    caches = ResponseCache({"m": 4096, "n": 0})
    assert list(caches) == ["m"]
    assert caches.of("n") is None
    cache = caches.of("m")
    assert cache is not None
    cache.keep(b"1", answer())
    cache.find(b"1", time.monotonic())
    registry = CollectorRegistry()
    registry.register(caches)
    assert registry.get_sample_value("trimtab_response_cache_hits_total", {"model": "m"}) == 1
    assert registry.get_sample_value("trimtab_response_cache_bytes", {"model": "m"}) == ENTRY_BYTES + 16
    cache.clear()
    assert (len(cache), cache.bytes, cache.hits) == (0, 0, 1)
