"""Logging of a process: one line an event on standard error, and whose it is."""

import logging
import math
import time

from headrace.streams.settings import Settings

# Their info lines are about every join, fetch and future; what matters to us we log ourselves.
NOISY = (
    *("aiokafka", "faust", "kafka", "mode", "numba"),
    # Faust logs under our names here.
    "headrace.streams.kafka.faust_app",
    "headrace.streams.kafka.fetching",
    "headrace.streams.kafka.intake",
)
SELDOM_S = 10.0
MOST_MESSAGES, SHOWN_LETTERS = 1_000, 200  # by which they are told apart


class Seldom(logging.Filter):
    """Lets each message of the Kafka clients through once in ten seconds.

    While no broker answers they tell so hundreds of times a second, and hide what we say of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._told_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether it is ours, or has not been told lately."""
        if not record.name.startswith(("aiokafka", "kafka")):
            return True
        what = f"{record.name} {record.msg}"[:SHOWN_LETTERS]
        is_new = (now_s := time.monotonic()) - self._told_s.get(what, -math.inf) >= SELDOM_S
        if is_new:
            if len(self._told_s) >= MOST_MESSAGES:
                self._told_s.clear()
            self._told_s[what] = now_s
        return is_new


def start_logging(settings: Settings) -> None:
    """Log to standard error, one line an event."""
    level = settings.log_level.upper()
    handler = logging.StreamHandler()
    handler.addFilter(Seldom())
    form = "%(asctime)s %(process)d %(levelname)s %(name)s %(message)s"
    logging.basicConfig(level=level, format=form, handlers=[handler])
    for name in NOISY:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))
