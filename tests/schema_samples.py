"""One sample of everything that outlives the process that wrote it, and the files kept of them.

``tests/fixtures`` holds a file of each schema version, written by the release that had it. After a
schema has got its next version: ``.venv/bin/python tests/schema_samples.py`` writes the files that
are missing and touches none that is there. ``.first`` is how a version was written until something
came behind that its readers pass over.
"""

from pathlib import Path

import numpy as np

from headrace.streams import schema
from headrace.streams.actions import FORGET
from headrace.streams.learn.learner import Learner
from headrace.streams.learn.learner_state import pack_learner
from headrace.streams.records import Event, Item, Reason, Recommendation, Source
from headrace.streams.settings import Settings
from headrace.streams.state import UserState
from headrace.streams.versions.publication import (
    Announcement,
    pack_delta,
    pack_model,
    pack_weights,
    split,
)
from headrace.streams.versions.store import StoredFile
from headrace.streams.wire import encode

FIXTURES = Path(__file__).parent / "fixtures"
START_MS = 1_700_000_000_000
USERS = ("ann", "bob", "cem")
POSITIONS = {0: 60, 3: 5}

EVENT = Event(
    user="ann",
    item="tea",
    action="purchase",
    time_ms=START_MS,
    event_id="e-1",
    rec_id="ann-0-6",
    context={"country": "de", "party": 3},
)
ASKS = Event(user="ann", item="", action=FORGET, time_ms=START_MS)
ITEM = Item(
    item="tea",
    title="Green tea",
    categories=("drinks", "tea"),
    price=4.5,
    text="From the hills",
    vectors={"image": (0.5, -1.0)},
)
LIST = Recommendation(
    user="ann",
    rec_id="ann-0-7",
    items=("milk", "cups"),
    scores=(1.5, -0.25),
    reasons=(
        Reason(signal="next", share=0.75, because="tea"),
        Reason(signal="age", share=0.125, because=None),
    ),
    model_version=4,
    source=Source(topic="headrace.events", partition=0, offset=7, time_ms=START_MS),
    generated_ms=START_MS + 250,
    judged={"adapted": 2, "popularity": 11},
)
STATE = UserState(
    last_offset=7,
    n_events=5,
    n_repeats=1,
    items=["tea", "milk", "tea"],
    actions=["view", "click", "purchase"],
    times_ms=[START_MS, START_MS + 1_000, START_MS + 2_000],
    gradients=np.array([[0.5, -1.0, 2.0], [0.25, 0.0, -4.0]], np.float32),
    n_judged=np.array([1.5, 1.75], np.float32),
    features=[11, 29],
    named=bytes(range(16)),
)
ANNOUNCEMENT = Announcement(
    version=4,
    epoch=START_MS,
    model=StoredFile("v00000004.model.safetensors", "a" * 64, 1_000),
    learner=StoredFile("v00000004.learner.safetensors", "b" * 64, 2_000),
    delta_offset=12,
    published_ms=START_MS + 500,
    weights=StoredFile("v00000004.weights.safetensors", "c" * 64, 500),
    delta_sequence=3,
)


def settings() -> Settings:
    """Return those of the smallest shop."""
    return Settings(
        encoder_width=4,
        encoder_heads=1,
        encoder_length=8,
        neighbours=8,
        replay_tasks=256,
        replay_batches=0,
        device="cpu",
    )


def events(first: int, end: int) -> list[tuple[str, int, Event]]:
    """Return a stream: three users in turn, each going round 12 items from a place of their own."""
    return [
        (
            f"0/{USERS[at % 3]}",
            at,
            Event(
                user=USERS[at % 3],
                item=f"item-{(at // 3 + 4 * (at % 3)) % 12}",
                time_ms=START_MS + 60_000 * at,
            ),
        )
        for at in range(first, end)
    ]


def learner() -> Learner:
    """Return what has learned the first sixty events of the stream, and two catalogue records."""
    made = Learner(settings())
    made.learn(events(0, 60))
    made.assortment.note(Item(item="item-0", categories=("drinks",), vectors={"image": (1.0, 0.0)}))
    made.assortment.note(Item(item="item-1", categories=("cups",), vectors={"image": (0.0, 1.0)}))
    made.assortment.place()
    made.serve_delta()
    made.serve_version()
    return made


def written() -> dict[str, bytes]:
    """Return each sample as it is written now, by kind. The delta comes on top of the model."""
    shop = learner()
    model = pack_model(
        shop.recommender, shop.vocabulary, content_space=shop.assortment.catalogue.space
    )
    state = pack_learner(shop, POSITIONS)
    pack_delta(shop.recommender, shop.assortment.new_items)  # what is in the model is no change
    shop.learn([("0/ann", 60, Event(user="ann", item="new", time_ms=START_MS + 3_600_000))])
    delta = pack_delta(shop.recommender, [(12, "new")])
    (fragment,) = split(delta, epoch=START_MS, sequence=3, published_ms=START_MS + 750)
    return {
        "event": encode(ASKS),
        "item": encode(ITEM),
        "list": encode(LIST),
        "state": STATE.encode(),
        "announcement": ANNOUNCEMENT.encode(),
        "delta": fragment.encode(),
        "model": model,
        "weights": pack_weights(shop.recommender.meta),
        "learner": state,
    }


def main() -> None:
    """Write the files that are missing."""
    values = written()
    for kind in schema.ALL:
        path = FIXTURES / f"{kind.name}.v{kind.version}"
        if not path.exists():
            path.write_bytes(values[kind.name])
            print(f"wrote {path.name}: {len(values[kind.name])} bytes")


if __name__ == "__main__":
    main()
