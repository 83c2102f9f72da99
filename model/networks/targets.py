"""Targets: what a user is likely to do this or that to next, in one model.

Each action has a shift of the scorer's fast weights, on top of the user's own. It is learned from
the events of that action alone, with all else held still: what is listed for no action in
particular is the same as if there were only one.

Letters: B tasks, A actions, J adapted inputs, W hidden width.
"""

import torch
from torch import Tensor, nn

from headrace.model.config import N_ACTIONS, ModelConfig
from headrace.model.networks.scorer import N_ADAPTED

PATIENCE = 200  # events of an action after which half of its shift is believed


class Targets(nn.Module):
    """The shift of each action, none before anything is learned; small while it is rare."""

    seen: Tensor  # (A,) events

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.linear = nn.Parameter(torch.zeros(N_ACTIONS, N_ADAPTED))
        self.hidden = nn.Parameter(torch.zeros(N_ACTIONS, config.hidden))
        self.register_buffer("seen", torch.zeros(N_ACTIONS))

    def count(self, actions: Tensor) -> None:
        """Count (n,) new events."""
        self.seen += torch.bincount(actions, minlength=len(self.seen))

    def forward(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (B, J) and (B, W) shifts for (B,) actions."""
        seen = self.seen[actions, None]
        trust = seen / (seen + PATIENCE)
        return trust * self.linear[actions], trust * self.hidden[actions]
