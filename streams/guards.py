"""Guards that end the process when going on could write something stale, or not go on at all.

A supervisor (systemd, Kubernetes, ``headrace`` itself) starts it again, and the replay from the
committed offsets repairs. Nothing is committed on the way out.
"""

import logging
import math
import os
import time
from collections.abc import Callable
from typing import Final, NoReturn

from headrace.streams.errors import (
    BrokerRefusedError,
    BrokerUnreachableError,
    StreamsError,
    TopicMismatchError,
)

logger = logging.getLogger(__name__)

EXIT_WRONG: Final = 2  # as click's own usage errors: settings, topics or files are wrong
EXIT_UNAVAILABLE: Final = 69  # EX_UNAVAILABLE: no broker answers
EXIT_FAILED: Final = 70  # EX_SOFTWARE: an exception that is not a bad record
EXIT_PAUSED: Final = 75  # EX_TEMPFAIL: stood still or was cut off, and may have been replaced
EXIT_STUCK: Final = 76  # a rebalance or recovery did not end
EXIT_REFUSED: Final = 77  # EX_NOPERM: the broker and we do not trust each other

_STATUS_OF: dict[type, int] = {
    TopicMismatchError: EXIT_WRONG,
    BrokerRefusedError: EXIT_REFUSED,
    BrokerUnreachableError: EXIT_UNAVAILABLE,
}

# Stands still neither in SIGSTOP nor in a suspended machine, where the system has such a clock.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now_s() -> float:
    """Return seconds on a clock that counts every pause of the process."""
    return time.clock_gettime(_CLOCK)


def end_process(code: int) -> NoReturn:
    """End at once: no handler may commit, flush or send anything more."""
    logging.shutdown()
    os._exit(code)


def tell_failure(exc: BaseException, what: str) -> int:
    """Log why a role ends; return the status for it: no start mends what an operator must."""
    from aiokafka import errors  # the command line does without it

    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, StreamsError):
            logger.error("ended: %s", cause)
            return _STATUS_OF.get(type(cause), EXIT_FAILED)
        for kinds, why, code in _brokers_reasons():
            if isinstance(cause, kinds):
                logger.error("ended: %s: %r", why, cause)
                return code
        # A crash of Faust and aiokafka's plain error say nothing themselves.
        cause = cause.__cause__ if type(cause) in (RuntimeError, errors.KafkaError) else None
    logger.error("ended: %s", what, exc_info=exc)
    return EXIT_FAILED


def _brokers_reasons() -> list[tuple[tuple[type[Exception], ...], str, int]]:
    """Return what aiokafka raises for which reason, and the status for it.

    Not that of a refusal: one answer may be wrong, and the next start asks for every right.
    """
    from aiokafka import errors

    away = (
        errors.KafkaConnectionError,
        errors.KafkaTimeoutError,
        errors.NodeNotReadyError,
        errors.RequestTimedOutError,
    )
    refused = (
        errors.ClusterAuthorizationFailedError,
        errors.GroupAuthorizationFailedError,
        errors.TopicAuthorizationFailedError,
    )
    no_rights = "this user may not do that any more: `headrace acls` prints what each role needs"
    too_large = "a topic takes no record as large as ours: `headrace topics` says which"
    no_time = "they refuse our time: clocks of workers and brokers must agree within a second"
    gone = "a topic that the role needs is gone: `headrace topics` says what to do"
    return [
        (away, "no broker answers any more", EXIT_UNAVAILABLE),
        (refused, no_rights, EXIT_FAILED),
        ((errors.MessageSizeTooLargeError,), too_large, EXIT_WRONG),
        ((errors.InvalidTimestampError,), no_time, EXIT_FAILED),
        ((errors.UnknownTopicOrPartitionError,), gone, EXIT_FAILED),
    ]


class PauseGuard:
    """Ends a process that stood still for longer than ``limit_s``, from its first tick on.

    After such a pause another worker may own the partitions, and the prefetched records would be
    applied to states that are no longer the newest. The gap is that of a ticker: a stalled broker
    delays results as well, but is no pause.
    """

    def __init__(
        self,
        limit_s: float,
        *,
        clock: Callable[[], float] = now_s,
        end: Callable[[int], object] = end_process,
    ) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._end = end
        self._ticked_at = math.inf

    def check(self) -> None:
        """End the process if the last tick is too long ago."""
        gap_s = self._clock() - self._ticked_at
        if gap_s > self._limit_s:
            logger.error("ended: the process stood still for %.1f s and may be stale", gap_s)
            self._end(EXIT_PAUSED)

    def tick(self) -> None:
        """Check, then note that the process runs."""
        self.check()
        self._ticked_at = self._clock()


class Watchdog:
    """Ends a process that does not get back to serving within ``limit_s``.

    Recovery was seen to hang when a second worker joined: nothing is lost, nothing moves.
    """

    def __init__(
        self,
        limit_s: float,
        *,
        clock: Callable[[], float] = now_s,
        end: Callable[[int], object] = end_process,
    ) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._end = end
        self._served_at = clock()

    def tick(self, *, is_serving: bool) -> None:
        """Note whether the role serves; end the process if it has not for too long."""
        if is_serving:
            self._served_at = self._clock()
        elif (waited_s := self._clock() - self._served_at) > self._limit_s:
            logger.error(
                "ended: rebalance or recovery has lasted for %.0f s (rebalance_limit_s)", waited_s
            )
            self._end(EXIT_STUCK)
