"""A learner's content, for the tests of it."""

from stream_samples import event

from headrace.streams.learn.learner import Learner
from headrace.streams.records import Item


def note(learner: Learner, *items: Item) -> None:
    """Take catalogue records over and place them all."""
    for item in items:
        learner.assortment.note(item)
    while learner.assortment.place():
        pass


def shop(n: int, *, first: int = 0) -> list[Item]:
    return [Item(item=f"new-{i}", title=f"tea {i}") for i in range(first, first + n)]


def cold(learner: Learner) -> list[str]:
    """Return the cold items, newest first."""
    return [learner.vocabulary.ids[index] for index in learner.signals.content.cold]


def take(learner: Learner, *items: str, user: str = "ann", first: int = 10_000) -> None:
    learner.learn([(user, first + at, event(user, item, at)) for at, item in enumerate(items)])


def contents(learner: Learner) -> dict[str, bytes]:
    """Return each item's vector by its id."""
    content = learner.signals.content.snapshot()
    return {
        learner.vocabulary.ids[index]: vector.tobytes()
        for index, vector in zip(content["items"], content["vectors"], strict=True)
    }
