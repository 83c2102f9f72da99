"""What the deployment files say, parsed, and what the code says to them."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import Counter, Gauge, Histogram

from headrace.streams import metrics

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
RULES: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text())
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboards/headrace.json").read_text())
VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
OUR_IMAGE = f"headrace:{VERSION}"
ROLES = ("adapt", "learn")
TOKEN = "stands-in-for-what-an-operator-chooses"

_METRIC_NAME = re.compile(r"\bheadrace_[a-z0-9_]+|\b[a-z]\w*_\w+(?=[\[{])")
_OF_PROCESSES = {"process_cpu_seconds_total", "process_start_time_seconds"}  # the client's own
_SUFFIXES = {Counter: ("_total",), Gauge: ("",), Histogram: ("_bucket", "_sum", "_count")}


def text_files() -> Iterator[Path]:
    """Yield every deployment file."""
    yield ROOT / "docker-compose.yml"
    yield from (path for path in DEPLOY.rglob("*") if path.is_file())


def image_environment() -> dict[str, str]:
    """Return what the image sets: the ENV of the last stage of the Dockerfile."""
    last_stage = (DEPLOY / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    block = re.search(r"^ENV ((?:.*\\\n)*.*)$", last_stage, re.MULTILINE)
    assert block, "the last stage of the Dockerfile sets nothing"
    return dict(pair.split("=", 1) for pair in block[1].replace("\\\n", " ").split())


def role_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what of an environment the roles read."""
    return {name: str(v) for name, v in environment.items() if name.startswith("HEADRACE_")}


@cache
def sample_names() -> dict[str, set[str]]:
    """Return, by constant of streams/metrics.py, the names that Prometheus stores."""
    names = {}
    for constant, metric in vars(metrics).items():
        if isinstance(metric, Counter | Gauge | Histogram):
            family = next(iter(metric.describe())).name
            names[constant] = {family + suffix for suffix in _SUFFIXES[type(metric)]}
    return names


def metrics_in(expression: str) -> set[str]:
    """Return the names that a query reads and that must be ours."""
    return set(_METRIC_NAME.findall(expression)) - _OF_PROCESSES


def alerts() -> list[dict[str, Any]]:
    """Return every alert of rules.yml."""
    return [rule for group in RULES["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """Return every panel of the dashboard that shows something."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


@cache
def command_error(command: str) -> str:
    """Return what the installed command line objects to the command: nothing if it exists."""
    program = Path(sys.executable).with_name("headrace")
    asked = subprocess.run(
        [program, command, "--help"], capture_output=True, text=True, timeout=120, check=False
    )
    return asked.stderr if asked.returncode else ""
