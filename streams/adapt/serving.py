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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from headrace.model.recommender import Recommender
from headrace.streams import metrics
from headrace.streams.actions import NOT_ENGAGED
from headrace.streams.adapt.engine import UserResult, UserWork
from headrace.streams.adapt.quality import Window
from headrace.streams.adapt.refresh import Live, Refresher
from headrace.streams.compiling import told_of_compiling
from headrace.streams.errors import CheckpointError, TopicMismatchError
from headrace.streams.records import Item
from headrace.streams.settings import Settings
from headrace.streams.versions.publication import (
    Announcement,
    Fragment,
    apply_delta,
    unpack_model,
    unpack_weights,
)
from headrace.streams.versions.store import ModelStore
from headrace.streams.withdrawn import Withdrawn

logger = logging.getLogger(__name__)

CONTENDERS = ("adapted", "frozen", "popularity")


class Serving:
    """Implements ``engine.Engine``."""

    def __init__(
        self, settings: Settings, *, device: str, now_ms: Callable[[], int] | None = None
    ) -> None:
        torch.set_num_threads(1)  # of each compute thread
        # A GPU's context takes seconds: made with the first version, the role would stand still.
        torch.zeros(1, device=device)
        self._settings = settings
        self._device = device
        self._now_ms = now_ms or (lambda: int(time.time() * 1000))
        self._refresher = Refresher(settings, self._now_ms)
        self._store = ModelStore(settings.store_url, keep=settings.versions_kept)
        self._changed = threading.Condition()
        self._live: Live | None = None
        self._withdrawn = Withdrawn()
        self._is_popular_gone = False  # something that is a candidate for everybody was withdrawn
        self._n_processing = 0  # compute threads at work
        self._n_changing = 0  # who waits for them to end
        self._window = Window()
        # No list is made of frozen users: where it had other rules, the two would not compare.
        has_rules = bool(settings.diversity or settings.target_action)
        self._told = [name for name in CONTENDERS if not (has_rules and name == "frozen")]

    # ---------------------------------------------------------------------------- the follower

    def is_ready(self) -> bool:
        """Return whether a version is at work."""
        return self._live is not None

    def serve(self, announcement: Announcement) -> bool:
        """Load a version and swap it in; True if its item signals came with it.

        They come, with its checkpoint, in a new epoch, and where a delta is missing from those at
        work. The version at work stays if this one is refused, which is counted.

        Raises:
            CheckpointError: the version fails a check.
        """
        live = self._live
        has_signals = live is None or live.epoch != announcement.epoch or live.lacks(announcement)
        try:
            announcement.require_group(self._settings.group)
            loaded = self._load(announcement, None if has_signals else live)
        except (CheckpointError, TopicMismatchError) as exc:
            metrics.CHECKPOINTS_REFUSED.inc()
            raise CheckpointError(f"refused model version {announcement.version}: {exc}") from exc
        with told_of_compiling(logger.info):
            loaded.recommender.warm_up()
        with self._changing():
            self._live = loaded
            loaded.follow()
            if has_signals:
                self._refresher.shown.clear()  # items may have other indexes
        metrics.MODEL_VERSION.set(announcement.version)
        metrics.MODEL_PUBLISHED.set(announcement.published_ms / 1000)
        logger.info(
            "serving model version %d of epoch %d", announcement.version, announcement.epoch
        )
        return has_signals

    def _load(self, announcement: Announcement, live: Live | None) -> Live:
        """Load a version on top of what is at work, or else of its checkpoint.

        What is counted at work is this version's own and has moved on since.
        """
        # The weights first: they may make way for newer ones while a checkpoint is loaded.
        weights = announcement.weights
        meta = unpack_weights(self._store.read(weights)) if weights else None
        begun = self._begin(announcement) if live is None or meta is None else live
        start = live or begun
        meta = meta or begun.recommender.meta
        recommender = Recommender(
            meta,
            start.recommender.signals,
            coefficients=start.recommender.coefficients,
            device=self._device,
        )
        return replace(
            start,
            version=announcement.version,
            recommender=recommender,
            learned_to=max(start.learned_to, announcement.learned_to, key=sum),
        )

    def _begin(self, announcement: Announcement) -> Live:
        """Load a version's checkpoint."""
        recommender, vocabulary = unpack_model(
            self._store.read(announcement.model),
            max_items=self._settings.max_items,
            device=self._device,
        )
        self._withdrawn.mark_all(recommender.signals, vocabulary)  # which a version does not know
        recommender.signals.refresh_popular(len(vocabulary))
        return Live(
            announcement.version,
            announcement.epoch,
            recommender,
            vocabulary,
            sequence=announcement.delta_sequence,
        )

    def apply(self, delta: bytes, last: Fragment) -> None:
        """Apply a delta if it belongs to the epoch at work, and none before it is missing.

        Its ``last`` fragment says which it is.

        Raises:
            CheckpointError: it is refused, or one is missing; the next checkpoint makes up for it.
        """
        with self._changing():
            live = self._live
            if live is None or live.epoch != last.epoch or live.is_behind:
                return
            try:
                if live.sequence is not None and last.sequence > live.sequence + 1:
                    raise CheckpointError(f"delta {last.sequence} came after {live.sequence}")
                has_replaced = apply_delta(
                    delta,
                    live.recommender,
                    live.vocabulary,
                    withdrawn=self._withdrawn,
                )
            except CheckpointError as exc:
                live.is_behind = True  # what comes later may count on what this one carried
                metrics.DELTAS_REFUSED.inc()
                raise CheckpointError(
                    f"{exc}; those after it are left out until a checkpoint is loaded"
                ) from exc
            live.sequence = last.sequence
            live.learned_to = last.learned_to
            live.follow()
            if has_replaced:
                self._refresher.shown.clear()  # they name indexes
        metrics.DELTAS_APPLIED.inc()
        metrics.DELTA_AGE.set_function(lambda: max(0, self._now_ms() - last.published_ms) / 1000)

    def note_item(self, item: Item) -> None:
        """Take over a catalogue record."""
        with self._changing():
            self._withdrawn.note(item)
            index = self._live.vocabulary.index(item.item) if self._live else -1
            if self._live and index >= 0:
                signals = self._live.recommender.signals
                signals.arrays.is_out[index] = not item.active
                self._is_popular_gone |= not item.active and index in signals.popular

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
        if self._is_popular_gone:  # a delta chooses anew, too, and may be long in coming
            self._choose_popular()
        with self._processing() as live:
            started_s = time.perf_counter()
            results, judged = self._refresher.refresh(live, work) if work else ([], [])
            metrics.ADAPT_SECONDS.observe(time.perf_counter() - started_s)
        with self._changed:
            for ranks in judged:
                self._window.add(ranks)
            self._window.publish(self._told)
        metrics.ATTRIBUTED.inc(
            sum(
                event.rec_id is not None and event.action not in NOT_ENGAGED
                for one in work
                for _, event in one.events
            )
        )
        return results

    def _choose_popular(self) -> None:
        with self._changing():
            if self._live and self._is_popular_gone:
                self._is_popular_gone = False
                self._live.recommender.signals.refresh_popular(len(self._live.vocabulary))

    def forget(self, work: Sequence[UserWork]) -> None:
        """Keep no list of users who asked to be forgotten."""
        self._refresher.forget(work)

    @contextmanager
    def _processing(self) -> Iterator[Live]:
        """Give the version at work, and keep everything as it is."""
        with self._changed:
            if self._live is None:
                logger.info("events wait for the first model version, which learn publishes")
            self._changed.wait_for(lambda: self._live is not None and not self._n_changing)
            live = self._live
            assert live is not None  # once there is one, there always is
            self._n_processing += 1
        try:
            yield live
        finally:
            with self._changed:
                self._n_processing -= 1
                self._changed.notify_all()
