"""One size of what `headrace bench growth` varies, in a process of its own: it prints its figures.

    python -m headrace.streams.bench.probes users|items|history SIZE REPEATS

Computing is told in CPU time, so that other jobs on the machine matter less. What is held fixed is
a shop whose items have full rows and whose users have 60 interactions.
"""

import asyncio
import ctypes
import gc
import json
import resource
import sys
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from headrace.streams.adapt.compute import compute
from headrace.streams.adapt.micro_batch import Arrivals, MicroBatch
from headrace.streams.adapt.serving import Serving
from headrace.streams.adapt.user_states import UserStates
from headrace.streams.bench import stage
from headrace.streams.bench.measuring import resident_bytes, seconds_of
from headrace.streams.bench.shop import COUNTED, Shop, open_shop, states_of, stock
from headrace.streams.column import Column
from headrace.streams.guards import PauseGuard
from headrace.streams.learn.learner import Learner
from headrace.streams.learn.publisher import Publisher
from headrace.streams.model_settings import pick_device
from headrace.streams.process import collect_rarely
from headrace.streams.records import Event, Source
from headrace.streams.settings import Settings, load
from headrace.streams.state import StateKey, UserState
from headrace.streams.versions.publication import Announcement

N_ITEMS = 10_000
N_USERS = 256  # of the shop, and of a micro-batch
LONGEST = 400  # interactions of a history
TICK_S = 0.005
TOUCHED = 1_000  # states read and written, to time one

Found = dict[str, list[float]]  # of each figure, its repeats


