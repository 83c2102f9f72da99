"""Recommender: meta-parameters and item signals put to work on a micro-batch.

The same passes serve and judge: ``prepare`` (candidates, encoder), ``judge`` (where each event's
item stood, and the user's gradients, at the initial weights), ``adapt`` (the inner loop) and
``score``.

Letters: B tasks, C candidates, I inputs, J of them adapted, D width, K list length or clusters.
"""

import copy
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headrace.model import fused
from headrace.model.arrays import Floats, Ints, Longs
from headrace.model.candidates import Candidates, Gatherer
from headrace.model.config import ModelConfig
from headrace.model.diversity import best_first, diversify
from headrace.model.encoder import EMBEDDING_STD, Encoded, Encoder
from headrace.model.histories import Histories, from_columns
from headrace.model.inner_loop import (
    GRADIENT_LIMIT,
    N_DECAYS,
    GradientSums,
    ScorerLoop,
    UserLoop,
)
from headrace.model.item_regression import Coefficients
from headrace.model.ranking_metrics import MISS
from headrace.model.scorer import AFFINITY_LIMITS, Scorer
from headrace.model.shown import Shown
from headrace.model.signals import ItemSignals
from headrace.model.speakers import speakers
from headrace.model.targets import Targets

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


class Prepared(NamedTuple):
    """A micro-batch ready to be scored, on the model's device."""

    candidates: Candidates
    items: Tensor  # (B, C) int64, padding as 0
    is_padding: Tensor  # (B, C)
    signals: Tensor  # (B, C, F + 2) counted, and regressed on the user's items
    context: Tensor  # (B, X)
    encoded: Encoded
    shares: Tensor  # (B, K) of the user in each task cluster

    @property
    def filled(self) -> Longs:
        """Return how many candidates each user has: (B,)."""
        filled: Longs = (self.candidates.items >= 0).sum(1)
        return filled

    def rows(self, index: slice) -> "Prepared":
        """Return some of the tasks."""
        return Prepared(
            Candidates._make(array[index] for array in self.candidates),
            self.items[index],
            self.is_padding[index],
            self.signals[index],
            self.context[index],
            Encoded._make(tensor[index] for tensor in self.encoded),
            self.shares[index],
        )


class Adapted(NamedTuple):
    """Users after the inner loop, ready to be scored."""

    inputs: Tensor  # (B, C, I) of the scorer; the affinity is that of the shifted user vector
    linear: Tensor  # (B, J) shift of the scorer's linear part
    hidden: Tensor  # (B, W) shift of the scorer's first layer

    def towards(self, targets: Targets, action: int | None) -> "Adapted":
        """Return the users as they are ranked for one action; as they are for none."""
        if action is None:
            return self
        linear, hidden = targets(torch.tensor([action], device=self.linear.device))
        return Adapted(self.inputs, self.linear + linear, self.hidden + hidden)


class Judgement(NamedTuple):
    """What a judged event told, before it was applied."""

    ranks: Longs  # (B,) 1-based rank of the event's item at the initial weights, MISS if none
    positions: Longs  # (B,) place of the item among the candidates, -1 if it is none
    probabilities: Floats  # (B, C) of each candidate, at the initial weights
    gradients: Floats  # (B, P) ascent direction of the listwise log-likelihood; zero on a miss


