"""Prometheus' files: its own tools accept them, and they name only what exists."""

import subprocess
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from deployment import COMPOSE, DEPLOY, ROLES, alerts, metrics_in, sample_names
from prometheus_tools import PrometheusTools

from headrace.streams.adapt.serving import CONTENDERS
from headrace.streams.settings import Settings

FOLDER = DEPLOY / "prometheus"
CONFIG: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus.yml").read_text())


def promtool(tools: PrometheusTools, *arguments: str) -> str:
    """Return promtool's complaint, or nothing if it has none."""
    asked = subprocess.run(
        [tools.promtool, *arguments],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return asked.stdout + asked.stderr if asked.returncode else ""


def test_prometheus_accepts_its_configuration(prometheus_tools: PrometheusTools) -> None:
    # The token is in no file of this machine, which is what else it would look for.
    assert promtool(prometheus_tools, "check", "config", "--syntax-only", "prometheus.yml") == ""


def test_prometheus_accepts_the_rules(prometheus_tools: PrometheusTools) -> None:
    assert promtool(prometheus_tools, "check", "rules", "rules.yml") == ""


def test_alerts_fire_when_they_should_and_only_then(prometheus_tools: PrometheusTools) -> None:
    assert promtool(prometheus_tools, "test", "rules", "rules_test.yml") == ""


def test_promtool_would_notice_a_wrong_rule(
    prometheus_tools: PrometheusTools, tmp_path: Path
) -> None:
    rules = (FOLDER / "rules.yml").read_text().replace("for: 1h", "for: 30m")
    (tmp_path / "rules.yml").write_text(rules)
    (tmp_path / "rules_test.yml").write_text((FOLDER / "rules_test.yml").read_text())
    complaint = promtool(prometheus_tools, "test", "rules", str(tmp_path / "rules_test.yml"))
    assert "HeadraceAdaptedBelowFrozen" in complaint


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_every_alert_says_what_happened_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("warning", "critical")
    assert alert["annotations"]["summary"].endswith(".")
    assert len(alert["annotations"]["action"].split()) >= 10


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_every_alert_has_a_test(alert: dict[str, Any]) -> None:
    tests = yaml.safe_load((FOLDER / "rules_test.yml").read_text())["tests"]
    expected_to_fire = [
        check["expr"]
        for test in tests
        for check in test.get("promql_expr_test", [])
        if check["exp_samples"]
    ]
    assert any(f'"{alert["alert"]}"' in expr for expr in expected_to_fire)


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_every_metric_of_an_alert_exists(alert: dict[str, Any]) -> None:
    assert metrics_in(alert["expr"]) <= set(chain.from_iterable(sample_names().values()))


def test_the_contenders_compared_are_those_that_are_judged() -> None:
    compared = "".join(alert["expr"] for alert in alerts())
    assert all(f'contender="{contender}"' in compared for contender in CONTENDERS)


def test_each_role_is_scraped_where_compose_runs_it() -> None:
    scraped = {
        job["job_name"]: (source["names"], source["port"])
        for job in CONFIG["scrape_configs"]
        for source in job["dns_sd_configs"]
    }
    default = Settings.model_fields
    assert scraped == {
        "adapt": (["adapt"], default["adapt_port"].default),
        "learn": (["learn"], default["learn_port"].default),
    }
    assert set(ROLES) <= set(COMPOSE["services"])
