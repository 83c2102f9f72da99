"""Whatever is killed, stopped, cut off or filled: every event is applied exactly once in effect."""

import json
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from cluster import Cluster
from ledger import Ledger
from network import Network
from run_schedule import ROLES, Play, copy_events, small_settings
from schedule import ADAPT, LEARN, Fault, draw
from supervisor import Deployment
from topics_read import read_all
from verdict import compare_runs, judge

from headrace.streams.kafka.topics import create_topics
from headrace.streams.settings import Settings

TEST_LIMIT_S = 900
LATE_S = 1.0  # a play looks at the clock once a tick, and later on a busy machine


class Stages:
    """How long each stage of a test took."""

    def __init__(self) -> None:
        self.took_s: dict[str, float] = {}
        self._began_s = time.monotonic()

    def end(self, stage: str) -> None:
        """Note a stage; the next one begins."""
        now_s = time.monotonic()
        self.took_s[stage] = round(now_s - self._began_s, 1)
        self._began_s = now_s


@pytest.mark.timeout(TEST_LIMIT_S)
def test_a_schedule_of_faults_leaves_no_difference(
    seed: int,
    cluster: Cluster,
    network: Network,
    store: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    seconds = request.config.getoption("--seconds")
    faults = draw(seed, seconds=seconds)
    print(f"schedule of seed {seed}:", *faults, sep="\n  ")
    settings = small_settings(cluster.proxied, f"seed-{seed}", store)
    direct = settings.model_copy(update={"bootstrap": cluster.bootstrap})
    create_topics(direct)
    ledger = Ledger(direct, cluster.bootstrap, seed=seed)
    stages = Stages()
    with Deployment(settings, tmp_path, ROLES) as deployment:
        network.name_of = deployment.name_of
        play = Play(cluster, network, deployment, ledger, direct=direct)
        play.start()
        stages.end("start")
        play.play(faults, seconds=seconds)
        stages.end("play")
        reference = small_settings(cluster.bootstrap, f"calm-{seed}", tmp_path / "calm-models")
        copy_events(direct, reference)
        with Deployment(reference, tmp_path / "calm", (ADAPT[0], LEARN)) as calm:
            play.drain((reference, calm))
        stages.end("drain")
        verdict = judge(direct, ledger)
        compare_runs(verdict, direct, reference)
        stages.end("verdict")
        seen = {
            "seed": seed,
            "seconds": seconds,
            "commit": _commit(),
            "faults": Counter(fault.kind for fault in faults),
            "met_by_a_version": _met_by_a_version(faults, direct, began_ms=play.began_ms),
            "events": ledger.n_sent,
            "bad": len(ledger.bad),
            "took_s": stages.took_s,
            "statuses": deployment.statuses(),
            "notes": verdict.notes,
            "differences": verdict.differences,
        }
        print(json.dumps(seen))
        if path := request.config.getoption("--seen"):
            with path.open("a") as lines:
                lines.write(json.dumps(seen) + "\n")
        assert not verdict.differences


def _commit() -> str:
    """Return the commit under test, with a mark if files differ from it."""
    describe = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip()


def _met_by_a_version(faults: list[Fault], settings: Settings, *, began_ms: int) -> Counter[str]:
    """Count the faults during which a version was announced."""
    announced_ms = [
        record.timestamp()[1] for record in read_all(settings, settings.topic("models"))
    ]
    return Counter(
        fault.kind
        for fault in faults
        if any(
            0 <= ms - began_ms - 1000 * fault.at_s <= 1000 * (fault.lasts_s + LATE_S)
            for ms in announced_ms
        )
    )
