"""The lists that users were shown last, kept in memory until their next events are judged."""

import threading
from collections import OrderedDict
from collections.abc import Iterable

from headrace.model.shown import Shown

UserKey = tuple[int, str]  # partition and user: offsets count within a partition


class ShownLists:
    """The lists of so many users who came last. Compute threads call it at once."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._lists: OrderedDict[UserKey, tuple[int, Shown]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many are kept."""
        return len(self._lists)

    def take(self, user: UserKey, offset: int) -> Shown | None:
        """Take out the list that was made after the event at an offset, if it is kept.

        One made after another event is of another history, and is dropped.
        """
        with self._lock:
            made_at, shown = self._lists.pop(user, (-1, None))
        return shown if made_at == offset else None

    def keep(self, users: Iterable[tuple[UserKey, int]], shown: Shown) -> None:
        """Keep the lists made for users after the events at some offsets."""
        made = list(zip(users, shown.users(), strict=True))  # copied before others have to wait
        with self._lock:
            for (user, offset), one in made:
                self._lists[user] = offset, one
                self._lists.move_to_end(user)
            while len(self._lists) > self.limit:
                self._lists.popitem(last=False)

    def drop(self, user: UserKey) -> None:
        """Keep nothing of a user."""
        with self._lock:
            self._lists.pop(user, None)

    def clear(self) -> None:
        """Keep nothing: items are about to have other indexes."""
        with self._lock:
            self._lists.clear()
