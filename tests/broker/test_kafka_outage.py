"""The only broker goes away for a while: no role says that it serves, and both go on with it."""

import os
import signal
from pathlib import Path

from apache_kafka import STOP_LIMIT_S, apache_kafka, start_node
from harness import Watcher
from roles_harness import WAIT_LIMIT_S, publish, roles, shoppers, small_deployment

from headrace.streams.guards import EXIT_UNAVAILABLE
from headrace.streams.settings import Settings


def test_idle_roles_are_not_ready_without_a_broker_and_go_on_when_it_is_back(
    tmp_path: Path, settings: Settings
) -> None:
    folder = tmp_path / "node"
    folder.mkdir()
    with apache_kafka(folder) as (bootstrap, node):
        # A node that was killed is let in after 9 s, and sessions of 6 s are over by then: a worker
        # that was dropped ends itself at the next event that it answers.
        here = {"bootstrap": bootstrap, "session_timeout_s": 30}
        settings = small_deployment(settings.model_copy(update=here))
        with roles(settings, "learn", "adapt") as (learn, adapt):
            publish(settings, shoppers(60))
            adapt.until(lambda m: m.get("events_total") == 60, "everything applied")
            os.kill(node.pid, signal.SIGKILL)
            adapt.until(lambda m: m.get("ready") == 0, "not ready")
            assert (adapt.health("live"), adapt.health("ready")) == (200, 503)
            assert learn.child.wait(WAIT_LIMIT_S) == EXIT_UNAVAILABLE
            assert "ended: no broker answers any more" in learn.child.log_tail()
            assert "Traceback" not in learn.child.log_tail()

            again = start_node(folder / "server.properties")
            try:
                adapt.until(lambda m: m.get("ready") == 1, "ready again")
                learn.start_again()
                with Watcher(settings) as watcher:
                    publish(settings, shoppers(60, seed=1))
                    watcher.until_answered(120)
            finally:
                again.stop(limit_s=STOP_LIMIT_S)
