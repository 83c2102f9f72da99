"""An event loop without a clock and without I/O: the simulation says when time goes on.

Each simulated worker has a loop of its own, so that one can stand still, or be killed between any
two of its callbacks, while the others go on.
"""

import asyncio
import heapq
import sys
from asyncio import events
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any

CANCELLED_AT_MOST = 20  # times; a task may catch it, and Faust's do


class SimulatedLoop(asyncio.BaseEventLoop):
    """Runs what is ready, in order, when told to; ``clock`` is the simulation's."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        compute: Callable[[Callable[..., Any]], "asyncio.Future[Any]"],
        failed: Callable[[dict[str, Any]], None],
    ) -> None:
        """Hand work for a thread to ``compute``, and what asyncio would only log to ``failed``."""
        super().__init__()
        self._clock = clock
        self._compute = compute
        self._is_killed = False
        self._tasks: list[asyncio.Task[Any]] = []
        self.set_exception_handler(lambda _, context: failed(context))

    def time(self) -> float:
        """Return the simulation's time, in seconds."""
        return self._clock()

    def create_task(self, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
        """Remember the task, so that it can be ended with its process."""
        task = super().create_task(coro, **kwargs)
        task._log_destroy_pending = False  # a killed process leaves tasks pending
        self._tasks.append(task)
        if len(self._tasks) > 200:
            self._tasks = [task for task in self._tasks if not task.done()]
        return task

    def run_in_executor(self, _: Any, function: Callable[..., Any], *args: Any) -> Any:
        """Compute when the simulation says so, and not in a thread."""
        return self._compute(lambda: function(*args))

    def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> Any:
        """Run soon: there are no other threads."""
        return self.call_soon(*args, **kwargs)

    def next_timer(self) -> float | None:
        """Return when the next timer is due, if there is one."""
        while self._scheduled and self._scheduled[0]._cancelled:
            heapq.heappop(self._scheduled)._scheduled = False
        return self._scheduled[0]._when if self._scheduled else None

    def run_ready(self, at_most: int | None = None) -> None:
        """Run callbacks until none is ready, or so many have run.

        Raises:
            SystemExit: a callback ended the process.
        """
        if not self._ready and ((due := self.next_timer()) is None or due > self._clock()):
            return  # most often: all workers are run after whatever happens
        outer, hooks = events._get_running_loop(), sys.get_asyncgen_hooks()
        events._set_running_loop(self)
        sys.set_asyncgen_hooks(finalizer=self._finalize)
        try:
            while True:
                while (when := self.next_timer()) is not None and when <= self._clock():
                    timer = heapq.heappop(self._scheduled)
                    timer._scheduled = False
                    self._ready.append(timer)
                if not self._ready or at_most == 0:
                    return
                at_most = None if at_most is None else at_most - 1
                handle = self._ready.popleft()
                if not handle._cancelled:
                    handle._run()
        finally:
            sys.set_asyncgen_hooks(*hooks)
            events._set_running_loop(outer)

    def _finalize(self, generator: AsyncGenerator[Any, None]) -> None:
        """Close a generator that nobody holds any more, unless its process is gone."""
        if not self._is_killed:
            self.create_task(generator.aclose())

    def kill(self) -> None:
        """End every task. What they do on the way out reaches nobody: their worker is gone."""
        for _ in range(CANCELLED_AT_MOST):
            pending = [task for task in self._tasks if not task.done()]
            if not pending:
                break
            for task in pending:
                task.cancel()
            with suppress(SystemExit):
                self.run_ready()
        self._is_killed = True
        self._scheduled.clear()
        self._ready.clear()
        self._tasks.clear()

    def __del__(self) -> None:
        """Ask for no close: nothing is open, and what is left of a process may still call it."""
