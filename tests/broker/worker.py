"""One real adapt worker with a small engine: ``python worker.py FIELD=VALUE ...``.

The engine applies events and lists a user's last items, newest first, so that a test can say what
every state and every list must be. ``slow_calls`` first calls take ``slow_s`` each: a model that
warms up.
"""

import logging
import sys
import time
from collections.abc import Sequence

from headrace.streams.records import Recommendation, rec_id_of
from headrace.streams.settings import load

try:
    from headrace.streams.adapt import role as adapt
    from headrace.streams.adapt.engine import UserResult, UserWork
except ImportError:  # 0.1.0 has no folders there
    from headrace.streams import adapt
    from headrace.streams.engine import UserResult, UserWork

LIST_LENGTH = 5


class LastItems:
    """An engine whose every answer is a fold of the user's events."""

    def __init__(self, *, history_length: int, slow_s: float, slow_calls: int) -> None:
        self._history_length = history_length
        self._slow_s = slow_s
        self._slow_calls = slow_calls

    def process(self, work: Sequence[UserWork]) -> list[UserResult]:
        """Apply the events and list the last items."""
        if self._slow_calls > 0:
            self._slow_calls -= 1
            time.sleep(self._slow_s)  # stands for a model: what matters is that the thread is busy
        return [self._process(user) for user in work]

    def forget(self, work: Sequence[UserWork]) -> None:
        """Hold nothing of anybody."""

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
    logging.info("runs %s", adapt.__file__)
    fields = dict(argument.split("=", 1) for argument in sys.argv[1:])
    slow_s, slow_calls = float(fields.pop("slow_s", "0")), int(fields.pop("slow_calls", "0"))
    settings = load(fields)
    engine = LastItems(history_length=settings.history_length, slow_s=slow_s, slow_calls=slow_calls)
    adapt.run(settings, engine)


if __name__ == "__main__":
    main()
