"""Sentences of unequal length in one call of the example model: the answers are those of each sentence alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from deployments.batching import Pending, run
from deployments.company import LIMIT, Company
from deployments.padding import Padding, wasted
from deployments.waiting import Waiting
from variants import engines
from variants.engines.base import LoadRequest
from variants.lengths import bucket
from variants.repository import load_catalog, load_model, variant_folder

MINILM = Path(__file__).parents[2] / "examples" / "models" / "minilm"


def sentences(padding: Padding) -> Waiting:
    """Forty made-up sentences, their lengths spread as those of docstrings are."""
    rng = np.random.default_rng(0)
    waiting = Waiting(Company(8))
    for length in np.clip(rng.lognormal(3.2, 0.6, 40).astype(int), 4, 128):
        ids = rng.integers(1000, 20000, (1, length))
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        found = padding.length(inputs)
        assert found == length
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(Pending(inputs, 1, bucket(found), 0.0, 1e9, future, length=found))  # type: ignore[arg-type]
    return waiting


# int8: a value next to a rounding boundary may fall on its other side, far less than quantisation itself changes.
@pytest.mark.parametrize(("variant", "distance"), [("fp32", 1e-6), ("int8", 2e-3)])
async def test_padded_embeddings_are_those_of_each_sentence_alone(variant, distance, tmp_path):
    if not (variant_folder(MINILM, variant) / "variant.json").is_file():
        pytest.skip(f"minilm's {variant} is not built here; `make models` builds it")
    padding = Padding.of(load_model(MINILM))
    assert padding is not None
    (tmp_path / "minilm").symlink_to(MINILM)
    entry = load_catalog(tmp_path).entries["minilm"]
    path = variant_folder(MINILM, variant)
    engine = engines.load(LoadRequest(entry.model, entry.variants[variant], path))
    waiting = sentences(padding)
    padded = positions = calls = equal = 0
    try:
        while waiting.count:
            batch, _ = waiting.take(8, 0.0)
            results = run(engine, batch, "minilm", lambda: 0.0, padding)
            calls += 1
            more = wasted(batch)
            padded, positions = padded + more[0], positions + more[1]
            for pending, result in zip(batch, results, strict=True):
                alone = engine.infer(pending.inputs)["embedding"][0]
                assert isinstance(result, dict), result
                joined = result["embedding"][0]
                assert 1 - alone @ joined / np.linalg.norm(alone) / np.linalg.norm(joined) <= distance
                equal += np.allclose(alone, joined, atol=1e-5)
    finally:
        engine.close()
    assert equal >= 36
    assert 0 < padded / positions < LIMIT
    assert calls <= 13  # of 1, 2, 4 or 8 rows, of forty sentences with hardly two of one length
