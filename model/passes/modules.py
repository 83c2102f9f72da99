"""Passes: what the recommender computes from meta-parameters, in two implementations.

``FusedPasses`` serve on a CPU. ``ModulePasses`` call the modules that learning differentiates, and
serve on a GPU.

Letters: B users, C candidates, K listed of them, I inputs, J of them adapted, X context, D width,
W hidden width, P fast weights.
"""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from headrace.model.arrays import Floats, Longs
from headrace.model.networks.encoder import Encoded
from headrace.model.networks.meta_parameters import MetaParameters
from headrace.model.networks.scorer import AFFINITY_LIMITS


class Users(NamedTuple):
    """What the scorer has of each user."""

    inputs: Tensor  # (B, C, I)
    context: Tensor  # (B, X)
    linear: Tensor  # (B, J) shift of the linear part
    hidden: Tensor  # (B, W) shift of the first layer


class Passes(Protocol):
    """What both do. Candidates are (B, C) item indexes, of which each user has ``filled`` (B,)."""

    def hold(self) -> None:
        """Follow the meta-parameters as they are now; until then they may be looked at anew."""

    def shift(self, encoded: Encoded) -> Tensor:
        """Return the (B, D) shifts of the user vectors after the inner loop's steps."""

    def affinities(self, users: Tensor, items: Tensor, filled: Longs) -> Tensor:
        """Return the (B, C) affinities of (B, D) user vectors: above the average negative's."""

    def inputs(self, signals: Tensor, items: Tensor, filled: Longs, affinities: Tensor) -> Tensor:
        """Return the (B, C, I) inputs of the scorer: signals, residual and affinity."""

    def score(self, users: Users, filled: Longs) -> Tensor:
        """Return the (B, C) scores, minus infinity behind the candidates."""

    def learn(self, users: Users, filled: Longs, places: Longs) -> tuple[Tensor, Floats, Floats]:
        """Return scores, their (B, C) softmax, and the (B, P) gradients of its log at a place.

        A user whose (B,) place is negative has no gradient.
        """

    def explain(self, users: Users, listed: Tensor) -> Tensor:
        """Return the (B, K, I) shares that inputs have of the scores of (B, K) listed candidates.

        Input times gradient, against the mean input: exact for the linear part.
        """


class ModulePasses:
    """Implements ``Passes`` by the modules, on any device."""

    def __init__(self, meta: MetaParameters) -> None:
        self._meta = meta

    def hold(self) -> None:
        """Do nothing: modules have their weights."""

    def shift(self, encoded: Encoded) -> Tensor:
        """See ``Passes``."""
        meta = self._meta
        shift: Tensor = meta.user_loop(meta.encoder, encoded, meta.negatives, first_order=True)
        return shift

    def affinities(self, users: Tensor, items: Tensor, filled: Longs) -> Tensor:  # noqa: ARG002 - what is behind is not looked at
        """See ``Passes``."""
        encoder, negatives = self._meta.encoder, self._meta.negatives
        negative = users @ encoder.items[negatives].T + encoder.bias[negatives]  # (B, M)
        average = torch.logsumexp(negative, 1, keepdim=True) - np.log(len(negatives))  # (B, 1)
        known = items < self._meta.n_items
        items = items * known
        logits = torch.einsum("bcd,bd->bc", encoder.items[items], users) + encoder.bias[items]
        affinities: Tensor = (logits - average).clamp(*AFFINITY_LIMITS) * known
        return affinities

    def inputs(self, signals: Tensor, items: Tensor, filled: Longs, affinities: Tensor) -> Tensor:  # noqa: ARG002 - as above
        """See ``Passes``."""
        known = items < self._meta.n_items
        residual = self._meta.residual[items * known] * known
        return torch.cat([signals, residual[..., None], affinities[..., None]], -1)

    def score(self, users: Users, filled: Longs) -> Tensor:
        """See ``Passes``."""
        scores: Tensor = self._meta.scorer(
            users.inputs, users.context, linear_shift=users.linear, hidden_shift=users.hidden
        )
        place = torch.arange(scores.shape[1], device=scores.device)
        is_behind = place >= torch.from_numpy(filled).to(scores.device)[:, None]
        return scores.masked_fill(is_behind, float("-inf"))

    def learn(self, users: Users, filled: Longs, places: Longs) -> tuple[Tensor, Floats, Floats]:
        """See ``Passes``."""
        at = users.linear.requires_grad_(True), users.hidden.requires_grad_(True)
        scores = self.score(users, filled)
        likelihoods = torch.log_softmax(scores, 1)  # (B, C)
        place = torch.from_numpy(places).to(scores.device)
        likelihood = likelihoods.gather(1, place.clamp(min=0)[:, None]).squeeze(1)
        # Users do not interact: row b of the sum's gradient is user b's own.
        rows = torch.autograd.grad(torch.where(place >= 0, likelihood, 0.0).sum(), at)
        probabilities = likelihoods.detach().exp()
        return scores.detach(), probabilities.cpu().numpy(), torch.cat(rows, 1).cpu().numpy()

    def explain(self, users: Users, listed: Tensor) -> Tensor:
        """See ``Passes``."""
        scorer, width = self._meta.scorer, users.inputs.shape[-1]
        chosen = users.inputs.gather(1, listed[..., None].expand(-1, -1, width)).detach()
        chosen.requires_grad_(True)
        scores = scorer(chosen, users.context, linear_shift=users.linear, hidden_shift=users.hidden)
        (gradient,) = torch.autograd.grad(scores.sum(), chosen)
        share: Tensor = gradient * (chosen.detach() - scorer.whole().mean)
        return share
