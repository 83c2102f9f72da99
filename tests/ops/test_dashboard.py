"""The dashboard: every metric is on it, every panel can be read without asking anybody."""

import re
from itertools import chain
from typing import Any

import pytest
import yaml
from deployment import COMPOSE, DASHBOARD, DEPLOY, metrics_in, panels, sample_names

from headrace.streams.adapt.serving import CONTENDERS

QUERIES = [target["expr"] for panel in panels() for target in panel["targets"]]
SHOWN = set(chain.from_iterable(metrics_in(query) for query in QUERIES))
PROVISIONING = DEPLOY / "grafana/provisioning"


@pytest.mark.parametrize("query", QUERIES)
def test_every_metric_of_a_query_exists(query: str) -> None:
    assert metrics_in(query) <= set(chain.from_iterable(sample_names().values()))


@pytest.mark.parametrize("constant", sample_names())
def test_every_metric_is_shown(constant: str) -> None:
    assert sample_names()[constant] & SHOWN


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_every_panel_says_what_it_shows_and_in_which_unit(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert all(target["legendFormat"] for target in panel["targets"])


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_times_sizes_and_shares_are_in_their_units(panel: dict[str, Any]) -> None:
    names = set(chain.from_iterable(metrics_in(target["expr"]) for target in panel["targets"]))
    unit = panel["fieldConfig"]["defaults"]["unit"]
    if any(re.search(r"_seconds(_bucket)?$", name) for name in names):
        assert unit == "s"
    if any("_bytes" in name for name in names):
        assert unit in ("bytes", "Bps")
    if any(name.endswith("_ratio") for name in names):
        assert unit == "percentunit"


def test_a_job_is_named_only_where_the_other_role_has_the_number_too() -> None:
    # Jobs are named by whoever scrapes; and a refusal may be either role's.
    named = {p["title"] for p in panels() if any("job=" in t["expr"] for t in p["targets"])}
    assert named == {
        "Age of item signals",  # where it would be a worker at 0
        "CPU by part",
        "Candidate recall",  # where it would be a mean with 0
        "Feedback, lists kept",
        "Tasks",
        "Deltas of item signals",
        "Users forgotten in an hour",
    }


def test_rows_tell_the_story_in_order() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == [
        "Is it well?",
        "Freshness",
        "Quality, judged before each event is applied",
        "Learning",
        "Bad input and repairs",
    ]


def test_no_panel_covers_another() -> None:
    cells = [
        (x, y)
        for position in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(position["x"], position["x"] + position["w"])
        for y in range(position["y"], position["y"] + position["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23  # Grafana's grid is 24 wide


def test_panels_have_ids_of_their_own() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_the_contenders_it_explains_are_those_that_are_judged() -> None:
    (ndcg,) = (panel for panel in panels() if panel["title"] == "NDCG@10")
    assert all(contender in ndcg["description"] for contender in CONTENDERS)


def test_grafana_finds_the_dashboard() -> None:
    provider = yaml.safe_load((PROVISIONING / "dashboards/headrace.yml").read_text())["providers"][
        0
    ]
    folder = provider["options"]["path"]
    assert f"./deploy/grafana/dashboards:{folder}:ro" in COMPOSE["services"]["grafana"]["volumes"]
    home = COMPOSE["services"]["grafana"]["environment"][
        "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"
    ]
    assert home == f"{folder}/headrace.json"


def test_grafana_finds_prometheus() -> None:
    file = PROVISIONING / "datasources/prometheus.yml"
    (source,) = yaml.safe_load(file.read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert source["isDefault"] is True
    assert COMPOSE["services"]["prometheus"]["ports"] == ["127.0.0.1:9090:9090"]
