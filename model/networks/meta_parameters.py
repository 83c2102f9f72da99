"""Meta-parameters: all that users share and gradients move.

Letters: D width, N items.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headrace.model.config import ModelConfig
from headrace.model.networks.encoder import EMBEDDING_STD, Encoder
from headrace.model.networks.inner_loop import ScorerLoop, UserLoop
from headrace.model.networks.scorer import Scorer
from headrace.model.networks.targets import Targets

SMALL = ("scorer", "targets")  # how the names begin of what travels with every delta


class MetaParameters(nn.Module):
    """All that users share and gradients move.

    ``scorer``, ``scorer_loop`` and ``targets`` are the small part that travels with every delta;
    the rest moves with model versions.
    """

    negatives: Tensor
    n_items: Tensor
    residual: Tensor

    def __init__(self, config: ModelConfig, *, capacity: int = 1024) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, capacity)
        self.user_loop = UserLoop(config)
        self.scorer = Scorer(config.hidden)
        self.scorer_loop = ScorerLoop(config)
        self.targets = Targets(config)
        self.register_buffer("negatives", torch.zeros(config.negatives, dtype=torch.int64))
        # Items with an index below have a learned embedding, as of the latest version.
        self.register_buffer("n_items", torch.zeros((), dtype=torch.int64))
        # (N,) log of how often an item was taken over how often it was expected to be.
        self.register_buffer("residual", torch.zeros(capacity))

    @property
    def capacity(self) -> int:
        """Return how many items have an embedding."""
        return len(self.encoder.bias)

    def small_state(self) -> dict[str, Tensor]:
        """Return the state of the part that travels with every delta."""
        return {k: v for k, v in self.state_dict().items() if k.startswith(SMALL)}

    def grow(self, capacity: int) -> None:
        """Give embeddings to item indexes below ``capacity``; the old ones keep theirs."""
        old, width = self.encoder.items.shape
        device = self.encoder.items.device
        new = torch.randn(capacity - old, width, device=device) * EMBEDDING_STD
        self.encoder.items = nn.Parameter(torch.cat([self.encoder.items.data, new]))
        self.encoder.bias = nn.Parameter(F.pad(self.encoder.bias.data, (0, capacity - old)))
        self.residual = F.pad(self.residual, (0, capacity - old))

    def start_anew(self, indexes: Tensor) -> None:
        """Let go of what was learned of items whose indexes become others'."""
        known = indexes[indexes < self.capacity]
        with torch.no_grad():
            for learned in (self.encoder.items, self.encoder.bias, self.residual):
                learned[known] = 0.0
