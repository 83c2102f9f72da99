"""What hostile traffic costs the others: events a second and memory, each beside a plain stream.

    python tests/bench/hostile.py > hostile.json

Through an adapt worker, all events waiting: an even stream; the same with one user who sends nine
of ten events; with records of 64 kB that cannot be read. In one process, without Kafka: ever new
users, up to ten million of them, and ever new items, against the bounds on both.
"""

import argparse
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from types import SimpleNamespace

import numpy as np

from headrace.streams.adapt.compute import compute
from headrace.streams.adapt.micro_batch import MicroBatch
from headrace.streams.adapt.user_states import UserStates
from headrace.streams.bench import stage
from headrace.streams.bench.contenders import NoOp
from headrace.streams.bench.measuring import Row, as_json, machine, resident_bytes, show
from headrace.streams.bench.shop import Shop, open_shop
from headrace.streams.decoding import decoded
from headrace.streams.kafka.batches import Receipt, RecordBatch
from headrace.streams.kafka.broker import EmbeddedBroker
from headrace.streams.kafka.clients import outbox
from headrace.streams.learn.learner import Learner
from headrace.streams.records import Event
from headrace.streams.settings import Settings, load
from headrace.streams.wire import MAX_EVENT_BYTES, encode

N_USERS, N_ITEMS = 200, 1_000  # of the shop that a worker serves
SHARE = 0.9  # of the events, from one user
STEP = 256  # events of a micro-batch
Pairs = Iterable[tuple[str, bytes]]  # key and value


