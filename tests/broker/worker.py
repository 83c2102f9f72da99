"""One real adapt worker with a small engine: ``python worker.py FIELD=VALUE ...``.

The engine applies events and lists a user's last items, newest first, so that a test can say what
every state and every list must be. ``compute_s`` slows each micro-batch down.
"""

import logging
import sys
import time
from collections.abc import Sequence

from headrace.streams import adapt
from headrace.streams.engine import UserResult, UserWork
from headrace.streams.settings import load
from headrace.streams.wire import Recommendation, rec_id_of

LIST_LENGTH = 5


class LastItems:
    """An engine whose every answer is a fold of the user's events."""

    def __init__(self, *, history_length: int, compute_s: float) -> None:
        self._history_length = history_length
        self._compute_s = compute_s

    def process(self, work: Sequence[UserWork]) -> list[UserResult]:
        """Apply the events and list the last items."""
        time.sleep(self._compute_s)  # stands for a model: the compute thread is busy, not waiting
        return [self._process(user) for user in work]

    def _process(self, user: UserWork) -> UserResult:
        for offset, event in user.events:
            user.state.apply(event, offset=offset, history_length=self._history_length)
        items = tuple(reversed(user.state.items[-LIST_LENGTH:]))
        recommendation = Recommendation(
            user=user.user,
            rec_id=rec_id_of(user.user, user.source),
            items=items,
            scores=(0.0,) * len(items),
            reasons=(),
            model_version=1,
            source=user.source,
            generated_ms=int(time.time() * 1000),
        )
        return UserResult(user.state, recommendation)


def main() -> None:
    """Run the role with the settings given as arguments."""
    logging.basicConfig(
        level="INFO", format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr
    )
    fields = dict(argument.split("=", 1) for argument in sys.argv[1:])
    compute_s = float(fields.pop("compute_s", "0"))
    settings = load(fields)
    adapt.run(settings, LastItems(history_length=settings.history_length, compute_s=compute_s))


if __name__ == "__main__":
    main()
