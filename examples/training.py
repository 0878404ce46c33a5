"""Training the small example models on scikit-learn's data: once, then from `weights.safetensors` beside the model."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as f

Arrays = dict[str, npt.NDArray[np.generic]]


def trained(
    folder: Path,
    make: Callable[[], nn.Module],
    data: Callable[[], Arrays],
    *,
    seconds: float,
    epochs: int,
    rate: float = 1e-3,
    batch: int = 64,
    augment: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> nn.Module:
    """The module with its trained weights. The first call trains it on `data()` (one input, and `label`: classes for
    integers, targets of a regression for floats), for at most `epochs` and about `seconds`."""
    from safetensors.torch import load_file, save_file

    weights = folder / "weights.safetensors"
    torch.manual_seed(0)
    module = make()
    if weights.is_file():
        module.load_state_dict(load_file(weights))
        return module.eval()
    arrays = data()
    x = torch.from_numpy(next(array for name, array in arrays.items() if name != "label"))
    y = torch.from_numpy(arrays["label"])
    optimiser = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=1e-2)
    started = time.monotonic()
    module.train()
    for epoch in range(epochs):
        share = max(epoch / epochs, (time.monotonic() - started) / seconds)
        if share >= 1.0:
            break
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (epoch + 1) / 3) * (1.0 - share)
        for rows in torch.randperm(len(x)).split(batch):
            inputs = augment(x[rows]) if augment else x[rows]
            outputs = module(inputs)
            loss = f.cross_entropy(outputs, y[rows]) if y.dtype == torch.int64 else f.mse_loss(outputs, y[rows])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
    module.eval()
    temporary = weights.with_suffix(".tmp")
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, temporary)
    temporary.replace(weights)
    return module


def shifted(images: torch.Tensor) -> torch.Tensor:
    """Images ([n, channels, height, width]) moved by up to one pixel each way, all by the same."""
    dy, dx = (int(v) for v in torch.randint(-1, 2, (2,)))
    return torch.roll(images, (dy, dx), dims=(2, 3))
