"""A learner, what it announces, and the worker that serves it: what the tests of serving share."""

from dataclasses import replace
from pathlib import Path
from typing import Self

from prometheus_client import REGISTRY
from stream_samples import START_MS, drawn, event, learned, small

from headrace.streams.adapt.engine import UserResult, UserWork
from headrace.streams.adapt.serving import Serving
from headrace.streams.learn.learner import Learner
from headrace.streams.learn.learner_state import pack_learner
from headrace.streams.records import Event, Recommendation, Source
from headrace.streams.settings import Settings
from headrace.streams.state import UserState
from headrace.streams.versions.publication import (
    Announcement,
    pack_delta,
    pack_model,
    pack_weights,
    split,
)
from headrace.streams.versions.store import ModelStore
from headrace.streams.wire import decode_recommendation, encode

NOW_MS = START_MS + 1_000_000_000


class Shop:
    """A learner, what it announces, and the worker that serves it."""

    def __init__(self, folder: Path, *, n_events: int = 300, **changes: object) -> None:
        sizes = {"model_store": str(folder), "list_length": 200}
        self.settings: Settings = small(**(sizes | changes))
        self.learner: Learner = learned(drawn(n_events))
        self.serving = Serving(self.settings, device="cpu", now_ms=lambda: NOW_MS)
        self.sequence = 0  # of the last delta
        self._store = ModelStore(str(folder), keep=5)

    def announce(
        self, version: int, *, epoch: int = 1, after: Announcement | None = None
    ) -> Announcement:
        """Write what the learner knows now as a version; ``after`` one, with its checkpoint."""
        learner = self.learner
        weights = self._store.write(version, "weights", pack_weights(learner.recommender.meta))
        if after:
            return replace(after, version=version, weights=weights)
        model = pack_model(learner.recommender, learner.vocabulary)
        return Announcement(
            version=version,
            epoch=epoch,
            model=self._store.write(version, "model", model),
            learner=self._store.write(version, "learner", pack_learner(learner, {})),
            delta_offset=0,
            published_ms=NOW_MS - 5_000,
            weights=weights,
            delta_sequence=self.sequence,
        )

    def at_work(self) -> Self:
        """Serve a first version."""
        assert self.serving.serve(self.announce(1))
        return self

    def popularise(self, item: str) -> None:
        """Let many take an item."""
        for number in range(40):
            self.learner.learn([(f"{item}-{number}", 0, event("new", item))])

    def delta(self, *, epoch: int = 1, learned_to: tuple[int, ...] = ()) -> None:
        """Tell the worker what changed."""
        self.hand_over(self.take_delta(), epoch=epoch, learned_to=learned_to)

    def take_delta(self) -> bytes:
        """Return what changed, which the worker is not told."""
        blob = pack_delta(self.learner.recommender, self.learner.assortment.new_items)
        self.learner.assortment.new_items = []
        return blob

    def hand_over(self, delta: bytes, *, epoch: int = 1, learned_to: tuple[int, ...] = ()) -> None:
        """Let the next delta be this one."""
        self.sequence += 1
        (fragment,) = split(
            delta,
            epoch=epoch,
            sequence=self.sequence,
            published_ms=NOW_MS - 250,
            learned_to=learned_to,
        )
        self.serving.apply(delta, fragment)

    def answer(self, *events: Event, state: UserState | None = None) -> Recommendation:
        """Return the list that answers one user's events."""
        (result,) = self.serving.process([work("ann", *events, state=state)])
        return list_of(result)


def work(user: str, *events: Event, state: UserState | None = None) -> UserWork:
    """Return one user of a micro-batch."""
    state = state or UserState()
    numbered = list(enumerate(events, state.last_offset + 1))
    last = numbered[-1][0] if numbered else state.last_offset
    source = Source(topic="events", partition=0, offset=last, time_ms=START_MS)
    return UserWork(user, state, numbered, source)


def list_of(result: UserResult) -> Recommendation:
    """Return the list as a reader gets it."""
    assert result.recommendation is not None
    return decode_recommendation(encode(result.recommendation))


def metric(name: str) -> float:
    """Return what Prometheus would read."""
    return REGISTRY.get_sample_value(f"headrace_{name}") or 0.0


CLICKS = [event("ann", item, at) for at, item in enumerate(["item-3", "item-5", "item-0"])]
