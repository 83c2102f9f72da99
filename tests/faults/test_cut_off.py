"""One fault at its worst: what a worker sent while it was cut off arrives after its successor's."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import Cluster
from ledger import Ledger
from network import Network
from run_schedule import ROLES, Play, small_settings
from supervisor import Deployment
from topics_read import committed, ends_of
from verdict import judge

from headrace.streams.kafka.topics import create_topics

TEST_LIMIT_S = 900
WAIT_LIMIT_S = 180.0  # a session and a start, on a busy machine
POLL_S = 0.2
CUT_OFF = "adapt-0"
WAYS = ("ended: the group has gone on", "dropped a stale micro-batch")  # to take notice of it
BURST = 6_000  # events: a worker is still busy with them when it is cut off


@pytest.mark.timeout(TEST_LIMIT_S)
def test_what_was_sent_while_cut_off_is_refused_once_a_successor_has_written(
    cluster: Cluster, network: Network, store: Path, tmp_path: Path
) -> None:
    settings = small_settings(cluster.proxied, "cut-off", store)
    direct = settings.model_copy(update={"bootstrap": cluster.bootstrap})
    create_topics(direct)
    ledger = Ledger(direct, cluster.bootstrap, seed=0)
    with Deployment(settings, tmp_path, ROLES) as deployment:
        network.name_of = deployment.name_of
        play = Play(cluster, network, deployment, ledger, direct=direct)
        play.start()

        def until(is_met: Callable[[], bool], what: str) -> None:
            deadline = time.monotonic() + WAIT_LIMIT_S
            while not is_met():
                assert time.monotonic() < deadline, f"not in time: {what}"
                deployment.tend()
                time.sleep(POLL_S)  # neither offsets nor a log offer anything to wait for

        begun = committed(direct, "adapt")
        ledger.publish(BURST)
        ledger.flush()
        until(lambda: committed(direct, "adapt") != begun, "a first commit of the burst")
        network.cut(CUT_OFF)
        until(lambda: committed(direct, "adapt") == ends_of(direct), "the successor's commits")
        log = deployment.roles[CUT_OFF].log
        n_logged = len(log.read_text())
        network.heal(CUT_OFF)
        until(lambda: any(way in log.read_text()[n_logged:] for way in WAYS), "it took notice")
        ledger.flush()
        play.drain()
        assert judge(direct, ledger).differences == []
