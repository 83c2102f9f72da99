"""Lists: what is left out of them, what is in them, and why."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from headrace.model.arrays import Bools, Ints
from headrace.model.counts.speakers import speakers
from headrace.model.histories import Histories
from headrace.model.networks.scorer import INPUTS
from headrace.model.recommender import Adapted, Prepared, Recommender
from headrace.model.vocabulary import Vocabulary
from headrace.streams.actions import meant_by, name_of, target_of
from headrace.streams.adapt.engine import UserWork
from headrace.streams.records import Reason, Recommendation, rec_id_of
from headrace.streams.settings import Settings
from headrace.streams.state import UserState

logger = logging.getLogger(__name__)

ALL = -1  # in ``leave_out``: all that are remembered


@dataclass(frozen=True, slots=True)
class Ranked:
    """One user's list, best first."""

    items: tuple[str, ...]
    scores: tuple[float, ...]
    reasons: tuple[Reason, ...]


class MadeLists(NamedTuple):
    """The lists of B users."""

    ranked: list[Ranked]
    scores: Tensor  # (B, C) of all candidates, whatever the shop's rules leave out
    listed: Tensor  # (B, K) places among the candidates


class ListMaker:
    """Makes lists under the shop's rules."""

    def __init__(self, settings: Settings) -> None:
        self._length = settings.list_length
        self._diversity = settings.diversity
        self._leave_out = settings.leave_out
        self._target = target_of(settings.target_action)
        for action in self._leave_out:  # may name the shop's own, so none is refused
            if meant := meant_by(action):
                told = "leave_out names %r, which is no known action: did you mean %r?"
                logger.warning(told, action, meant)

    def rank(
        self,
        recommender: Recommender,
        vocabulary: Vocabulary,
        histories: Histories,
        prepared: Prepared,
        adapted: Adapted,
        states: Sequence[UserState],
    ) -> MadeLists:
        """Return the list of each user; ``prepared`` is made of their ``histories``."""
        with torch.no_grad():
            adapted = adapted.towards(recommender.meta.targets, self._target)
            scores = recommender.score(prepared, adapted)
        left_out = self._left_out(vocabulary, prepared.candidates.items, states)
        allowed = scores.masked_fill(torch.from_numpy(left_out).to(scores.device), float("-inf"))
        top = recommender.lists(
            prepared, allowed, length=self._length, diversity=self._diversity
        )  # (B, K)
        best = allowed.gather(1, top).cpu().numpy()
        shares = recommender.explain(prepared, adapted, top)  # (B, K, I)
        loudest = shares.max(-1)
        total = shares.abs().sum(-1)
        share = (loudest.values / total).masked_fill(total == 0, 0.0).cpu().numpy()
        listed = np.take_along_axis(prepared.candidates.items, top.cpu().numpy(), 1)
        strongest = loudest.indices.cpu().numpy()
        columns = (
            listed,
            best.astype(np.float64).round(4),
            strongest,
            share.astype(np.float64).round(3),
            speakers(recommender.signals, histories, listed, strongest),
            np.isfinite(best).sum(1),
        )  # as lists: reading numbers from arrays one by one takes ten times as long
        rows = zip(states, *(column.tolist() for column in columns), strict=True)
        return MadeLists([_ranked(vocabulary, *row) for row in rows], scores, top)

    def _left_out(self, vocabulary: Vocabulary, items: Ints, states: Sequence[UserState]) -> Bools:
        """Return which of the (B, C) candidates stay out of the lists."""
        out = np.zeros(items.shape, np.bool_)
        if self._leave_out:
            for row, state in enumerate(states):
                own = vocabulary.indexes(list(left_out(state, self._leave_out)))
                out[row] = np.isin(items[row], own)
        return out


def recommendation(
    work: UserWork,
    ranked: Ranked,
    model_version: int,
    now_ms: int,
    judged: Mapping[str, int],
) -> Recommendation:
    """Return the record that answers the user's last event."""
    return Recommendation(
        user=work.user,
        rec_id=rec_id_of(work.user, work.source),
        items=ranked.items,
        scores=ranked.scores,
        reasons=ranked.reasons,
        model_version=model_version,
        source=work.source,
        generated_ms=now_ms,
        judged=judged,
    )


def _ranked(
    vocabulary: Vocabulary,
    state: UserState,
    listed: list[int],
    scores: list[float],
    loudest: list[int],
    shares: list[float],
    speaking: list[int],
    n: int,
) -> Ranked:
    """Return the first ``n`` places of a list in the shop's terms."""
    own = state.items[:]
    reasons: list[Reason] = [
        {
            "signal": INPUTS[signal],
            "share": share,
            "because": own[-1 - position] if position >= 0 else None,
        }
        for signal, share, position in zip(loudest[:n], shares, speaking, strict=False)
    ]
    items = tuple(vocabulary.ids[item] for item in listed[:n])
    return Ranked(items, tuple(scores[:n]), tuple(reasons))


def left_out(state: UserState, rules: Mapping[str, int]) -> set[str]:
    """Return the user's own items that the rules keep out: the latest so many of each action."""
    latest: dict[str, dict[str, None]] = {}
    for item, called in zip(reversed(state.items), reversed(state.actions), strict=True):
        latest.setdefault(name_of(called), {})[item] = None
    out: set[str] = set()
    for action, n in rules.items():
        items = latest.get(name_of(action), {})
        out.update(islice(items, None if n == ALL else n))
    return out
