"""Recommender: meta-parameters and item signals put to work on a micro-batch.

The same passes serve and judge: ``prepare`` (candidates, encoder), ``judge`` (where each event's
item stood, and the user's gradients, at the initial weights), ``adapt`` (the inner loop) and
``score``.

Letters: B tasks, H interactions, C candidates, F signals, I inputs, J of them adapted, X context,
D width, W hidden width, P fast weights, G clusters, K list length.
"""

import copy
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from headrace.model.arrays import Floats, Ints, Longs
from headrace.model.counts.candidates import Candidates, Gatherer
from headrace.model.counts.content import FEW_EVENTS
from headrace.model.counts.item_regression import Coefficients
from headrace.model.counts.signals import ALL_TIME, ItemSignals
from headrace.model.counts.speakers import speakers
from headrace.model.diversity import best_first, diversify
from headrace.model.histories import Histories, from_columns
from headrace.model.networks.encoder import Encoded
from headrace.model.networks.inner_loop import (
    GRADIENT_LIMIT,
    N_DECAYS,
    GradientSums,
)
from headrace.model.networks.meta_parameters import MetaParameters
from headrace.model.networks.targets import Targets
from headrace.model.passes.fused import FusedPasses
from headrace.model.passes.modules import ModulePasses, Passes, Users
from headrace.model.ranking_metrics import MISS
from headrace.model.shown import Shown


class Prepared(NamedTuple):
    """A micro-batch ready to be scored, on the model's device."""

    candidates: Candidates
    items: Tensor  # (B, C) int64, padding as 0
    signals: Tensor  # (B, C, F + 2) counted, and regressed on the user's items
    context: Tensor  # (B, X)
    encoded: Encoded
    shares: Tensor  # (B, G) of the user in each task cluster

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
        use_fused: bool | None = None,
    ) -> None:
        """Serve; unless said otherwise by ``FusedPasses`` on a CPU, by ``ModulePasses`` else."""
        self.meta = meta.to(device)
        self.signals = signals
        self.coefficients = coefficients or Coefficients()  # of the item regression
        self.device = torch.device(device)
        self._gatherer = Gatherer(with_last=with_last)
        use_fused = self.device.type == "cpu" if use_fused is None else use_fused
        self._passes: Passes = (FusedPasses if use_fused else ModulePasses)(self.meta)

    def hold(self) -> None:
        """Follow the meta-parameters, which have changed."""
        self._passes.hold()

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

    def gather(
        self, histories: Histories, *, order: Longs | None = None, kept: Ints | None = None
    ) -> Candidates:
        """Return the candidates of each user and their counted signals; the rest is as below."""
        return self._gatherer.gather(self.signals, histories, order, kept)

    def prepare(
        self,
        histories: Histories,
        candidates: Candidates | None = None,
        *,
        order: Longs | None = None,
        kept: Ints | None = None,
    ) -> Prepared:
        """Gather candidates, unless given, and encode the histories.

        ``order`` is (B,): in which of them tables are read. Histories of one user that come one
        after the other find the rows that they share in the fastest memory. ``kept`` is (B,): an
        item that each may be a candidate though it is offered no more, -1 for none. An event may be
        judged after its item was withdrawn.
        """
        candidates = candidates or self.gather(histories, order=order, kept=kept)
        regressed = self.coefficients.inputs(candidates.items, histories.items, order)
        items = self._tensor(candidates.items.astype(np.int64))
        encoded = self.encode(
            histories.items, histories.actions, histories.times_s, histories.features
        )
        return Prepared(
            candidates,
            items.clamp(min=0),
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
        return self._passes.inputs(prepared.signals, prepared.items, prepared.filled, affinities)

    def affinities(self, prepared: Prepared, user_shift: Tensor) -> Tensor:
        """Return the (B, C) affinities to the candidates: above the average negative item's."""
        user = prepared.encoded.latest + user_shift  # (B, D)
        return self._passes.affinities(user, prepared.items, prepared.filled)

    def score(self, prepared: Prepared, adapted: Adapted) -> Tensor:
        """Return the (B, C) scores; padding scores minus infinity."""
        return self._passes.score(_users(prepared, adapted), prepared.filled)

    def lists(
        self, prepared: Prepared, scores: Tensor, *, length: int, diversity: float = 0.0
    ) -> Tensor:
        """Return the (B, K) candidates of each user's list, first place first."""
        length = min(length, scores.shape[1])
        if not diversity:
            return best_first(scores, length)
        return diversify(
            scores,
            lambda places: self.vectors(prepared.items.gather(1, places)),
            diversity=diversity,
            length=length,
        )

    def vectors(self, items: Tensor) -> Tensor:
        """Return the (..., D + V) vectors of item indexes at unit length, zero if nothing is known.

        Embeddings where enough was counted that they are not as drawn, and beside them content.
        """
        places = items.cpu().numpy()
        counted = self._tensor(self.signals.arrays.popularity[places, ALL_TIME])
        is_learned = (counted >= FEW_EVENTS) & (items < self.meta.n_items)
        embeddings = F.normalize(self.meta.encoder.items.detach()[items * is_learned], dim=-1)
        content = self._tensor(self.signals.content.vectors_of(places))
        vectors = torch.cat([embeddings * is_learned[..., None], content], -1)
        return F.normalize(vectors, dim=-1)

    def initial(self, prepared: Prepared) -> Adapted:
        """Return the users before any inner step: the frozen meta-parameters."""
        start = self.meta.user_loop.initial(prepared.shares)
        linear, hidden = self.meta.scorer_loop.initial(prepared.shares)
        return Adapted(self.inputs(prepared, start), linear, hidden)

    def adapt(
        self, prepared: Prepared, gradients: GradientSums, *, support: Encoded | None = None
    ) -> Adapted:
        """Run the inner loop for all users at once, on their histories, or on ``support``."""
        shift = self._passes.shift(support or prepared.encoded)
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
        return self._judge(prepared.candidates.items, _users(prepared, start), targets)

    def judge_shown(self, shown: Shown, targets: Ints) -> Judgement:
        """Do the same by what was shown before the events."""
        with torch.no_grad():
            linear, hidden = self.meta.scorer_loop.initial(self._tensor(shown.shares))
            inputs = self._tensor(shown.inputs).float()
        users = Users(inputs, self._tensor(shown.context), linear, hidden)
        return self._judge(shown.items, users, targets)

    def _judge(self, items: Ints, users: Users, targets: Ints) -> Judgement:
        positions, filled = position_of(items, targets), (items >= 0).sum(1)
        scores, probabilities, gradients = self._passes.learn(users, filled, positions)
        gradients = np.nan_to_num(gradients).clip(-GRADIENT_LIMIT, GRADIENT_LIMIT)
        return Judgement(ranks_of(scores, positions), positions, probabilities, gradients)

    def explain(self, prepared: Prepared, adapted: Adapted, top: Tensor) -> Tensor:
        """Return each input's share of the score of the (B, K) candidates ``top``: (B, K, I).

        Input times gradient, against the mean input: exact for the linear part.
        """
        return self._passes.explain(_users(prepared, adapted), top)

    def _tensor(self, array: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def _users(prepared: Prepared, adapted: Adapted) -> Users:
    return Users(adapted.inputs, prepared.context, adapted.linear, adapted.hidden)


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
