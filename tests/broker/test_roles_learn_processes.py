"""The learn role with a second process: versions come, and it ends when that process does."""

import os
import select
import signal
from pathlib import Path

import pytest
from roles_harness import WAIT_LIMIT_S, publish, roles, shoppers, small_deployment

from headrace.streams.guards import EXIT_FAILED
from headrace.streams.learn import processes
from headrace.streams.settings import Settings


def further_processes(role: int) -> list[int]:
    """Return the processes that compute gradients for a role's."""
    children = map(int, Path(f"/proc/{role}/task/{role}/children").read_text().split())
    name = processes.__name__
    return [pid for pid in children if name in Path(f"/proc/{pid}/cmdline").read_text()]


def test_role_learns_with_a_second_process_and_ends_without_it(settings: Settings) -> None:
    settings = small_deployment(settings, learn_processes=2, version_events=100)
    events = shoppers(300)
    with roles(settings, "learn") as (learn,):
        (further,) = further_processes(learn.child.pid)
        publish(settings, events)
        learn.until(lambda m: m.get("versions_published_total") >= 2, "a version with events")
        learn.until(lambda m: m.get("query_loss") > 0, "a step with candidates")
        os.kill(further, signal.SIGKILL)  # while no events come
        assert learn.child.wait(WAIT_LIMIT_S) == EXIT_FAILED
        assert "a process that computes a part of the gradients" in learn.child.log_tail()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_role_takes_the_second_process_along(settings: Settings, how: signal.Signals) -> None:
    settings = small_deployment(settings, learn_processes=2)
    with roles(settings, "learn") as (learn,):
        (further,) = further_processes(learn.child.pid)
        handle = os.pidfd_open(further)
        os.kill(further, signal.SIGTERM)  # as to every process of a unit; the role has not ended
        os.kill(learn.child.pid, how)
        has_ended, _, _ = select.select([handle], [], [], WAIT_LIMIT_S)
        os.close(handle)
        assert has_ended
        assert learn.child.wait(WAIT_LIMIT_S) == (0 if how == signal.SIGTERM else -how)
