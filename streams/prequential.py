"""Judge each event before it is applied: the pass that adapt, learn and evaluate have in common.

The pass turns the events of a micro-batch into tasks. One user's events are judged each from the
history before it; their gradients are taken at the initial weights, so all events of a micro-batch
are judged in one batched call, and each task still sees the sums of exactly the events before it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from headrace.model.arrays import Floats, Ints, Longs
from headrace.model.config import MOST_REMEMBERED, REMEMBERED
from headrace.model.histories import Histories, from_columns
from headrace.model.learning.rehearsal import Tasks
from headrace.model.networks.inner_loop import (
    GRADIENT_DECAYS,
    N_DECAYS,
    GradientSums,
    n_scorer_weights,
)
from headrace.model.ranking_metrics import MISS
from headrace.model.recommender import (
    Adapted,
    Judgement,
    Prepared,
    Recommender,
    ranks_of,
)
from headrace.model.vocabulary import Vocabulary
from headrace.streams.actions import index_of, indexes_of, target_of
from headrace.streams.records import Event
from headrace.streams.state import UserState

_DECAYS = np.array(GRADIENT_DECAYS, np.float32)


class Folded(NamedTuple):
    """Events folded into their users' states, and what each was before that."""

    before: Histories  # (n,) histories before each event
    after: Histories  # (users,) histories after all
    targets: Ints  # (n,) item index of each event, -1 for what is no interaction
    actions: Longs  # (n,)
    times_s: Longs  # (n,)
    owners: Longs  # (n,) position of the event's user in the micro-batch
    is_task: np.ndarray[tuple[int], np.dtype[np.bool_]]  # (n,) an interaction to be judged

    def tasks_before(self) -> Histories:
        """Return the histories of the events that are tasks."""
        return self.before.rows(self.is_task)


class Columns:
    """Users' interactions as the model numbers them: a user's after another's, each oldest first.

    Each event sees all before it: numbered once, they are copied from here.
    """

    def __init__(
        self,
        states: Sequence[UserState],
        vocabulary: Vocabulary,
        room: Mapping[int, int],
        *,
        history_length: int = MOST_REMEMBERED,
    ) -> None:
        """Take the states' interactions, with room for so many more of some of the states.

        The states keep ``history_length`` at most.
        """
        self._spans: list[tuple[int, int]] = []
        items: list[str] = []
        times_ms: list[int] = []
        actions: list[str] = []
        for owner, state in enumerate(states):
            start = len(items)
            items += state.items[-MOST_REMEMBERED:]
            times_ms += state.times_ms[-MOST_REMEMBERED:]
            actions += state.actions[-MOST_REMEMBERED:]
            self._spans.append((start, len(items)))
            items += [""] * room[owner]
            times_ms += [0] * room[owner]
            actions += [""] * room[owner]
        longest = max((e - s + room[owner] for owner, (s, e) in enumerate(self._spans)), default=0)
        most = min(history_length, MOST_REMEMBERED)
        self._length = max(min(longest, most), REMEMBERED)  # H, of all histories alike
        self._items = np.array(vocabulary.indexes(items), np.int32)
        self._times_s = np.array(times_ms, np.int64) // 1000
        self._actions = np.array(indexes_of(actions), np.int32)

    def append(self, owner: int, item: int, time_s: int, action: int) -> None:
        """Add an interaction of a state."""
        start, end = self._spans[owner]
        self._items[end], self._times_s[end], self._actions[end] = item, time_s, action
        self._spans[owner] = start, end + 1

    def histories(self, rows: Sequence["Row"]) -> Histories:
        """Return histories as the model sees them."""
        spans = [row.span for row in rows]
        histories = from_columns(
            self._items, self._times_s, self._actions, spans, length=self._length
        )
        histories.n_events[:] = [row.n_events for row in rows]
        histories.n_repeats[:] = [row.n_repeats for row in rows]
        for number, row in enumerate(rows):
            if row.features:
                histories.features[number, : len(row.features)] = row.features
        return histories

    def row(self, owner: int, state: UserState) -> "Row":
        """Return where a state's history is, as it is now: it may have let go of the oldest."""
        start, end = self._spans[owner]
        span = max(start, end - len(state.items)), end
        return Row(span, state.n_events, state.n_repeats, state.features)