def through_kafka(settings: Settings, n_others: int) -> list[Row]:
    """Return how many events of the others a worker carries, by what comes beside them."""
    with EmbeddedBroker() as broker, stage.on_its_own(settings, has_topics=False) as own:
        own = own.model_copy(update={"bootstrap": broker.bootstrap})
        shop = open_shop(own, n_items=N_ITEMS, n_users=N_USERS, n_events=n_others)
        n_bot = round(n_others * SHARE / (1 - SHARE))
        bot = [Event(user="bot", item=f"i{n % N_ITEMS}", time_ms=n) for n in range(n_bot)]
        junk = bytes([0xC1]) * (MAX_EVENT_BYTES - 1)  # never used in msgpack
        even = [(event.user, encode(event)) for event in shop.events]
        loads: dict[str, tuple[Pairs, int]] = {
            "nothing": (even, 0),
            "one user with nine of ten events": (
                mixed(even, [(event.user, encode(event)) for event in bot]),
                n_bot,
            ),
            "a tenth as many records of 64 kB junk": (
                mixed(even, [("junk", junk)] * (n_others // 10)),
                0,
            ),
        }
        rows = [_run(own, shop, name, *load, n_others) for name, load in loads.items()]
    alone = rows[0]["all events/s"]
    for row in rows:  # what the others get of what is carried, against their part of what comes
        row["of their share"] = row["others' events/s"] / (alone * row["part of the events"])
    return rows


def mixed(one: list[tuple[str, bytes]], other: list[tuple[str, bytes]]) -> Pairs:
    """Yield both, evenly mixed."""
    places = np.concatenate([np.linspace(0, 1, len(one)), np.linspace(0, 1, len(other))])
    both = [*one, *other]
    return [both[i] for i in np.argsort(places, kind="stable")]


def _run(
    settings: Settings, shop: Shop, name: str, pairs: Pairs, n_beside: int, n_others: int
) -> dict[str, float | str]:
    """Publish, then run a worker until all of it is done; the clock runs from a tenth on."""
    prefix = f"{settings.topic_prefix}-{len(name)}"
    own = settings.model_copy(update={"topic_prefix": prefix, "group": prefix})
    stage.announce(own, shop)
    with outbox(own, own.topic("events")) as events:
        for key, value in pairs:
            events.send(key=key, value=value)
    total = n_others + n_beside
    with stage.worker(own, shop) as worker:
        names = ("events_total", "lists_total")
        rate, lists_per_s = worker.per_second(total // 10, total, *names, limit_s=600.0)
        after, _ = worker.wait_for(total)
        held = resident_bytes(worker.children[0].pid)
    part = n_others / total
    return {
        "beside the others": name,
        "part of the events": part,
        "all events/s": rate,
        "others' events/s": rate * part,
        "lists/s": lists_per_s,
        "dead letters": after.total("dead_letters_total"),
        "MB": held / 1e6,
    }


def new_users(settings: Settings, n_users: int, bound: int) -> list[Row]:
    """Return what holding ever new users takes, a row for each tenth of them."""
    states = UserStates(OrderedDict(), max_users=bound)
    engine, rows = NoOp(settings), list[Row]()
    start_s, n_written = time.process_time(), 0
    for first in range(0, n_users, STEP):
        micro_batch = MicroBatch(opened_s=0.0)
        records = [
            SimpleNamespace(
                topic="t",
                partition=0,
                offset=first + n,
                timestamp=1_000,
                key=None,
                value=encode(Event(user=f"user-{first + n}", item=f"i{n}", time_ms=1_000)),
                headers=(),
            )
            for n in range(STEP)
        ]
        receipt = Receipt(None, first + STEP, 0, 0)
        micro_batch.add(RecordBatch(records, receipt), decoded(records, now_ms=2_000))
        computed = compute(engine, states, micro_batch)
        evicted = states.overflow(computed.states)
        states.write(computed.states, evicted)
        states.release(micro_batch, computed.states)
        n_written += STEP
        if n_written * 10 // n_users > len(rows):
            rows.append(
                {
                    "distinct users": f"{n_written:,}",
                    "held": float(len(states)),
                    "MB": resident_bytes() / 1e6,
                    "us a user": 1e6 * (time.process_time() - start_s) / n_written,
                }
            )
    return rows


def new_items(settings: Settings, n_events: int, bound: int) -> list[Row]:
    """Return what ever new items of one user do to a learner that others' events reach as well."""
    rows = []
    for name, flood in (("nothing", 0.0), ("as many events, each of a new item", 0.5)):
        learner = Learner(settings.model_copy(update={"max_items": bound}))
        learner.warm_up()
        random, started_s, n_flood = np.random.default_rng(0), time.process_time(), 0
        for first in range(0, n_events, STEP):
            events = []
            for n in range(STEP):
                offset = first + n
                if random.random() < flood:
                    n_flood += 1
                    event = Event(user="bot", item=f"flood-{n_flood}", time_ms=1_000 * offset)
                else:
                    user, item = random.integers(0, 200), int(bound / 2 * random.random() ** 2)
                    event = Event(user=f"u{user}", item=f"i{item}", time_ms=1_000 * offset)
                events.append((event.user, offset, event))
            learner.learn(events)
            if first // STEP % 8 == 7:  # a version
                learner.assortment.make_room()
                learner.serve_version()
        kept = learner.vocabulary.indexes([f"i{n}" for n in range(bound // 20)])
        rows.append(
            {
                "beside the others": name,
                "new items": float(n_flood),
                "items held": float(learner.vocabulary.n_items),
                "of the others' 5 % most taken": sum(k >= 0 for k in kept) / len(kept),
                "us an event": 1e6 * (time.process_time() - started_s) / n_events,
                "MB": resident_bytes() / 1e6,
            }
        )
    return rows


def main() -> None:
    """Print tables for people and JSON for programs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--others", type=int, default=3_000)
    parser.add_argument("--users", type=int, default=10_000_000)
    parser.add_argument("--bound", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=20_000)
    asked, settings = parser.parse_args(), load()
    parts: dict[str, Callable[[], list[Row]]] = {
        "others": lambda: through_kafka(settings, asked.others),
        "new items": lambda: new_items(settings, asked.items, 2_000),
        "new users": lambda: new_users(settings, asked.users, asked.bound),
    }
    tables = {}
    for name, measure in parts.items():
        rows = measure()
        show(name, rows)
        tables[name] = as_json(rows)
        on = machine(device="cpu", threads=settings.threads)
        told = {"bench": "hostile", "asked": vars(asked), "machine": on, "tables": tables}
        print(json.dumps(told), flush=True)  # each with all before: the last line is the whole


if __name__ == "__main__":
    main()
