"""Refresh: what new events of some users lead to: states, judged lists, and new ones.

Compute threads are here at once, each with other users, while nothing that they share changes.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from headrace.model.arrays import Bools, Ints, Longs
from headrace.model.counts.signals import MEDIUM, most_popular
from headrace.model.histories import Histories
from headrace.model.networks.scorer import AFFINITY
from headrace.model.ranking_metrics import MISS, Ranks
from headrace.model.recommender import Adapted, Prepared, Recommender
from headrace.model.shown import Shown, stack
from headrace.model.vocabulary import Vocabulary
from headrace.streams import metrics
from headrace.streams.actions import NOT_ENGAGED
from headrace.streams.adapt.engine import UserResult, UserWork
from headrace.streams.adapt.lists import ListMaker, MadeLists, recommendation
from headrace.streams.adapt.shown_lists import ShownLists, UserKey
from headrace.streams.prequential import (
    Folded,
    accumulate,
    fold,
    gradient_sums,
    judge,
    lists_for,
    prepare,
    ranks_shown,
)
from headrace.streams.settings import Settings
from headrace.streams.state import UserState
from headrace.streams.versions.publication import Announcement

N_POPULAR = 12  # the first ten, less the item the user had last, and one to spare
# Of one user's events in a micro-batch, the latest are judged. It shares one list however many they
# are, and judging each would let a user who sends nine of ten events hold up all others.
MOST_TASKS = 32


@dataclass(slots=True)
class Live:
    """One version at work."""

    version: int
    epoch: int
    recommender: Recommender
    vocabulary: Vocabulary
    sequence: int | None  # of the last delta in them
    is_behind: bool = False  # a delta is missing: what it carried comes only with a checkpoint
    learned_to: Sequence[int] = ()  # by partition: events below may be in it
    popular: Ints = field(default_factory=lambda: np.zeros(0, np.int32))  # recent, best first

    def lacks(self, announcement: Announcement) -> bool:
        """Return whether a delta is missing here that is in an announced checkpoint."""
        theirs, own = announcement.delta_sequence, self.sequence
        return self.is_behind and (theirs is None or own is None or theirs > own)

    def knows(self, partition: int, offset: int) -> bool:
        """Return whether an event may have been learned from, so that it says nothing of lists."""
        return partition < len(self.learned_to) and offset < self.learned_to[partition]

    def follow(self) -> None:
        """Follow the meta-parameters and item signals after they changed."""
        self.recommender.hold()
        popularity = self.recommender.signals.popularity_now(len(self.vocabulary))
        self.popular = most_popular(popularity[:, MEDIUM], N_POPULAR).astype(np.int32)
        metrics.ITEMS.set(self.vocabulary.n_items)


class Refreshed(NamedTuple):
    """What a refresh led to."""

    results: list[UserResult]
    judged: list[Ranks]  # of events judged together, that the model does not know yet


class Refresher:
    """Folds, judges, adapts and ranks, under the shop's rules."""

    def __init__(self, settings: Settings, now_ms: Callable[[], int]) -> None:
        self._settings = settings
        self._now_ms = now_ms
        self.lists = ListMaker(settings)
        self.shown = ShownLists(settings.shown_lists)

    def forget(self, work: Sequence[UserWork]) -> None:
        """Keep no list of users who asked to be forgotten."""
        for one in work:
            self.shown.drop(_key(one))

    def refresh(self, live: Live, work: Sequence[UserWork]) -> Refreshed:
        """Return the results of some users, and where their events' items stood.

        1. Fold the events into the states. 2. Judge those whose user's list is kept by what it
        showed. 3. Prepare the histories before the other events, and those after all. 4. Judge the
        others by what would have been shown. 5. Adapt and rank each user as they are now.

        All that are judged adapt their users. Of those that the model knows already, for this
        worker is behind the learn role, it is not told where their items stood.
        """
        started_s = time.thread_time()
        kept = [  # of several events, the later ones were shown nothing yet
            self.shown.take(_key(one), one.state.last_offset) if len(one.events) == 1 else None
            for one in work
        ]
        states = [one.state for one in work]
        events = [
            (owner, offset, event) for owner, one in enumerate(work) for offset, event in one.events
        ]
        n_before = sum(state.n_events for state in states)
        folded = fold(
            states,
            events,
            live.vocabulary,
            history_length=self._settings.history_length,
            most_tasks=MOST_TASKS,
        )  # 1
        n_engaged = sum(event.action not in NOT_ENGAGED for _, _, event in events)
        n_folded = sum(state.n_events for state in states) - n_before
        metrics.DUPLICATES.inc(n_engaged - n_folded)
        folded_s = time.thread_time()
        by_shown = folded.is_task & np.array([one is not None for one in kept])[folded.owners]
        parts = [self._judge_shown(live, folded, by_shown, kept, states)]  # 2
        folded = folded._replace(is_task=folded.is_task & ~by_shown)
        before, after = prepare(live.recommender, folded)  # 3
        parts.append(self._judge(live, folded, states, before))  # 4
        is_news = np.array(
            [not live.knows(work[o].source.partition, offset) for o, offset, _ in events], np.bool_
        )
        is_source = np.array([offset == work[o].source.offset for o, offset, _ in events], np.bool_)
        told: list[Ranks] = []
        judged: list[dict[str, int]] = [{} for _ in work]  # of the event that the list answers
        for tasks, (owners, ranks) in zip((by_shown, folded.is_task), parts, strict=True):
            told.append({name: r[is_news[tasks]] for name, r in ranks.items()})
            for row in np.flatnonzero((is_news & is_source)[tasks]) if ranks else ():
                judged[owners[row]] = {
                    name: int(r[row]) for name, r in ranks.items() if r[row] < MISS
                }
        results = self._rank(live, work, folded.after, after, judged)  # 5
        metrics.CPU_SECONDS.labels("fold").inc(folded_s - started_s)
        metrics.CPU_SECONDS.labels("model").inc(time.thread_time() - folded_s)
        return Refreshed(results, [ranks for ranks in told if ranks])

    def _judge_shown(
        self,
        live: Live,
        folded: Folded,
        by_shown: Bools,
        kept: Sequence[Shown | None],
        states: Sequence[UserState],
    ) -> tuple[Longs, Ranks]:
        """Judge the (n,) events in ``by_shown`` by the lists kept of their users.

        Returns whose they are, and where their items stood; nothing if there are none.
        """
        owners, targets = folded.owners[by_shown], folded.targets[by_shown]
        lists = [one for owner in owners if (one := kept[owner])]
        if not lists:
            return owners, {}
        shown = stack(lists)
        judgement = live.recommender.judge_shown(shown, targets)
        accumulate(states, owners, judgement)
        metrics.JUDGED_SHOWN.inc(len(owners))
        return owners, {
            "adapted": ranks_shown(
                torch.from_numpy(shown.scores),
                shown.listed,
                judgement.positions,
                diversity=self._settings.diversity,
            ),
            "frozen": judgement.ranks,
            "popularity": _popularity_ranks(
                shown.popular, targets, folded.before.items[by_shown, 0]
            ),
        }

    def _judge(
        self, live: Live, folded: Folded, states: Sequence[UserState], before: Prepared
    ) -> tuple[Longs, Ranks]:
        """Judge the tasks by what would have been shown; return as ``_judge_shown`` does."""
        owners = folded.owners[folded.is_task]
        judged = judge(live.recommender, folded, states, before)
        if judged is None:
            return owners, {}
        return owners, {
            "adapted": lists_for(
                live.recommender,
                judged,
                length=self._settings.list_length,
                diversity=self._settings.diversity,
                target_action=self._settings.target_action,
            ).ranks,
            "frozen": judged.judgement.ranks,
            "popularity": _popularity_ranks(
                np.broadcast_to(live.popular, (len(owners), len(live.popular))),
                judged.tasks.targets,
                judged.tasks.histories.items[:, 0],
            ),
        }

    def _rank(
        self,
        live: Live,
        work: Sequence[UserWork],
        histories: Histories,
        after: Prepared,
        judged: Sequence[Mapping[str, int]],
    ) -> list[UserResult]:
        """Return the new lists of users, with where their last items stood."""
        states = [one.state for one in work]
        with torch.no_grad():
            adapted = live.recommender.adapt(after, gradient_sums(live.recommender, states))
        lists = self.lists.rank(
            live.recommender, live.vocabulary, histories, after, adapted, states
        )
        if self.shown.limit:
            made_at = [(_key(one), one.state.last_offset) for one in work]
            self.shown.keep(made_at, _shown(live, after, adapted, lists))
        now_ms = self._now_ms()
        return [
            UserResult(
                one.state,
                recommendation(one, chosen, live.version, now_ms, judgement),
            )
            for one, chosen, judgement in zip(work, lists.ranked, judged, strict=True)
        ]