class Row(NamedTuple):
    """What a history is made of, beside the columns."""

    span: tuple[int, int]  # of the columns
    n_events: int
    n_repeats: int
    features: list[int]


def histories_of(states: Sequence[UserState], vocabulary: Vocabulary) -> Histories:
    """Return the states' histories as the model sees them."""
    columns = Columns(states, vocabulary, Counter())
    return columns.histories([columns.row(owner, state) for owner, state in enumerate(states)])


def fold(
    states: Sequence[UserState],
    events: Sequence[tuple[int, int, Event]],
    vocabulary: Vocabulary,
    *,
    history_length: int,
    with_repeats: bool = False,
    most_tasks: int | None = None,
) -> Folded:
    """Apply events to their users' states, keeping what was before each.

    ``events`` are (position of the user's state, offset, event), new to the states and in order.
    An event that repeats its user's previous item is a task only ``with_repeats``, and only the
    latest ``most_tasks`` events of a user can be one.
    """
    n = len(events)
    targets, owners = np.full(n, -1, np.int32), np.zeros(n, np.int64)
    actions, times_s = np.zeros(n, np.int64), np.zeros(n, np.int64)
    is_task = np.zeros(n, np.bool_)
    n_left = Counter(owner for owner, _, _ in events)
    columns = Columns(states, vocabulary, n_left, history_length=history_length)
    before: list[Row] = []
    for i, (owner, offset, event) in enumerate(events):
        state = states[owner]
        before.append(columns.row(owner, state))
        owners[i] = owner
        actions[i] = index_of(event.action)
        times_s[i] = event.time_ms // 1000
        n_before, is_repeat = state.n_events, state.items.ends_with(event.item)
        state.apply(event, offset=offset, history_length=history_length)
        if state.n_events > n_before:
            targets[i] = vocabulary.index(event.item)
            is_late = most_tasks is None or n_left[owner] <= most_tasks
            is_task[i] = is_late and (with_repeats or not is_repeat)
            columns.append(owner, int(targets[i]), int(times_s[i]), int(actions[i]))
        n_left[owner] -= 1
    after = [columns.row(owner, state) for owner, state in enumerate(states)]
    return Folded(
        columns.histories(before),
        columns.histories(after),
        targets,
        actions,
        times_s,
        owners,
        is_task,
    )


def prepare(recommender: Recommender, folded: Folded) -> tuple[Prepared, Prepared]:
    """Return the tasks, and the users after them, prepared in one pass."""
    owners = folded.owners[folded.is_task]
    n, n_users = len(owners), len(folded.after.items)
    by_user = np.argsort(np.concatenate([owners, np.arange(n_users)]), kind="stable")
    kept = np.concatenate([folded.targets[folded.is_task], np.full(n_users, -1, np.int32)])
    histories = folded.tasks_before().and_then(folded.after)
    with torch.no_grad():
        both = recommender.prepare(histories, order=by_user, kept=kept)
    return both.rows(slice(n)), both.rows(slice(n, None))


class Judged(NamedTuple):
    """Tasks, and where their items stood."""

    tasks: Tasks
    prepared: Prepared
    adapted: Adapted
    judgement: Judgement


def judge(
    recommender: Recommender,
    folded: Folded,
    states: Sequence[UserState],
    prepared: Prepared | None = None,
) -> Judged | None:
    """Judge the tasks among the events and add their gradients to the users' states.

    Returns None if there are none. ``prepared`` are the tasks, where they are already.
    """
    if not folded.is_task.any():
        return None
    histories, owners = folded.tasks_before(), folded.owners[folded.is_task]
    targets = folded.targets[folded.is_task]
    if prepared is None:
        by_user = np.argsort(owners, kind="stable")
        with torch.no_grad():
            prepared = recommender.prepare(histories, order=by_user, kept=targets)
    judgement = recommender.judge(prepared, targets)
    sums, counts = accumulate(states, owners, judgement)
    with torch.no_grad():
        adapted = recommender.adapt(prepared, to_tensors(recommender, sums, counts))
    tasks = Tasks(
        histories,
        prepared.candidates.items,
        adapted.inputs.cpu().numpy(),
        prepared.candidates.context,
        targets,
        folded.actions[folded.is_task],
        judgement.positions.astype(np.int32),
        judgement.probabilities,
        sums,
        counts,
        prepared.shares.cpu().numpy(),
    )
    return Judged(tasks, prepared, adapted, judgement)


