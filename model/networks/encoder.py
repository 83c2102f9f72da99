"""Encoder: a causal Transformer over a user's recent interactions.

Sources: Vaswani et al. 2017 (arXiv:1706.03762); Kang and McAuley 2018, SASRec (arXiv:1808.09781),
from which comes the embedding shared between the input and the scored items.

Letters: B tasks, H interactions, the latest T of them seen, D width, J features, N items.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headrace.model.config import N_ACTIONS, ModelConfig
from headrace.model.features import N_FEATURES

N_GAPS = 24  # log2 of the seconds between two interactions: 2^23 s is three months
EMBEDDING_STD = 0.1


class Encoded(NamedTuple):
    """The encoder's view of each task, oldest interaction first, aligned to the right."""

    hidden: Tensor  # (B, T, D) what the prefix up to each interaction predicts for the next one
    items: Tensor  # (B, T) int64, -1 padded
    latest: Tensor  # (B, D) the last of ``hidden`` with the features; zero without history


class Encoder(nn.Module):
    """Item embeddings and the Transformer that reads them."""

    def __init__(self, config: ModelConfig, capacity: int) -> None:
        super().__init__()
        d = config.width
        self.length = config.length
        self.items = nn.Parameter(torch.randn(capacity, d) * EMBEDDING_STD)  # (N, D)
        self.bias = nn.Parameter(torch.zeros(capacity))  # (N,)
        self.actions = nn.Embedding(N_ACTIONS, d)
        self.gaps = nn.Embedding(N_GAPS, d)
        self.features = nn.Parameter(torch.zeros(N_FEATURES, d))
        self.positions = nn.Parameter(torch.zeros(config.length, d))
        n = config.blocks
        self.blocks = nn.ModuleList(Block(d, config.heads, n) for _ in range(n))
        self.norm = nn.LayerNorm(d)
        self.out = nn.Linear(d, d)
        for embedding in (self.actions, self.gaps):
            nn.init.zeros_(embedding.weight)

    def forward(self, items: Tensor, actions: Tensor, times_s: Tensor, features: Tensor) -> Encoded:
        """Encode histories given newest first.

        Args:
            items: (B, H) int64 item index, -1 padded.
            actions: (B, H) int64.
            times_s: (B, H) int64.
            features: (B, J) int64 of the latest context, -1 padded.
        """
        items, actions, times_s = (
            column[:, : self.length].flip(1) for column in (items, actions, times_s)
        )  # (B, T) oldest first
        valid = items >= 0
        gap_s = F.pad(times_s.diff(dim=1) * valid[:, :-1], (1, 0)).clamp(min=0)
        gaps = (gap_s + 1).double().log2().long().clamp(max=N_GAPS - 1)
        x = self.items[items.clamp(min=0)] / EMBEDDING_STD * 0.5 + self.positions[-items.shape[1] :]
        x = x + self.actions(actions) + self.gaps(gaps)  # (B, T, D)
        t = items.shape[1]
        causal = torch.ones(t, t, dtype=torch.bool, device=items.device).tril()
        # A padded place may look at itself: a row without any key would be NaN.
        own = torch.eye(t, dtype=torch.bool, device=items.device)
        mask = (causal & valid[:, None, :]) | own  # (B, T, T)
        for block in self.blocks:
            x = block(x, mask[:, None])
        hidden = self.out(self.norm(x)) * EMBEDDING_STD * 4  # logits of order one at the start
        told = self.features[features.clamp(min=0)] * (features >= 0)[..., None]  # (B, J, D)
        latest = hidden[:, -1] * valid[:, -1:] + told.sum(1)
        return Encoded(hidden, items, latest)


class Block(nn.Module):
    """Pre-norm self-attention and a two-layer network."""

    def __init__(self, width: int, heads: int, n_blocks: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        quiet = 0.02 / math.sqrt(2 * n_blocks)  # GPT-2's start, of what is added to the residual
        nn.init.normal_(self.out.weight, std=quiet)
        nn.init.normal_(self.down.weight, std=quiet)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return (B, T, D); ``mask`` (B, 1, T, T) is true where a key may be seen."""
        b, t, d = x.shape
        qkv = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, T, D / heads)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, d))
        residual: Tensor = self.down(F.gelu(self.up(self.norm2(x))))
        return x + residual
