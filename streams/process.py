"""The life of a role's process: start, tick, stop in order, or end at once when something fails."""

import asyncio
import gc
import logging
import math
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.streams import metrics
from headrace.streams.guards import PauseGuard, Watchdog, end_process, now_s, tell_failure
from headrace.streams.kafka.faust_app import IntakeApp
from headrace.streams.kafka.intake import IntakeConsumer

logger = logging.getLogger(__name__)

TICK_S = 0.2  # a tenth of the smallest sensible pause limit
GAUGES_EVERY_TICKS = 5
SILENT_LIMIT_S = 60.0  # longer than a start takes on a busy machine
DRAIN_LIMIT_S = 5.0  # for micro-batches in flight at a stop; what is left is replayed
COLLECT_AFTER = (100_000, 20, 100)  # allocations, and collections of each younger generation
STOP_LIMIT_S = 10.0  # for Faust; everything that matters is committed by then


@dataclass(slots=True)
class Readiness:
    """Whether the role works, and can serve: a model, every state and a broker are there."""

    ticked_at_s: float = -math.inf  # a start may take long: a probe of its own waits for that
    is_model_ready: Callable[[], bool] = lambda: True
    is_recovered: Callable[[], bool] = lambda: False  # set by the role when it starts
    is_connected: Callable[[], bool] = lambda: True  # likewise

    def __call__(self) -> bool:
        """Return the answer of ``/health/ready``."""
        return self.is_recovered() and self.is_model_ready() and self.is_connected()

    def is_live(self) -> bool:
        """Return the answer of ``/health/live``: the event loop turns."""
        return now_s() - self.ticked_at_s < SILENT_LIMIT_S


@dataclass(slots=True, kw_only=True)
class Role:
    """What ``run_role`` needs to know of a role."""

    app: IntakeApp
    work: Sequence[Coroutine[Any, Any, None]]  # run until the process stops
    drain: Callable[[], Awaitable[None]]  # awaited before the last commit
    update_gauges: Callable[[], None]
    guard: PauseGuard
    watchdog: Watchdog
    readiness: Readiness
    drain_limit_s: float = DRAIN_LIMIT_S


async def run_role(role: Role) -> None:
    """Run until SIGTERM or SIGINT; end the process with its own code if anything fails."""
    collect_rarely()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    role.readiness.is_recovered = role.app.serving.is_set
    role.readiness.is_connected = lambda: role.app.intake.is_connected()
    start = asyncio.create_task(role.app.start())
    stopping = asyncio.create_task(stop.wait())
    running = {asyncio.create_task(work) for work in (*role.work, _tick_forever(role))}
    pending = {start, stopping, *running}
    while not stopping.done():
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        _end_if_failed(done)
    await _stop(role, pending)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    gc.unfreeze()  # or triton, which torch brings along, tells of leaks as the interpreter ends


def _end_if_failed(done: Iterable[asyncio.Task[Any]]) -> None:
    for task in done:
        if (exc := task.exception()) is not None:
            end_process(tell_failure(exc, "the role failed"))


def collect_rarely() -> None:
    """Look for cyclic garbage less often, and not in what is there for good.

    A micro-batch decodes tens of thousands of objects, none of which is in a cycle: by default the
    collector walks through them again and again, for a quarter of an event's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def observe_intake(consumer: IntakeConsumer, *, n_users: int) -> None:
    """Set the gauges of what this worker holds and how far behind it is."""
    metrics.USERS.set(n_users)
    lag = {str(partition): n_events for partition, n_events in consumer.lag().items()}
    # A scrape may come between any two lines; without a series it starts alerts' waits anew.
    shown = {sample.labels["partition"] for one in metrics.LAG.collect() for sample in one.samples}
    for partition in shown - lag.keys():  # they went to other workers, who report them
        metrics.LAG.remove(partition)
    for partition, n_events in lag.items():
        metrics.LAG.labels(partition).set(n_events)


async def _tick_forever(role: Role) -> None:
    """Feed the guards and the gauges.

    Raises:
        RuntimeError: Faust has crashed.
    """
    ticks, has_served = 0, False
    while True:
        is_serving = role.app.serving.is_set()
        has_served |= is_serving
        if has_served:  # a slow start is no pause: nothing is there yet that could be stale
            role.guard.tick()
        role.readiness.ticked_at_s = now_s()
        role.watchdog.tick(is_serving=is_serving)
        metrics.READY.set(role.readiness())
        if role.app.crashed:
            raise RuntimeError("the stream app crashed") from role.app.crash_reason
        if is_serving and ticks % GAUGES_EVERY_TICKS == 0:
            role.update_gauges()
        ticks += 1
        await asyncio.sleep(TICK_S)


async def _stop(role: Role, working: Iterable[asyncio.Task[Any]] = ()) -> None:
    """Stop in order: 1. finish what is in flight. 2. Commit. 3. Leave the group.

    With something still in flight, the process ends without leaving: others would start at once,
    before what it has sent has arrived.
    """
    metrics.READY.set(0)
    try:
        async with asyncio.timeout(role.drain_limit_s):
            await role.drain()  # 1
            _end_if_failed(task for task in working if task.done())
            await role.app.intake.commit()  # 2
    except TimeoutError:
        _end_if_failed(task for task in working if task.done())  # waited for in vain
        logger.warning("stopped with work in flight; it will be replayed when the session is over")
        end_process(0)
    except Exception as exc:
        end_process(tell_failure(exc, "the role failed as it stopped"))
    try:
        async with asyncio.timeout(STOP_LIMIT_S):
            await role.app.stop()  # 3
    except TimeoutError:
        logger.warning("stopped without waiting for the stream app any longer")
    logger.info("stopped")
