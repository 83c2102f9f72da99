"""Plots of benches show the figures of the JSON, under the command that found them."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from headrace.streams.bench import plots

MACHINE = {"cpu": "some CPU", "date": "2026-11-23"}
SPREAD = {"median": 2.0, "low": 1.0, "high": 3.0}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Return the figures that are saved."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    return figures


def growth() -> dict[str, Any]:
    """Return what `headrace bench growth` tells, of two sizes each."""
    tables = {
        name: [{name: size, **dict.fromkeys(figures, SPREAD)} for size in ("1,000", "20,000")]
        for name, figures in plots.GROWTH.items()
    }
    asked = {"up_to": 20_000, "repeats": 3}
    return {"bench": "growth", "asked": asked, "machine": MACHINE, "tables": tables}


def test_growth_is_drawn_against_each_thing_that_grows(drawn: list[Figure]) -> None:
    plots.growth(growth(), "growth.svg")
    axes = drawn[0].axes
    assert [each.get_xlabel() for each in axes] == ["users", "items", "history"]
    assert {(each.get_xscale(), each.get_yscale()) for each in axes} == {("log", "log")}
    line = axes[0].get_lines()[0]
    assert list(line.get_xdata()) == [1_000, 20_000]
    assert list(line.get_ydata()) == [2.0, 2.0]


def test_all_of_many_figures_are_drawn_and_no_two_look_alike() -> None:
    names = [f"figure {n}" for n in range(11)]
    axes = Figure().subplots()
    plots._lines(axes, [1, 2], [dict.fromkeys(names, 3.0)] * 2, names)
    lines = axes.get_lines()
    assert [line.get_label() for line in lines] == names
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == len(names)


def test_a_plot_is_titled_with_its_command(drawn: list[Figure]) -> None:
    plots.growth(growth(), "growth.svg")
    title = drawn[0].get_suptitle()
    assert title.startswith("headrace bench growth --up-to 20000 --repeats 3\n")
    assert title.endswith("some CPU, 2026-11-23")


def test_a_plot_is_titled_with_its_broker_and_changed_settings() -> None:
    asked = {"threads": 2, "leave_out": {"purchase": -1}, "users": 5}
    told = {"bench": "latency", "asked": asked | {"bootstrap": "127.0.0.1:9092"}}
    assert plots.command_of(told) == (
        """headrace bench latency -s threads=2 -s 'leave_out={"purchase": -1}' --users 5"""
        " -s bootstrap=127.0.0.1:9092"
    )
    embedded = {"bench": "latency", "asked": {"users": 5, "bootstrap": None}}
    assert plots.command_of(embedded) == "headrace bench latency --users 5"


def test_latency_is_drawn_against_throughput(drawn: list[Figure]) -> None:
    rows = [
        {"load": f"{n:.0%}", "events/s": 100.0 * n, "p50 ms": n, "p95 ms": 2 * n, "p99 ms": 3 * n}
        for n in (1.0, 2.0)
    ]
    told = {"bench": "latency", "asked": {"users": 5}, "machine": MACHINE, "rows": rows}
    plots.latency(told, "latency.svg")
    (axes,) = drawn[0].axes
    shown = {line.get_label(): line for line in axes.get_lines()}
    assert list(shown["p99 ms"].get_xdata()) == [100.0, 200.0]
    assert list(shown["p99 ms"].get_ydata()) == [3.0, 6.0]


def test_a_plot_is_written(tmp_path: Path) -> None:
    plots.growth(growth(), tmp_path / "growth.svg")
    assert (tmp_path / "growth.svg").read_bytes().startswith(b"<?xml")
