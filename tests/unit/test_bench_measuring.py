"""Figures, the machine they are of, and how both are told."""

import json

import pytest

from headrace.streams.bench.measuring import Figure, as_json, fitting, machine, show


def test_figure_is_the_median_and_the_spread() -> None:
    assert Figure.of([3.0, 1.0, 20.0]) == Figure(median=3.0, low=1.0, high=20.0)


@pytest.mark.parametrize(
    ("samples", "told"),
    [([1234.5], "1,234"), ([0.12345], "0.123"), ([900.0, 1000.0, 1100.0], "1,000 ±10%")],
)
def test_figure_is_told_as_a_person_reads_it(samples: list[float], told: str) -> None:
    assert Figure.of(samples).told() == told


def test_rows_become_json_with_their_spread() -> None:
    rows = as_json([{"job": "a", "events/s": Figure(2.0, 1.0, 3.00004), "kB": 5.0}])
    assert json.loads(json.dumps(rows)) == [
        {"job": "a", "events/s": {"median": 2.0, "low": 1.0, "high": 3.0}, "kB": 5.0}
    ]


def test_table_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    show("pipeline", [{"job": "real model", "events/s": Figure(2.0, 2.0, 2.0)}])
    out, err = capsys.readouterr()
    assert not out
    assert "real model" in err


def test_machine_names_what_a_figure_depends_on() -> None:
    told = machine(device="cpu", threads=2)
    assert {"date", "cpu", "cores", "load", "python", "torch", "headrace"} <= set(told)
    assert (told["device"], told["threads"]) == ("cpu", 2)
    assert told["cores"] >= 1


def test_what_fits_is_measured_as_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert fitting(100, bytes_each=10, what="users", free=2_000) == 100
    assert not capsys.readouterr().err


def test_too_small_a_machine_takes_the_largest_size_that_fits_and_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert fitting(10_000, bytes_each=10**6, what="users", free=4 * 10**9) == 3_000
    told = " ".join(capsys.readouterr().err.split())
    assert told == "10,000 users take some 10.0 GB and 4.0 GB are free here: measured with 3,000"


def test_a_machine_that_tells_its_memory_is_asked() -> None:
    assert fitting(10**12, bytes_each=10**6, what="users") < 10**8