def _key(work: UserWork) -> UserKey:
    return work.source.partition, work.user


def _shown(live: Live, prepared: Prepared, adapted: Adapted, lists: MadeLists) -> Shown:
    """Return what to keep of lists that were made of ``prepared``."""
    inputs = adapted.inputs.half()  # the inner loop moved no other than affinity
    with torch.no_grad():
        start = live.recommender.meta.user_loop.initial(prepared.shares)
        inputs[..., AFFINITY] = live.recommender.affinities(prepared, start)
    return Shown(
        prepared.candidates.items,
        inputs.cpu().numpy(),
        lists.scores.cpu().numpy(),
        lists.listed.cpu().numpy(),
        np.broadcast_to(live.popular, (len(lists.ranked), len(live.popular))),
        prepared.candidates.context,
        prepared.shares.cpu().numpy(),
    )


def _popularity_ranks(popular: Ints, targets: Ints, latest: Ints) -> Longs:
    """Return where (B,) tasks' items stood among the (B, P) recently popular, less the latest."""
    ranks = np.full(len(targets), MISS, np.int64)
    for row, (target, last) in enumerate(zip(targets, latest, strict=True)):
        place = np.flatnonzero(popular[row, popular[row] != last] == target)
        if target >= 0 and len(place):
            ranks[row] = place[0] + 1
    return ranks