class Recommender:
    """Scores the users of a micro-batch with one version of the meta-parameters."""

    def __init__(
        self,
        meta: MetaParameters,
        signals: ItemSignals,
        *,
        coefficients: Coefficients | None = None,
        device: str = "cpu",
        with_last: bool = False,
    ) -> None:
        self.meta = meta.to(device)
        self.signals = signals
        self.coefficients = coefficients or Coefficients()  # of the item regression
        self.device = torch.device(device)
        self._gatherer = Gatherer(with_last=with_last)
        self.is_fused = self.device.type == "cpu"  # else modules do what ``fused`` does
        self._held: fused.Weights | None = None

    def hold(self) -> None:
        """Keep the weights in the form the fused passes take, until the meta-parameters change.

        Else each pass converts them, which takes a small micro-batch a tenth of its time.
        """
        self._held = None
        self._held = self._weights() if self.is_fused else None

    def _weights(self) -> fused.Weights:
        meta = self.meta
        return self._held or fused.weights_of(
            meta.scorer, meta.user_loop, meta.encoder, meta.negatives
        )

    def warm_up(self) -> None:
        """Run every pass once, so that the first user does not wait for the loops to compile."""
        nobody = from_columns([], [], [], [(0, 0)])
        with torch.no_grad():
            prepared = self.prepare(nobody)
        judgement = self.judge(prepared, np.full(1, -1, np.int32))
        sums = torch.from_numpy(judgement.gradients).to(self.device).expand(1, N_DECAYS, -1)
        with torch.no_grad():
            adapted = self.adapt(prepared, GradientSums(sums, sums[:, :, 0]))
        self.explain(prepared, adapted, self.score(prepared, adapted).argmax(1, keepdim=True))
        nothing = np.full((1, 1), -1, np.int32)
        speakers(self.signals, nobody, nothing, nothing.astype(np.int64))

    def copy(self) -> "Recommender":
        """Return a recommender with a copy of the meta-parameters over the same counts."""
        return Recommender(
            copy.deepcopy(self.meta),
            self.signals,
            coefficients=self.coefficients,
            device=str(self.device),
            with_last=self._gatherer.with_last,
        )

    def gather(self, histories: Histories) -> Candidates:
        """Return the candidates of each user and their counted signals."""
        return self._gatherer.gather(self.signals, histories)

    def prepare(
        self,
        histories: Histories,
        candidates: Candidates | None = None,
        *,
        order: Longs | None = None,
    ) -> Prepared:
        """Gather candidates, unless given, and encode the histories.

        ``order`` is (B,): in which of them tables are read. Histories of one user that come one
        after the other find the rows that they share in the fastest memory.
        """
        candidates = candidates or self._gatherer.gather(self.signals, histories, order)
        regressed = self.coefficients.inputs(candidates.items, histories.items, order)
        items = self._tensor(candidates.items.astype(np.int64))
        encoded = self.encode(
            histories.items, histories.actions, histories.times_s, histories.features
        )
        return Prepared(
            candidates,
            items.clamp(min=0),
            items < 0,
            self._tensor(np.concatenate([candidates.signals, regressed], -1)),
            self._tensor(candidates.context),
            encoded,
            self.meta.user_loop.shares(encoded.latest),
        )

    def encode(self, items: Ints, actions: Ints, times_s: Longs, features: Ints) -> Encoded:
        """Run the encoder over (B, H) histories, newest first, with (B, J) features.

        An item too new to have an embedding counts as unknown.
        """
        n = self.meta.config.length
        items = np.where(items < self.meta.capacity, items, -1)
        encoded: Encoded = self.meta.encoder(
            self._tensor(items[:, :n].astype(np.int64)),
            self._tensor(actions[:, :n].astype(np.int64)),
            self._tensor(times_s[:, :n]),
            self._tensor(features.astype(np.int64)),
        )
        return encoded

    def inputs(self, prepared: Prepared, user_shift: Tensor) -> Tensor:
        """Return the (B, C, I) inputs of the scorer: signals, residual and affinity."""
        affinities = self.affinities(prepared, user_shift)
        if self.is_fused:
            return fused.inputs(
                self.meta.residual,
                int(self.meta.n_items),
                prepared.signals,
                prepared.items,
                prepared.filled,
                affinities,
            )
        known = prepared.items < self.meta.n_items
        residual = self.meta.residual[prepared.items * known] * known
        return torch.cat([prepared.signals, residual[..., None], affinities[..., None]], -1)

    def affinities(self, prepared: Prepared, user_shift: Tensor) -> Tensor:
        """Return the (B, C) affinities to the candidates: above the average negative item's."""
        encoder, negatives = self.meta.encoder, self.meta.negatives
        n_items, user = self.meta.n_items, prepared.encoded.latest + user_shift  # (B, D)
        if self.is_fused:
            items, filled = prepared.items, prepared.filled
            return fused.affinities(self._weights(), user, int(n_items), items, filled)
        negative = user @ encoder.items[negatives].T + encoder.bias[negatives]  # (B, M)
        average = torch.logsumexp(negative, 1, keepdim=True) - np.log(len(negatives))  # (B, 1)
        known = prepared.items < n_items
        items = prepared.items * known
        logits = torch.einsum("bcd,bd->bc", encoder.items[items], user) + encoder.bias[items]
        affinities: Tensor = (logits - average).clamp(*AFFINITY_LIMITS) * known
        return affinities

    def score(self, prepared: Prepared, adapted: Adapted) -> Tensor:
        """Return the (B, C) scores; padding scores minus infinity."""
        if self.is_fused:
            users = fused.Users(adapted.inputs, prepared.context, adapted.linear, adapted.hidden)
            return fused.score(self._weights(), self.meta.scorer, users, prepared.filled)
        scores: Tensor = self.meta.scorer(
            adapted.inputs,
            prepared.context,
            linear_shift=adapted.linear,
            hidden_shift=adapted.hidden,
        )
        return scores.masked_fill(prepared.is_padding, float("-inf"))

    def lists(
        self, prepared: Prepared, scores: Tensor, *, length: int, diversity: float = 0.0
    ) -> Tensor:
        """Return the (B, K) candidates of each user's list, first place first."""
        length = min(length, scores.shape[1])
        if not diversity:
            return best_first(scores, length)
        vectors = self.vectors(prepared.items)
        return diversify(scores, vectors, diversity=diversity, length=length)

    def vectors(self, items: Tensor) -> Tensor:
        """Return the (..., D) embeddings of item indexes at unit length, zero where none is yet."""
        known = items < self.meta.n_items
        vectors = F.normalize(self.meta.encoder.items.detach()[items * known], dim=-1)
        return vectors * known[..., None]

    def initial(self, prepared: Prepared) -> Adapted:
        """Return the users before any inner step: the frozen meta-parameters."""
        start = self.meta.user_loop.initial(prepared.shares)
        linear, hidden = self.meta.scorer_loop.initial(prepared.shares)
        return Adapted(self.inputs(prepared, start), linear, hidden)

    def adapt(
        self, prepared: Prepared, gradients: GradientSums, *, support: Encoded | None = None
    ) -> Adapted:
        """Run the inner loop for all users at once, on their histories, or on ``support``."""
        encoder, loop, negatives = self.meta.encoder, self.meta.user_loop, self.meta.negatives
        if self.is_fused:
            shares = loop.shares(support.latest) if support else prepared.shares
            shift = fused.shift(self._weights(), loop.initial(shares), support or prepared.encoded)
        else:
            shift = loop(encoder, support or prepared.encoded, negatives, first_order=True)
        fast = self.meta.scorer_loop(gradients, prepared.shares)
        return Adapted(self.inputs(prepared, shift), *fast)

    def judge(self, prepared: Prepared, targets: Ints) -> Judgement:
        """Find where each event's item stands, and each user's gradients, at the initial weights.

        Args:
            prepared: the tasks before the events.
            targets: (B,) item index of each event's item; negative ones are a miss.
        """
        with torch.no_grad():
            start = self.initial(prepared)
        users = fused.Users(start.inputs, prepared.context, start.linear, start.hidden)
        return self._judge(prepared.candidates.items, users, targets)

    def judge_shown(self, shown: Shown, targets: Ints) -> Judgement:
        """Do the same by what was shown before the events."""
        with torch.no_grad():
            linear, hidden = self.meta.scorer_loop.initial(self._tensor(shown.shares))
            inputs = self._tensor(shown.inputs).float()
        users = fused.Users(inputs, self._tensor(shown.context), linear, hidden)
        return self._judge(shown.items, users, targets)

    def _judge(self, items: Ints, users: fused.Users, targets: Ints) -> Judgement:
        positions = position_of(items, targets)
        if self.is_fused:
            filled: Longs = (items >= 0).sum(1)
            scores, probabilities, gradients = fused.learn(
                self._weights(), self.meta.scorer, users, filled, positions
            )
        else:
            scores, probabilities, gradients = self._learn_from(
                *users, self._tensor(items) < 0, self._tensor(positions)
            )
        gradients = np.nan_to_num(gradients).clip(-GRADIENT_LIMIT, GRADIENT_LIMIT)
        return Judgement(ranks_of(scores, positions), positions, probabilities, gradients)

    def _learn_from(
        self,
        inputs: Tensor,
        context: Tensor,
        linear: Tensor,
        hidden: Tensor,
        is_padding: Tensor,
        places: Tensor,
    ) -> tuple[Tensor, Floats, Floats]:
        """Return scores, their softmax, and each user's gradients of the log of it at a place."""
        at = linear.requires_grad_(True), hidden.requires_grad_(True)
        scores = self.meta.scorer(inputs, context, linear_shift=at[0], hidden_shift=at[1])
        scores = scores.masked_fill(is_padding, float("-inf"))
        likelihoods = torch.log_softmax(scores, 1)  # (B, C)
        likelihood = likelihoods.gather(1, places.clamp(min=0)[:, None]).squeeze(1)
        # Users do not interact: row b of the sum's gradient is user b's own.
        rows = torch.autograd.grad(torch.where(places >= 0, likelihood, 0.0).sum(), at)
        probabilities = likelihoods.detach().exp()
        return scores.detach(), probabilities.cpu().numpy(), torch.cat(rows, 1).cpu().numpy()

    def explain(self, prepared: Prepared, adapted: Adapted, top: Tensor) -> Tensor:
        """Return each input's share of the score of the (B, K) candidates ``top``: (B, K, I).

        Input times gradient, against the mean input: exact for the linear part.
        """
        if self.is_fused:
            users = fused.Users(adapted.inputs, prepared.context, adapted.linear, adapted.hidden)
            return fused.explain(self._weights(), self.meta.scorer, users, top)
        width = adapted.inputs.shape[-1]
        chosen = adapted.inputs.gather(1, top[..., None].expand(-1, -1, width)).detach()
        chosen.requires_grad_(True)
        scores = self.meta.scorer(
            chosen, prepared.context, linear_shift=adapted.linear, hidden_shift=adapted.hidden
        )
        (gradient,) = torch.autograd.grad(scores.sum(), chosen)
        share: Tensor = gradient * (chosen.detach() - self.meta.scorer.whole().mean)
        return share

    def _tensor(self, array: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def position_of(items: Ints, targets: Ints) -> Longs:
    """Return the (B,) place of each target in its row of (B, C) ``items``, -1 if absent."""
    found = items == np.where(targets < 0, -2, targets)[:, None]
    return np.where(found.any(1), found.argmax(1), -1)


def ranks_of(scores: Tensor, positions: Longs) -> Longs:
    """Return the (B,) 1-based rank of each place in ``best_first``, ``MISS`` where it is negative.

    NaN never looks like a first place: what is not at most the item's score stands before it.
    """
    place = torch.from_numpy(np.maximum(positions, 0)).to(scores.device)[:, None]
    mine = scores.gather(1, place)
    is_before = torch.arange(scores.shape[1], device=scores.device) < place
    ranks = (~(scores <= mine) | (is_before & (scores == mine))).sum(1) + 1
    return np.where(positions >= 0, ranks.cpu().numpy(), MISS)
