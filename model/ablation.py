"""Ablation: a model without one of its parts, trained without it, to tell what the part is worth.

The parts are groups of the scorer's inputs, which are then always zero, its network, and the two
inner loops. Nothing here is on the path that serves.
"""

from collections.abc import Sequence

import torch

from headrace.model.counts import item_regression
from headrace.model.counts.candidate_signals import SIGNALS
from headrace.model.counts.tenure import TENURE_SIGNALS
from headrace.model.learning.outer_loop import OuterLoop
from headrace.model.networks.scorer import INPUTS

INPUTS_OF = {
    "tenure": TENURE_SIGNALS,
    "own": tuple(name for name in SIGNALS if name.startswith("own_")),
    "neighbours": SIGNALS[SIGNALS.index("next") : SIGNALS.index("popularity")],
    "popularity": SIGNALS[SIGNALS.index("popularity") : SIGNALS.index("category_share")],
    "categories": ("category_share", "category_of_last"),
    "content": ("content",),
    "regression": item_regression.INPUTS,
    "residual": ("residual",),
    "encoder": ("affinity",),
}
PARTS = (*INPUTS_OF, "network", "user_loop", "scorer_loop")


def remove(outer_loop: OuterLoop, parts: Sequence[str]) -> None:
    """Take parts out of a model that learned nothing yet, whatever it starts from."""
    meta = outer_loop.meta
    gone = [name for part in parts for name in INPUTS_OF.get(part, ())]
    if gone:
        meta.scorer.is_used[[INPUTS.index(name) for name in gone]] = 0
    if "network" in parts:
        torch.nn.init.zeros_(meta.scorer.last.weight)
        meta.scorer.last.requires_grad_(False)
    if "user_loop" in parts:
        meta.user_loop.inner_steps = 0
    if "scorer_loop" in parts:
        meta.scorer_loop.inner_steps = 0
    outer_loop.served = outer_loop.recommender.copy()
