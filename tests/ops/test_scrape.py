"""A real Prometheus scrapes both roles, evaluates our alerts and answers our dashboard."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from deployment import alerts, panels
from prometheus_process import LIMIT_S, Prometheus, running, until
from prometheus_tools import PrometheusTools

from headrace.streams.adapt.serving import CONTENDERS

RATE_INTERVAL = "20s"  # Grafana's: four scrape intervals
QUERIES = sorted({target["expr"] for panel in panels() for target in panel["targets"]})


@contextmanager
def stand_in_role(*, is_ready: bool) -> Iterator[int]:
    """Run one and yield its port."""
    script = Path(__file__).with_name("stand_in_role.py")
    command = [sys.executable, str(script), f"{is_ready:d}", *CONTENDERS]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()
            assert process.wait(timeout=LIMIT_S) == 0


@pytest.fixture(scope="module")
def prometheus(
    prometheus_tools: PrometheusTools, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Adapt is ready, learn is not."""
    with ExitStack() as stack:
        ports = {
            "adapt": stack.enter_context(stand_in_role(is_ready=True)),
            "learn": stack.enter_context(stand_in_role(is_ready=False)),
        }
        folder = tmp_path_factory.mktemp("prometheus")
        yield stack.enter_context(running(prometheus_tools, ports, folder))


def rules_of(prometheus: Prometheus) -> dict[str, dict[str, Any]]:
    groups = prometheus.get("rules")["groups"]
    return {rule["name"]: rule for group in groups for rule in group["rules"]}


def test_both_roles_are_scraped(prometheus: Prometheus) -> None:
    def health() -> dict[str, str]:
        targets = prometheus.get("targets")["activeTargets"]
        return {target["labels"]["job"]: target["health"] for target in targets}

    up = {"adapt": "up", "learn": "up"}
    assert until(health, lambda seen: seen == up) == up


def test_every_alert_is_evaluated_without_error(prometheus: Prometheus) -> None:
    def health() -> dict[str, str]:
        return {name: rule["health"] for name, rule in rules_of(prometheus).items()}

    well = {alert["alert"]: "ok" for alert in alerts()}
    assert until(health, lambda seen: seen == well) == well


def test_the_role_that_is_not_ready_is_noticed_and_only_that_one(prometheus: Prometheus) -> None:
    def noticed() -> list[str]:
        rule = rules_of(prometheus)["HeadraceNotReady"]
        return [alert["labels"]["job"] for alert in rule["alerts"]]

    assert until(noticed, bool) == ["learn"]


@pytest.mark.parametrize("query", QUERIES)
def test_every_panel_has_something_to_show(prometheus: Prometheus, query: str) -> None:
    filled = query.replace("$__rate_interval", RATE_INTERVAL)
    assert until(lambda: prometheus.query(filled), bool)
