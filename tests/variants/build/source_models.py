"""Models of other sources than a factory: a Hugging Face folder with random weights, a LiteRT file written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.variants.build.tflite_file import fully_connected


def bert_model(folder: Path, **fields: Any) -> np.ndarray:
    """Write a tiny BERT and 64 samples of token ids, which are returned; keyword arguments go into its model.yaml."""
    import transformers

    folder.mkdir(parents=True)
    config = transformers.BertConfig(
        vocab_size=200, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    transformers.BertModel(config).eval().save_pretrained(folder / "weights")
    ids = np.random.default_rng(0).integers(0, 200, size=(64, 9)).astype(np.int64)
    np.savez(folder / "text.npz", input_ids=ids, attention_mask=np.ones_like(ids))
    tensor = {"datatype": "INT64", "shape": [-1, -1]}
    document = {
        "name": folder.name,
        "task": "embedding",
        "source": {"huggingface": "weights"},
        "data": {"calibration": "text.npz"},
        "inputs": [{"name": "input_ids", **tensor}, {"name": "attention_mask", **tensor}],
        "outputs": [{"name": "last_hidden_state", "datatype": "FP32", "shape": [-1, -1, 32]}],
        **fields,
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(document))
    return ids


def litert_model(folder: Path, **fields: Any) -> tuple[np.ndarray, np.ndarray]:
    """Write a LiteRT file of one linear layer, whose weights and bias are returned."""
    rng = np.random.default_rng(0)
    weights, bias = rng.normal(size=(3, 4)).astype(np.float32), rng.normal(size=3).astype(np.float32)
    folder.mkdir(parents=True)
    (folder / "m.tflite").write_bytes(fully_connected(weights, bias))
    document = {
        "name": folder.name,
        "task": "t",
        "source": {"tflite": "m.tflite"},
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
        **fields,
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(document))
    return weights, bias
