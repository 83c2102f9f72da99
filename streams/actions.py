"""Actions: what users do to items, as the model numbers them."""

import difflib
import re
from collections.abc import Iterable, Mapping

# Positions are part of every checkpoint: append, never reorder.
ACTIONS = ("other", "view", "click", "add_to_cart", "purchase", "rating", "favorite", "search")
_INDEX = {action: i for i, action in enumerate(ACTIONS)} | {"cart": 3, "review": 5}
# Actions that need no item: an event asks to forget its user, or to make their list anew.
FORGET, REFRESH = "forget", "refresh"
WITHOUT_ITEM = (FORGET, REFRESH)
NOT_ENGAGED = frozenset({"impression", "return", *WITHOUT_ITEM})
KNOWN = frozenset(_INDEX) | NOT_ENGAGED
_CLOSE = 0.8  # a letter or two are wrong; at 0.6, an order would be meant as other


def index_of(action: str) -> int:
    """Return an action's number; those nobody foresaw share the first."""
    return _INDEX.get(action, 0)


def indexes_of(actions: Iterable[str]) -> list[int]:
    """Return the number of each action."""
    get = _INDEX.get
    return [get(action, 0) for action in actions]


def spelt(action: str) -> str:
    """Return a known action in our letters, whatever its case; any other word as it is."""
    folded = action.lower()
    return folded if folded in KNOWN else action


def name_of(action: str) -> str:
    """Return an action's own name where it has another too; any other word is its own."""
    index = index_of(action)
    return ACTIONS[index] if index else action


def meant_by(action: str, others: Iterable[str] = ()) -> str | None:
    """Return the known action that a word seems to be meant as; None for a shop's own, or a known.

    Of the ``others`` more is known than the model tells apart.
    """
    known = [*_INDEX, *others]
    if action in known:
        return None
    word = re.sub(r"[\s_-]+", "_", action.casefold().strip())
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=_CLOSE)), None)


def target_of(action: str) -> int | None:
    """Return the number of the action that lists are made for, None if for none in particular."""
    return index_of(action) if action else None


def check_actions(actions: Iterable[str]) -> None:
    """Check that the model tells each of the actions from all others.

    Raises:
        ValueError: it does not tell one; the text names those that it does, or its other name.
    """
    called: dict[int, str] = {}
    for action in actions:
        if action not in _INDEX:
            raise ValueError(f"no such action: {action!r}; there are {', '.join(_INDEX)}")
        other = called.setdefault(index_of(action), action)
        if other != action:
            raise ValueError(f"{other} and {action} are the same action: give one of them")


def weights_of(weights: Mapping[str, float]) -> tuple[float, ...]:
    """Return each number's weight, 1 unless given."""
    given = {index_of(action): weight for action, weight in weights.items()}
    return tuple(given.get(i, 1.0) for i in range(len(ACTIONS)))
