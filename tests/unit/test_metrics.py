"""Rules of the metrics: names, units, help texts, few labels, buckets around the targets."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client import Counter, Gauge, Histogram

from headrace.streams import metrics
from headrace.streams.errors import Malformation
from headrace.streams.metrics import ContentRefusal

AnyMetric = Counter | Gauge | Histogram

DECLARED: dict[str, AnyMetric] = {
    name: value for name, value in vars(metrics).items() if isinstance(value, AnyMetric)
}
BASE_UNITS = ("_seconds", "_bytes", "_ratio")
FORBIDDEN_UNITS = ("_ms", "_milliseconds", "_kb", "_mb", "_percent", "_minutes")
LABELS = {  # every label and why its values are few
    "DEAD_LETTERS": ("reason",),  # a fixed set, see Malformation
    "CONTENT_REFUSED": ("reason",),  # width or kind
    "LAG": ("partition",),  # those held now
    "STAGE_SECONDS": ("stage",),
    "CPU_SECONDS": ("part",),  # three of them
    "HIT_RATIO": ("contender",),
    "NDCG": ("contender",),
}


def family_name(metric: AnyMetric) -> str:
    return next(iter(metric.describe())).name


@pytest.mark.parametrize("name", DECLARED)
def test_names_begin_with_the_project_and_carry_no_odd_unit(name: str) -> None:
    family = family_name(DECLARED[name])
    assert family.startswith("headrace_")
    assert not family.endswith(FORBIDDEN_UNITS)


@pytest.mark.parametrize("name", DECLARED)
def test_help_is_a_sentence(name: str) -> None:
    text = next(iter(DECLARED[name].describe())).documentation
    assert text[0].isupper() or text[0].isdigit()
    assert text.endswith(".")


def test_only_counters_are_totals() -> None:
    # prometheus_client keeps _total off the family's name and adds it to a counter's samples.
    totals = [name for name, metric in DECLARED.items() if family_name(metric).endswith("_total")]
    assert totals == []


@pytest.mark.parametrize("name", [n for n, m in DECLARED.items() if isinstance(m, Histogram)])
def test_histograms_of_time_are_in_seconds(name: str) -> None:
    is_time = "SECONDS" in name
    assert family_name(DECLARED[name]).endswith("_seconds") == is_time


@pytest.mark.parametrize("name", [n for n, m in DECLARED.items() if n not in LABELS])
def test_a_metric_without_labels_exists_from_the_start(name: str) -> None:
    # An absent series cannot be told from a role that is down; with labels it cannot be avoided.
    samples = next(iter(DECLARED[name].collect())).samples
    assert {key for s in samples for key in s.labels} <= {"le"}
    assert samples


def test_a_counter_by_reason_has_every_reason_from_the_start() -> None:
    # What begins with its first burst has not grown by it, as Prometheus sees it. In a process of
    # its own: other tests count here.
    program = (
        "import prometheus_client; import headrace.streams.metrics\n"
        "print(prometheus_client.generate_latest().decode())"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    for name, reasons in (("dead_letters", Malformation), ("content_refused", ContentRefusal)):
        for reason in get_args(reasons):
            assert f'headrace_{name}_total{{reason="{reason}"}} 0.0\n' in told


@pytest.mark.parametrize(("others", "role"), [("OF_LEARN", "adapt"), ("OF_ADAPT", "learn")])
def test_a_role_serves_what_it_has_alone(others: str, role: str) -> None:
    # In a process of its own: what is left out here would be missing in other tests.
    program = (
        "import prometheus_client; from headrace.streams import metrics\n"
        f"metrics.leave_out(metrics.{others})\n"
        "print(*(f.name for f in prometheus_client.REGISTRY.collect()))"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    sections = re.split(r"# -+ (both roles|adapt|learn)\n", Path(metrics.__file__).read_text())
    of_section = dict(zip(sections[1::2], sections[2::2], strict=True))
    names = re.findall(r"^([A-Z_]+) = _", of_section["both roles"] + of_section[role], re.M)
    served = {name for name in told if name.startswith("headrace_")}
    assert served == {family_name(DECLARED[name]) for name in names}


@pytest.mark.parametrize(("name", "labels"), LABELS.items())
def test_labels_are_the_few_we_chose(name: str, labels: tuple[str, ...]) -> None:
    values = ["test_metrics"] * len(labels)
    DECLARED[name].labels(*values)
    samples = next(iter(DECLARED[name].collect())).samples
    DECLARED[name].remove(*values)
    assert {key for s in samples for key in s.labels} - {"le"} == set(labels)


@pytest.mark.parametrize("target_s", [0.05, 0.1, 1.0])
def test_a_bucket_ends_at_each_target(target_s: float) -> None:
    # A percentile is exact only at a bucket's edge: 50 ms adapting, 100 ms to the list, 1 s alert.
    samples = next(iter(metrics.EVENT_TO_LIST_SECONDS.collect())).samples
    assert target_s in {float(s.labels["le"]) for s in samples if "le" in s.labels}


@pytest.mark.parametrize("values", [[], [0.0, 0.5, 1.0, 1.0, 1.5, 99.0]])
def test_many_values_observed_at_once_are_counted_as_one_by_one(values: list[float]) -> None:
    def samples(observe: Callable[[Histogram], None]) -> list[tuple[str, dict[str, str], float]]:
        histogram = Histogram("h", "Any.", buckets=(0.5, 1.0, 2.0), registry=None)
        observe(histogram)
        (family,) = histogram.collect()
        return [sample[:3] for sample in family.samples if sample.name != "h_created"]

    def one_by_one(histogram: Histogram) -> None:
        for value in values:
            histogram.observe(value)

    assert samples(lambda h: metrics.observe_all(h, values)) == samples(one_by_one)


def test_a_wait_of_minutes_is_told_from_one_of_hours() -> None:
    def counted() -> dict[str, float]:
        samples = next(iter(metrics.EVENT_TO_LIST_SECONDS.collect())).samples
        return {s.labels["le"]: s.value for s in samples if s.name.endswith("_bucket")}

    before = counted()
    metrics.observe_all(metrics.EVENT_TO_LIST_SECONDS, [45.0, 200.0, 1_000.0, 7_000.0, 9_999.0])
    gained = {le: n - before[le] for le, n in counted().items()}
    assert list(gained.values())[-6:] == [0, 1, 2, 3, 4, 5]
