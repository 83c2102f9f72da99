"""Every user's state as the compute threads see it: the newest, written or still in flight."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from itertools import chain, islice

from headrace.streams import metrics
from headrace.streams.state import Recovered, StateKey, StateVersionError, UserState

logger = logging.getLogger(__name__)

EVICTED_AT_ONCE = 1_000  # bounds one micro-batch's tombstones after partitions moved here
# Partitions that moved here may be back with another worker by then, and a tombstone is for good.
MOVED_FOR_S = 600.0  # longer than a worker is away that is rolled, or whose node is


class UserStates:
    """The table's states, overlaid by those computed but not yet written.

    Micro-batch n+1 is computed while n is being written. It must see n's states, and nobody else
    may: they leave the overlay when n is written or dropped. Compute threads read,
    who shares the work among them overlays, the event loop writes and releases.
    """

    def __init__(
        self,
        table: OrderedDict[StateKey, bytes],
        *,
        max_users: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table = table
        self._max_users = max_users
        self._clock = clock
        self._settled_at_s = clock()
        self._overlay: dict[StateKey, tuple[object, UserState]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._table)

    def read(self, key: StateKey) -> UserState:
        """Return the newest state of a user, or a new one.

        A user whose state is damaged starts over: to end here would end at every restart.

        Raises:
            StateVersionError: the state is of a release whose states are not read.
        """
        entry = self._overlay.get(key)
        if entry is not None:
            return entry[1]
        encoded = self._table.get(key)
        if encoded is None:
            return UserState()
        try:
            return UserState.decode(encoded, is_ours=not isinstance(encoded, Recovered))
        except StateVersionError:
            raise
        except ValueError as exc:
            metrics.STATES_REFUSED.inc()
            logger.error("a user of partition=%d starts over: %s", key[0], exc)
            return UserState()

    def overlay(self, owner: object, states: Mapping[StateKey, UserState]) -> None:
        """Let the next micro-batch see what ``owner`` computed."""
        with self._lock:
            self._overlay.update((key, (owner, state)) for key, state in states.items())

    def release(self, owner: object, keys: Iterable[StateKey]) -> None:
        """Forget ``owner``'s states, save where a later micro-batch has replaced them."""
        with self._lock:
            for key in keys:
                entry = self._overlay.get(key)
                if entry is not None and entry[0] is owner:
                    del self._overlay[key]

    def partitions_moved(self) -> None:
        """Evict no more than come, for a while: what is too many may be here for that long only."""
        self._settled_at_s = self._clock() + MOVED_FOR_S

    def overflow(self, incoming: Mapping[StateKey, bytes | None]) -> list[StateKey]:
        """Return the least recently written users to evict so that ``incoming`` fit.

        While partitions may be here for a while only, what was too many before stays.
        """
        if len(self._table) + len(incoming) <= self._max_users:
            return []  # even if all of them are new
        n_new = sum(value is not None and key not in self._table for key, value in incoming.items())
        excess = len(self._table) + n_new - self._max_users
        more = EVICTED_AT_ONCE if self._clock() >= self._settled_at_s else 0
        at_most = max(min(excess, n_new + more), 0)
        return list(islice((key for key in self._table if key not in incoming), at_most))

    def write(self, encoded: Mapping[StateKey, bytes | None], evicted: Iterable[StateKey]) -> None:
        """Take over states whose changelog records the broker has acknowledged; None drops one."""
        for key, value in chain(encoded.items(), ((key, None) for key in evicted)):
            if value is None:
                self._table.pop(key, None)
            else:
                self._table[key] = value
                self._table.move_to_end(key)
