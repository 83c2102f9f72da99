"""Lists: what is left out of them, what is in them, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from headrace.model.recommender import Adapted, Prepared, Recommender
from headrace.model.scorer import INPUTS
from headrace.model.vocabulary import Vocabulary
from headrace.streams.actions import target_of
from headrace.streams.engine import UserWork
from headrace.streams.settings import Settings
from headrace.streams.state import UserState
from headrace.streams.wire import Item, Reason, Recommendation, rec_id_of

ALL = -1  # in ``leave_out``: all that are remembered


@dataclass(frozen=True, slots=True)
class Ranked:
    """One user's list, best first."""

    items: tuple[str, ...]
    scores: tuple[float, ...]
    reasons: tuple[Reason, ...]


class ListMaker:
    """Makes lists under the shop's rules."""

    def __init__(self, settings: Settings) -> None:
        self._length = settings.list_length
        self._diversity = settings.diversity
        self._leave_out = settings.leave_out
        self._target = target_of(settings.target_action)
        self._withdrawn: set[str] = set()  # bounded by the catalogue

    def note_item(self, item: Item) -> None:
        """Take over whether an item may be recommended."""
        if item.active:
            self._withdrawn.discard(item.item)
        else:
            self._withdrawn.add(item.item)

    def rank(
        self,
        recommender: Recommender,
        vocabulary: Vocabulary,
        prepared: Prepared,
        adapted: Adapted,
        states: Sequence[UserState],
    ) -> list[Ranked]:
        """Return the list of each user."""
        with torch.no_grad():
            adapted = adapted.towards(recommender.meta.targets, self._target)
            scores = recommender.score(prepared, adapted)
        left_out = self._left_out(vocabulary, prepared.candidates.items, states)
        scores = scores.masked_fill(torch.from_numpy(left_out).to(scores.device), float("-inf"))
        top = recommender.lists(
            prepared, scores, length=self._length, diversity=self._diversity
        )  # (B, K)
        best = scores.gather(1, top)
        shares = recommender.explain(prepared, adapted, top).cpu().numpy()  # (B, K, I)
        best_rows, top_rows = best.cpu().numpy(), top.cpu().numpy()
        return [
            self._list(vocabulary, prepared, row, state, best_rows[row], top_rows[row], shares[row])
            for row, state in enumerate(states)
        ]

    def _left_out(
        self, vocabulary: Vocabulary, items: npt.NDArray[np.int32], states: Sequence[UserState]
    ) -> npt.NDArray[np.bool_]:
        """Return which of the (B, C) candidates stay out of the lists."""
        withdrawn = vocabulary.indexes(list(self._withdrawn))
        out = np.isin(items, [index for index in withdrawn if index >= 0])
        if self._leave_out:
            for row, state in enumerate(states):
                own = vocabulary.indexes(list(left_out(state, self._leave_out)))
                out[row] |= np.isin(items[row], own)
        return out

    def _list(
        self,
        vocabulary: Vocabulary,
        prepared: Prepared,
        row: int,
        state: UserState,
        best: npt.NDArray[np.float32],
        top: npt.NDArray[np.int64],
        shares: npt.NDArray[np.float32],
    ) -> Ranked:
        n = int(np.isfinite(best).sum())
        candidates = prepared.candidates
        items = [vocabulary.ids[candidates.items[row, c]] for c in top[:n]]
        reasons = []
        for place, c in enumerate(top[:n]):
            said = shares[place]
            loudest = int(said.argmax())
            position = candidates.because[row, c]
            because = state.items[-1 - position] if position >= 0 else None
            total = float(np.abs(said).sum())
            share = float(said[loudest]) / total if total > 0 else 0.0
            reasons.append(Reason(signal=INPUTS[loudest], share=round(share, 3), because=because))
        return Ranked(tuple(items), tuple(round(float(s), 4) for s in best[:n]), tuple(reasons))

    def recommendation(
        self,
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


def left_out(state: UserState, rules: Mapping[str, int]) -> set[str]:
    """Return the user's own items that the rules keep out: the latest so many of each action."""
    room = dict(rules)
    out = set()
    for item, action in zip(reversed(state.items), reversed(state.actions), strict=True):
        if room.get(action, 0) != 0:
            out.add(item)
            room[action] -= 1  # ALL counts down from -1 and never meets 0
    return out