def accumulate(
    states: Sequence[UserState], owners: Longs, judgement: Judgement
) -> tuple[Floats, Floats]:
    """Add each hit's gradient to its user's sums; return the sums as they were before each task.

    Returns (B, decays, P) sums and (B, decays) counts.
    """
    gradients = judgement.gradients
    sums = np.zeros((len(owners), N_DECAYS, gradients.shape[1]), np.float32)
    counts = np.zeros((len(owners), N_DECAYS), np.float32)
    for i, owner in enumerate(owners):
        state = states[owner]
        _copy_sums(state, sums[i], counts[i])
        if judgement.ranks[i] < MISS:
            state.gradients = sums[i] * _DECAYS[:, None] + gradients[i]
            state.n_judged = counts[i] * _DECAYS + 1
    return sums, counts


def _copy_sums(state: UserState, sums: Floats, counts: Floats) -> None:
    """Write the state's (decays, P) sums and (decays,) counts, zeros if it has none that fit.

    Sums of another width come from a model of another shape: the user starts over.
    """
    if state.gradients is not None and state.gradients.shape == sums.shape:
        sums[:], counts[:] = state.gradients, state.n_judged


def gradient_sums(recommender: Recommender, states: Sequence[UserState]) -> GradientSums:
    """Return the states' sums as tensors; users without judged events have zeros."""
    width = n_scorer_weights(recommender.meta.config)
    sums = np.zeros((len(states), N_DECAYS, width), np.float32)
    counts = np.zeros((len(states), N_DECAYS), np.float32)
    for i, state in enumerate(states):
        _copy_sums(state, sums[i], counts[i])
    return to_tensors(recommender, sums, counts)


def to_tensors(recommender: Recommender, sums: Floats, counts: Floats) -> GradientSums:
    """Move sums to the recommender's device."""
    device = recommender.device
    return GradientSums(torch.from_numpy(sums).to(device), torch.from_numpy(counts).to(device))


class TaskLists(NamedTuple):
    """The lists that the users of judged events would have been shown."""

    ranks: Longs  # (B,) where each task's item stood, MISS if it was no candidate
    items: Ints  # (B, K) item index, first place first, -1 padded


def lists_for(
    recommender: Recommender,
    judged: Judged,
    *,
    length: int,
    diversity: float = 0.0,
    target_action: str = "",
) -> TaskLists:
    """Return the adapted users' lists. What a list leaves out stands behind it."""
    prepared, positions = judged.prepared, judged.judgement.positions
    with torch.no_grad():
        adapted = judged.adapted.towards(recommender.meta.targets, target_of(target_action))
        scores = recommender.score(prepared, adapted)
        top = recommender.lists(prepared, scores, length=length, diversity=diversity)
    places = top.cpu().numpy()
    ranks = ranks_shown(scores, places, positions, diversity=diversity)
    return TaskLists(ranks, np.take_along_axis(prepared.candidates.items, places, 1))


def ranks_shown(
    scores: torch.Tensor, listed: Longs, positions: Longs, *, diversity: float
) -> Longs:
    """Return the (B,) ranks of the candidates at some positions, MISS where it is negative.

    ``listed`` are the (B, K) places among the candidates that the lists show.
    """
    ranks = ranks_of(scores, positions)
    if diversity:
        is_here = listed == positions[:, None]
        behind = np.maximum(ranks, listed.shape[1] + 1)
        ranks = np.where(is_here.any(1), is_here.argmax(1) + 1, behind)
    return ranks
