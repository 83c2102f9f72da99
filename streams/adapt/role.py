"""The adapt role: events in, each user's state and refreshed list out."""

import asyncio
import time
from collections.abc import Callable

from headrace.streams.adapt.delivery import Delivery
from headrace.streams.adapt.engine import Engine
from headrace.streams.adapt.user_states import UserStates
from headrace.streams.adapt.writer import Writer
from headrace.streams.guards import PauseGuard, Watchdog, end_process, now_s
from headrace.streams.kafka.faust_app import make_app
from headrace.streams.kafka.intake import IntakeOptions
from headrace.streams.kafka.lease import Lease
from headrace.streams.process import Readiness, Role, observe_intake, run_role
from headrace.streams.settings import Settings

TABLE = "users"


def run(settings: Settings, engine: Engine, *, readiness: Readiness | None = None) -> None:
    """Run the role until SIGTERM or SIGINT. The topics must exist.

    A failure ends the process with a code of guards.py and without a commit; start it again.
    """
    asyncio.run(_run(settings, engine, readiness or Readiness()))


async def _run(settings: Settings, engine: Engine, readiness: Readiness) -> None:
    await run_role(make_role(settings, engine, readiness))


def make_role(
    settings: Settings,
    engine: Engine,
    readiness: Readiness,
    *,
    clock: Callable[[], float] = now_s,
    wall_clock: Callable[[], float] = time.time,
    end: Callable[[int], object] = end_process,
) -> Role:
    """Wire the role's parts, inside a running event loop; ``clock`` and ``end`` are its guards'."""
    options = IntakeOptions(
        topics=frozenset({settings.topic("events")}), batch_records=settings.micro_batch_events
    )
    app = make_app(settings, "adapt", options)
    table = app.state_table(TABLE)
    states = UserStates(table.data.data, max_users=settings.max_users, clock=clock)
    writer = Writer(
        app.batch_producer,
        lists=settings.topic("recommendations"),
        changelog=table.changelog_topic_name,
        dead_letters=settings.topic("dead-letters"),
    )
    guard = PauseGuard(settings.pause_limit_s, clock=clock, end=end)
    lease = Lease(
        settings.session_timeout_s,
        is_static=bool(settings.group_instance_id),
        ask=lambda oldest: app.intake.is_member(oldest),
        clock=clock,
        wall_clock=wall_clock,
        end=end,
    )
    delivery = Delivery(
        settings, app, engine, states=states, writer=writer, guard=guard, lease=lease
    )
    options.has_read = lambda partition: any(
        key[0] == partition
        for key in dict.keys(table.data.data)  # an ordered one's are slow
    )
    options.settle = delivery.settle
    app.take_batches(settings.topic("events"), delivery.take)
    return Role(
        app=app,
        work=[delivery.submit_forever(), delivery.finish_forever()],
        drain=delivery.drain,
        update_gauges=lambda: observe_intake(app.intake, n_users=len(states)),
        guard=guard,
        watchdog=Watchdog(settings.rebalance_limit_s, clock=clock, end=end),
        readiness=readiness,
    )
