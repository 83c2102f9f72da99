"""Plots show what the report says, or say at once why there will be none."""

from pathlib import Path

import polars as pl
import pytest
from matplotlib.figure import Figure
from stream_samples import drawn, small

from headrace.streams.errors import InputFileError
from headrace.streams.evaluation import plots
from headrace.streams.evaluation.evaluate import evaluate
from headrace.streams.tools.outputs import require_writable

EVENTS = pl.DataFrame(
    [(e.user, e.item, e.action, e.time_ms) for _, _, e in drawn(200)],
    schema=["user", "item", "action", "time_ms"],
    orient="row",
)
MAGIC = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


@pytest.fixture(scope="module")
def report() -> dict:
    """Return the report of a small stream."""
    return evaluate(EVENTS, small(), stream="drawn", n_events=200)


@pytest.mark.parametrize("ending", plots.FORMATS)
def test_a_report_is_drawn_in_every_format(tmp_path: Path, report: dict, ending: str) -> None:
    path = tmp_path / f"quality{ending}"
    plots.check(path)
    assert not path.exists()
    plots.draw(report, path)
    plots.check(path)  # which leaves what is there
    assert path.read_bytes().startswith(MAGIC[ending])


def test_lines_are_the_reports_figures(
    tmp_path: Path, report: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    plots.draw(report, tmp_path / "quality.png")
    over, by = figures[0].axes
    shown = {line.get_label(): line for line in over.get_lines()}
    assert list(shown["adapted"].get_ydata()) == report["over_stream"]["adapted"]
    assert list(shown["online mix"].get_ydata()) == report["over_stream"]["online_mix"]
    spans = [found for found in report["by_history"].values() if found["events"]]
    assert list(by.get_lines()[0].get_ydata()) == [found["adapted"]["ndcg10"] for found in spans]
    assert [text.get_text().split("=")[1] for text in by.get_xticklabels()] == [
        str(found["events"]) for found in spans
    ]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("quality.gif", r"ends in \.png, \.svg, \.pdf"),
        ("none/quality.png", "no such folder"),
        (f"{'q' * 255}.png", "cannot be written: File name too long"),
    ],
)
def test_a_plot_that_cannot_be_written_is_refused(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(InputFileError, match=why):
        plots.check(tmp_path / name)


def test_without_matplotlib_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda _: None)
    with pytest.raises(InputFileError, match=r"pip install 'headrace\[plot\]'"):
        plots.check(tmp_path / "quality.png")


def test_a_link_to_a_file_that_is_not_there_yet_stays(tmp_path: Path) -> None:
    link = tmp_path / "link.svg"
    link.symlink_to(tmp_path / "plot.svg")
    require_writable(link)
    assert link.is_symlink()
    assert not link.exists()