def users(settings: Settings, size: int, repeats: int) -> Found:
    """Hold so many users' states, as an adapt worker does."""
    shop = _shop(settings, N_ITEMS, repeats)
    serving = _serving(settings, _publish(settings, shop.learner))
    encoded = [state.encode() for state in states_of(shop.learner).values()]
    table: OrderedDict[StateKey, bytes] = OrderedDict()
    states = UserStates(table, max_users=size)
    held = _resident_bytes()
    for user in range(size):
        table[_key(user)] = bytes(bytearray(encoded[user % N_USERS]))  # a copy
    held = _resident_bytes() - held
    random = np.random.default_rng(settings.seed)
    found = defaultdict[str, list[float]](list)
    for events in _micro_batches(shop):
        keys = [_key(user) for user in random.integers(0, size, TOUCHED)]
        with _cpu(found["us to read one"], 1e6 / TOUCHED):
            read = [states.read(key) for key in keys]
        with _cpu(found["us to write one"], 1e6 / TOUCHED):
            states.write({key: state.encode() for key, state in zip(keys, read, strict=True)}, ())
        others = random.integers(0, max(1, size // N_USERS), N_USERS) * N_USERS
        anyone = [
            replace(event, user=f"u{user + other}")
            for user, (event, other) in enumerate(zip(events, others, strict=True))
        ]
        _process(serving, states, anyone, found["ms a user"])
    return {
        "bytes encoded": [_mean_bytes(encoded)],
        "bytes resident": [held / size],
        **_after_the_first(found),
    }


def items(settings: Settings, size: int, repeats: int) -> Found:
    """Count so many items, publish them as the learn role does, and serve them."""
    settings = settings.model_copy(update={"max_items": 2 * size})
    learner = Learner(settings)
    learner.warm_up()
    held = _resident_bytes()
    stock(learner, size)
    held = _resident_bytes() - held
    shop = _shop(settings, size, repeats, learner=learner)
    found = defaultdict[str, list[float]](list)
    learner.serve_delta()  # so that none of those measured fits items anew
    published = _publish(settings, learner)
    served = _resident_bytes()
    serving = _serving(settings, published)
    served = _resident_bytes() - served
    states = _table(states_of(learner).values())
    for at, events in enumerate(_micro_batches(shop)):
        _process(serving, states, events, found["ms a user"])
        first = (COUNTED + at) * N_USERS  # offset
        with _cpu(found["ms a learned event"], 1e3 / N_USERS):
            learner.learn([(event.user, first + i, event) for i, event in enumerate(events)])
        with _standstill(found["ms of standstill"]):
            published = _publish(settings, learner)
            found["s to load"].append(seconds_of(partial(_serving, settings, published)))
        found["checkpoint MB"].append(published.checkpoint_bytes / 1e6)
        found["s to publish"].append(published.checkpoint_s)
        found["weights MB"].append(published.weights_bytes / 1e6)
        found["ms to publish weights"].append(published.weights_s * 1e3)
        weights_s = seconds_of(partial(serving.serve, published.announcement))
        found["ms to load weights"].append(weights_s * 1e3)
        found["delta kB"].append(published.delta_bytes / 1e3)
    return {
        "learn kB an item": [held / size / 1e3],
        "adapt kB an item": [served / size / 1e3],
        **_after_the_first(found),
        "peak GB, both": [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9],
    }


def history(settings: Settings, size: int, repeats: int) -> Found:
    """Adapt users who have so many interactions, all else the same."""
    settings = settings.model_copy(update={"history_length": LONGEST})
    shop = _shop(settings, N_ITEMS, repeats, n_before=LONGEST)
    published = _publish(settings, shop.learner)
    serving = _serving(settings.model_copy(update={"history_length": size}), published)
    latest = [_latest(state, size) for state in states_of(shop.learner).values()]
    states = _table(latest)
    found = defaultdict[str, list[float]](list)
    for events in _micro_batches(shop):
        _process(serving, states, events, found["ms a user"])
    encoded = _mean_bytes([state.encode() for state in latest])
    return {"bytes encoded": [encoded], **_after_the_first(found)}


def _latest(state: UserState, n: int) -> UserState:
    return replace(
        state,
        items=Column.of(state.items[-n:]),
        actions=Column.of(state.actions[-n:]),
        times_ms=Column.of(state.times_ms[-n:]),
    )


def _shop(
    settings: Settings,
    n_items: int,
    repeats: int,
    *,
    n_before: int = COUNTED,
    learner: Learner | None = None,
) -> Shop:
    """Return a shop with full rows, and events for a micro-batch more than the repeats."""
    if learner is None:
        learner = Learner(settings)
        stock(learner, n_items)
    shop = open_shop(
        settings,
        n_items=n_items,
        n_users=N_USERS,
        n_events=N_USERS * (repeats + 1),
        n_before=n_before,
        learner=learner,
    )
    collect_rarely()  # as a role does
    return shop


def _micro_batches(shop: Shop) -> Iterator[list[Event]]:
    """Yield one event of every user, again and again."""
    for at in range(0, len(shop.events), N_USERS):
        yield shop.events[at : at + N_USERS]


# ----------------------------------------------------------------------------- the learn role


class Published(NamedTuple):
    """A version with a checkpoint, with the delta before it, and one with the same checkpoint."""

    announcement: Announcement  # of the second
    checkpoint_s: float  # to publish the first
    weights_s: float  # to publish the second
    checkpoint_bytes: int
    weights_bytes: int
    delta_bytes: int


def _publish(settings: Settings, learner: Learner) -> Published:
    """Publish as the learn role does, but for the broker."""
    sent: defaultdict[str, list[bytes]] = defaultdict(list)

    async def send(topic: str, key: bytes | None, value: bytes) -> int:  # noqa: ARG001 - a ``Send``
        sent[topic].append(value)
        return 0

    with ThreadPoolExecutor(1) as thread:
        publisher = Publisher(settings, learner, thread, {})
        never = PauseGuard(float("inf"))

        def publish(with_checkpoint: bool) -> None:
            asyncio.run(publisher.publish_version(send, never, with_checkpoint=with_checkpoint))

        checkpoint_s = seconds_of(partial(publish, True))
        delta_bytes = sum(map(len, sent[settings.topic("deltas")]))
        weights_s = seconds_of(partial(publish, False))
    announcement = Announcement.decode(sent[settings.topic("models")][-1])
    assert announcement.weights is not None
    return Published(
        announcement,
        checkpoint_s,
        weights_s,
        announcement.model.size_bytes + announcement.learner.size_bytes,
        announcement.weights.size_bytes,
        delta_bytes,
    )


# ----------------------------------------------------------------------------- the adapt role


def _serving(settings: Settings, published: Published) -> Serving:
    serving = Serving(settings, device=pick_device(settings))
    serving.serve(published.announcement)
    return serving


def _key(user: int) -> StateKey:
    return 0, b"u%d" % user


def _table(states: Collection[UserState]) -> UserStates:
    encoded = ((_key(user), state.encode()) for user, state in enumerate(states))
    return UserStates(OrderedDict(encoded), max_users=len(states))


def _process(
    serving: Serving, states: UserStates, events: list[Event], ms_a_user: list[float]
) -> None:
    """Read, judge, adapt, rank and write the users of a micro-batch; note what a user took."""
    micro_batch = MicroBatch(opened_s=0.0)
    for event in events:
        offset = event.time_ms  # later events have higher ones, and that is all that is asked
        source = Source(topic="events", partition=0, offset=offset, time_ms=event.time_ms)
        micro_batch.users[0, event.user.encode()] = Arrivals(
            user=event.user, events=[(offset, event)], source=source, oldest_record_ms=0
        )
    with _cpu(ms_a_user, 1e3 / len(events)):
        computed = compute(serving, states, micro_batch)
        states.write(computed.states, ())
    states.release(micro_batch, computed.states)


# --------------------------------------------------------------------------------- figures


@contextmanager
def _cpu(found: list[float], scale: float) -> Iterator[None]:
    """Note the CPU time of what is done inside, in units of which a second has ``scale``."""
    started_s = time.process_time()
    yield
    found.append(scale * (time.process_time() - started_s))


@contextmanager
def _standstill(found: list[float]) -> Iterator[None]:
    """Note the longest time that another thread got no turn: what holds Python's lock stops it.

    A role whose event loop stands still for more than ``pause_limit_s`` ends itself.
    """
    done, turns_s = threading.Event(), [time.perf_counter()]

    def tick() -> None:
        while not done.wait(TICK_S):
            turns_s.append(time.perf_counter())

    with ThreadPoolExecutor(1) as other:
        other.submit(tick)
        try:
            yield
        finally:
            done.set()
    turns_s.append(time.perf_counter())
    found.append(1e3 * float(np.diff(turns_s).max()))


def _after_the_first(found: Mapping[str, list[float]]) -> Found:
    """Return the repeats: the first time compiles and fills caches."""
    return {name: values[1:] for name, values in found.items()}


def _mean_bytes(encoded: Sequence[bytes]) -> float:
    return sum(map(len, encoded)) / len(encoded)


def _resident_bytes() -> int:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else what comes next takes what was freed, and none shows
    return resident_bytes()


PROBES: dict[str, Callable[[Settings, int, int], Found]] = {
    each.__name__: each for each in (users, items, history)
}


if __name__ == "__main__":
    with stage.on_its_own(load(), has_topics=False) as own:
        print(json.dumps(PROBES[sys.argv[1]](own, int(sys.argv[2]), int(sys.argv[3]))))
