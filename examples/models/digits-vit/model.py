"""A vision transformer of 8 layers, 512 wide: 4 patches of 4x4 pixels and a class token."""

from __future__ import annotations

from pathlib import Path

from examples.tables import split


def vit():
    """The trained transformer (trained on the first call)."""
    import torch
    from torch import nn

    from examples.training import trained

    class Layer(nn.Module):
        def __init__(self, width, heads):
            super().__init__()
            self.head_width = width // heads  # not their number: heads may be pruned
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x):
            y = self.qkv(self.norm1(x)).unflatten(-1, (3, -1, self.head_width)).permute(2, 0, 3, 1, 4)
            q, k, v = y[0], y[1], y[2]
            scores = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
            x = x + self.out((scores @ v).transpose(1, 2).flatten(2))
            return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))

    class Vit(nn.Module):
        def __init__(self, width=512, depth=8, heads=8, patch=4):
            super().__init__()
            self.patches = nn.Conv2d(1, width, patch, patch)
            self.token = nn.Parameter(torch.zeros(1, 1, width))
            self.positions = nn.Parameter(torch.randn(1, (8 // patch) ** 2 + 1, width) * 0.02)
            self.layers = nn.ModuleList(Layer(width, heads) for _ in range(depth))
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

        def forward(self, image):
            x = self.patches(image).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
            for layer in self.layers:
                x = layer(x)
            return self.head(self.norm(x[:, 0]))

    folder = Path(__file__).parent
    data = lambda: split("digits", "train", image=True)  # noqa: E731
    return trained(folder, Vit, data, seconds=45, epochs=12, rate=3e-4, batch=32)


def calibration():
    """256 training digits."""
    return {"image": split("digits", "calibration", image=True)["x"]}


def evaluation():
    """The held-out digits with their labels."""
    data = split("digits", "evaluation", image=True)
    return {"image": data["x"], "label": data["label"]}


def training():
    """The training digits with their labels: what smaller variants recover on."""
    data = split("digits", "train", image=True)
    return {"image": data["x"], "label": data["label"]}
