"""Serving: the adapt role's engine. Judges, adapts and ranks with the version announced last.

Compute threads meet here in ``process``, each with other users, and the follower that brings
versions, deltas and catalogue records. It changes something when none of them is at work, and those
that come meanwhile wait: so a version is swapped between two micro-batches or two parts of one, and
intake never pauses. The tensor library has no threads of its own: they would only shorten the
larger of its operations.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from headrace.model.histories import Histories
from headrace.model.recommender import MISS, Adapted, Prepared, Recommender
from headrace.model.scorer import AFFINITY
from headrace.model.shown import Shown, stack
from headrace.model.signals import MEDIUM, Ints, Longs
from headrace.model.vocabulary import Vocabulary
from headrace.streams import metrics
from headrace.streams.engine import UserResult, UserWork
from headrace.streams.errors import CheckpointError
from headrace.streams.lists import ListMaker, Lists
from headrace.streams.prequential import (
    Folded,
    accumulate,
    fold,
    gradient_sums,
    judge,
    prepare,
    ranks_shown,
    served,
)
from headrace.streams.publication import Announcement, apply_delta, unpack_model
from headrace.streams.quality import Window
from headrace.streams.settings import Settings
from headrace.streams.shown_lists import ShownLists, UserKey
from headrace.streams.state import UserState
from headrace.streams.store import ModelStore
from headrace.streams.wire import Item

logger = logging.getLogger(__name__)

CONTENDERS = ("adapted", "frozen", "popularity")
N_POPULAR = 12  # the first ten, less the item the user had last, and one to spare
# Of one user's events in a micro-batch, the latest are judged. It shares one list however many they
# are, and judging each would let a user who sends nine of ten events hold up all others.
MOST_TASKS = 32

Ranks = dict[str, Longs]  # where each judged event's item stood, by contender


class ClosedError(RuntimeError):
    """The role is stopping; what was asked will be replayed."""


@dataclass(slots=True)
class Live:
    """One version at work."""

    version: int
    epoch: int
    recommender: Recommender
    vocabulary: Vocabulary
    is_behind: bool = False  # a delta was refused: what it carried comes only with a version
    popular: Ints = field(default_factory=lambda: np.zeros(0, np.int32))  # recent, best first

    def refresh(self) -> None:
        """Follow the meta-parameters and item signals after they changed."""
        self.recommender.hold()
        n = len(self.vocabulary)
        recent = self.recommender.signals.popularity_now(n)[:, MEDIUM]
        k = min(N_POPULAR, n)
        top = np.argpartition(-recent, k - 1)[:k] if k else np.zeros(0, np.int64)
        self.popular = top[np.argsort(-recent[top], kind="stable")].astype(np.int32)
        metrics.ITEMS.set(self.vocabulary.n_items)


class Serving:
    """Implements ``engine.Engine``."""

    def __init__(
        self, settings: Settings, *, device: str, now_ms: Callable[[], int] | None = None
    ) -> None:
        torch.set_num_threads(1)  # of each compute thread
        self._settings = settings
        self._device = device
        self._now_ms = now_ms or (lambda: int(time.time() * 1000))
        self._store = ModelStore(settings.store_url, keep=settings.versions_kept)
        self._changed = threading.Condition()
        self._live: Live | None = None
        self._is_closed = False
        self._n_processing = 0  # compute threads at work
        self._n_changing = 0  # who waits for them to end
        self._window = Window()
        self._lists = ListMaker(settings)
        self._shown = ShownLists(settings.shown_lists)

    # ---------------------------------------------------------------------------- the follower

    def is_ready(self) -> bool:
        """Return whether a version is at work."""
        return self._live is not None

    def serve(self, announcement: Announcement) -> bool:
        """Load a version and swap it in; True if its item signals came with it.

        They come with a new epoch, and where a delta is missing from those at work.
        The version at work stays if this one is refused, which is counted.

        Raises:
            CheckpointError: the version fails a check.
        """
        live = self._live
        try:
            blob = self._store.read(announcement.model)
            recommender, vocabulary = unpack_model(
                blob, max_items=self._settings.max_items, device=self._device
            )
        except CheckpointError as exc:
            metrics.CHECKPOINTS_REFUSED.inc()
            raise CheckpointError(f"refused model version {announcement.version}: {exc}") from exc
        recommender.warm_up()
        with self._changing():
            has_signals = live is None or live.epoch != announcement.epoch or live.is_behind
            if live is not None and not has_signals:
                # What is counted at work is this version's own and has moved on since.
                recommender = Recommender(
                    recommender.meta,
                    live.recommender.signals,
                    coefficients=live.recommender.coefficients,
                    device=self._device,
                )
                vocabulary = live.vocabulary
            self._live = Live(announcement.version, announcement.epoch, recommender, vocabulary)
            self._live.refresh()
            if has_signals:
                self._shown.clear()  # items may have other indexes
        metrics.MODEL_VERSION.set(announcement.version)
        metrics.MODEL_PUBLISHED.set(announcement.published_ms / 1000)
        logger.info(
            "serving model version %d of epoch %d", announcement.version, announcement.epoch
        )
        return has_signals

    def apply(self, epoch: int, delta: bytes, *, published_ms: int) -> None:
        """Apply a delta if it belongs to the epoch at work.

        Raises:
            CheckpointError: it is refused; the next version makes up for it.
        """
        with self._changing():
            live = self._live
            if live is None or live.epoch != epoch:
                return
            try:
                apply_delta(delta, live.recommender, live.vocabulary)
            except CheckpointError:
                live.is_behind = True
                raise
            live.refresh()
        metrics.DELTAS_APPLIED.inc()
        metrics.DELTA_AGE.set(max(0, self._now_ms() - published_ms) / 1000)

    def note_item(self, item: Item) -> None:
        """Take over a catalogue record."""
        with self._changing():
            self._lists.note_item(item)

    def close(self) -> None:
        """Let go of a computation that waits for the first version."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Keep compute threads out, once those at work have ended."""
        with self._changed:
            self._n_changing += 1
            try:
                self._changed.wait_for(lambda: self._n_processing == 0)
                yield
            finally:
                self._n_changing -= 1
                self._changed.notify_all()

    # ---------------------------------------------------------------------- the compute threads

    def process(self, work: Sequence[UserWork]) -> list[UserResult]:
        """Process users; waits for the first version: until then nothing is written."""
        with self._processing() as live:
            started_s = time.perf_counter()
            results, judged = self._process(live, work) if work else ([], [])
            metrics.ADAPT_SECONDS.observe(time.perf_counter() - started_s)
        with self._changed:
            for ranks in judged:
                self._window.add(ranks)
            self._window.publish(CONTENDERS)
        served_hits = sum(event.rec_id is not None for one in work for _, event in one.events)
        metrics.SERVED_HITS.inc(served_hits)
        return results

    def forget(self, work: Sequence[UserWork]) -> None:
        """Keep no list of users who asked to be forgotten."""
        for one in work:
            self._shown.drop(_key(one))

    @contextmanager
    def _processing(self) -> Iterator[Live]:
        """Give the version at work, and keep everything as it is."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_closed or (self._live is not None and not self._n_changing)
            )
            if self._live is None:
                raise ClosedError("stopped before a model version came")
            live = self._live
            self._n_processing += 1
        try:
            yield live
        finally:
            with self._changed:
                self._n_processing -= 1
                self._changed.notify_all()

    def _process(
        self, live: Live, work: Sequence[UserWork]
    ) -> tuple[list[UserResult], list[Ranks]]:
        """Return the results of some users, and where their events' items stood.

        1. Fold the events into the states. 2. Judge those whose user's list is kept by what it
        showed. 3. Prepare the histories before the other events, and those after all. 4. Judge the
        others by what would have been shown. 5. Adapt and rank each user as they are now.
        """
        started_s = time.thread_time()
        kept = [  # of several events, the later ones were shown nothing yet
            self._shown.take(_key(one), one.state.last_offset) if len(one.events) == 1 else None
            for one in work
        ]
        states = [one.state for one in work]
        events = [
            (owner, offset, event) for owner, one in enumerate(work) for offset, event in one.events
        ]
        folded = fold(
            states,
            events,
            live.vocabulary,
            history_length=self._settings.history_length,
            most_tasks=MOST_TASKS,
        )  # 1
        folded_s = time.thread_time()
        by_shown = folded.is_task & np.array([one is not None for one in kept])[folded.owners]
        parts = [self._judge_shown(live, folded, by_shown, kept, states)]  # 2
        folded = folded._replace(is_task=folded.is_task & ~by_shown)
        before, after = prepare(live.recommender, folded)  # 3
        parts.append(self._judge(live, folded, states, before))  # 4
        judged: list[dict[str, int]] = [{} for _ in work]  # a user's last, for their list
        for owners, ranks in parts:
            for row, owner in enumerate(owners if ranks else ()):
                judged[owner] = {name: int(r[row]) for name, r in ranks.items() if r[row] < MISS}
        results = self._rank(live, work, folded.after, after, judged)  # 5
        metrics.CPU_SECONDS.labels("fold").inc(folded_s - started_s)
        metrics.CPU_SECONDS.labels("model").inc(time.thread_time() - folded_s)
        return results, [ranks for _, ranks in parts if ranks]

    def _judge_shown(
        self,
        live: Live,
        folded: Folded,
        by_shown: npt.NDArray[np.bool_],
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
            "adapted": served(
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
        states = [one.state for one in work]
        with torch.no_grad():
            adapted = live.recommender.adapt(after, gradient_sums(live.recommender, states))
        lists = self._lists.rank(
            live.recommender, live.vocabulary, histories, after, adapted, states
        )
        if self._shown.limit:
            made_at = [(_key(one), one.state.last_offset) for one in work]
            self._shown.keep(made_at, _shown(live, after, adapted, lists))
        now_ms = self._now_ms()
        return [
            UserResult(
                one.state,
                self._lists.recommendation(one, chosen, live.version, now_ms, judgement),
            )
            for one, chosen, judgement in zip(work, lists.ranked, judged, strict=True)
        ]


def _key(work: UserWork) -> UserKey:
    return work.source.partition, work.user


def _shown(live: Live, prepared: Prepared, adapted: Adapted, lists: Lists) -> Shown:
    """Return what to keep of lists that were made of ``prepared``."""
    inputs = adapted.inputs.half()  # all but affinity do not depend on the weights
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
