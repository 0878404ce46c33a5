"""MiniLM's embedding and a linear classifier on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from examples import text

SAMPLES = 4000


def classifier():
    """The classifier; its head is fitted on the first call (logistic regression on the embeddings)."""
    import torch
    from safetensors.torch import load_file, save_file
    from torch import nn

    from examples.bert import WIDTH, minilm

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = minilm()
            self.head = nn.Linear(WIDTH, len(text.LIBRARIES))

        def forward(self, input_ids, attention_mask):
            return self.head(self.encoder(input_ids, attention_mask))

    module = Classifier().eval()
    weights = Path(__file__).parent / "weights.safetensors"
    if not weights.is_file():
        data = {name: array[:SAMPLES] for name, array in text.part("train", labels=True).items()}
        scale, bias = fit(module.encoder, data)
        save_file({"weight": torch.from_numpy(scale), "bias": torch.from_numpy(bias)}, weights)
    module.head.load_state_dict(load_file(weights))
    return module


def fit(encoder, data):
    """Head weights (float32, [classes, width]) and bias from the encoder's embeddings of the samples."""
    import torch
    from sklearn.linear_model import LogisticRegression

    order = np.argsort(data["attention_mask"].sum(1), kind="stable")
    embeddings = np.empty((len(order), 384), np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), 64):
            rows = order[start : start + 64]
            longest = int(data["attention_mask"][rows].sum(1).max())
            tensors = (torch.from_numpy(data[n][rows][:, :longest]) for n in ("input_ids", "attention_mask"))
            embeddings[rows] = encoder(*tensors).numpy()
    model = LogisticRegression(C=30.0, max_iter=500).fit(embeddings, data["label"])
    return np.ascontiguousarray(model.coef_, np.float32), np.ascontiguousarray(model.intercept_, np.float32)


def calibration():
    """128 docstrings."""
    return text.part("calibration", labels=False)


def evaluation():
    """256 docstrings with the library each comes from."""
    return text.part("evaluation", labels=True)
