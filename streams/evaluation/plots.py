"""Plots of an evaluation's report: quality over the stream, and by what was known of the user."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.streams.errors import InputFileError
from headrace.streams.tools.outputs import require_writable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg", ".pdf")
# Okabe and Ito's colours, which colour-blind readers tell apart, the model's own first.
COLOURS = ("#000000", "#0072B2", "#56B4E9", "#009E73", "#D55E00", "#E69F00", "#CC79A7", "#999999")


def check(path: str | Path) -> None:
    """Refuse, before anything long begins, what could not be drawn at its end.

    Raises:
        InputFileError: the ending is not known, the file cannot be written, or matplotlib is not
            installed.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise InputFileError(f"{path}: a plot's name ends in {', '.join(FORMATS)}")
    require_writable(path)
    if find_spec("matplotlib") is None:
        raise InputFileError("plots need matplotlib: pip install 'headrace[plot]'")


def draw(report: Mapping[str, Any], path: str | Path) -> None:
    """Draw both plots of a report that ``evaluate`` returned."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5), layout="constrained")
    over, by = figure.subplots(1, 2)
    contenders = [name for name in report["contenders"] if name not in ("frozen", "placebo")]
    ndcg = {name: report["contenders"][name]["ndcg10"] for name in contenders}
    contenders.sort(key=lambda name: (name != "adapted", name != "twin", -(ndcg[name] or 0)))
    lag = "" if report["lag"] else ", without lag"
    figure.suptitle(f"{report['stream']}, {report['events']:,} events, seed {report['seed']}{lag}")
    _draw_over_stream(over, report["over_stream"], contenders)
    _draw_by_history(by, report["by_history"], contenders)
    figure.legend(*over.get_legend_handles_labels(), loc="outside right center")
    figure.savefig(path, dpi=120)


def _draw_over_stream(axes: "Axes", told: Mapping[str, Any], names: list[str]) -> None:
    for place, name in enumerate(names):
        drawn = [float("nan") if ndcg is None else ndcg for ndcg in told[name]]
        axes.plot(told["events"], drawn, label=name.replace("_", " "), **_style(place))
    axes.axvline(told["events"][-1] / 2, color="0.8", linewidth=1, zorder=0)
    axes.set(title="over the stream (scored right of the line)", xlabel="events", ylim=(0, None))
    axes.set_ylabel("NDCG@10 of each window")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")


def _draw_by_history(axes: "Axes", told: Mapping[str, Any], names: list[str]) -> None:
    spans = [span for span, found in told.items() if found["events"]]
    for place, name in enumerate(names):
        axes.plot(spans, [told[span][name]["ndcg10"] for span in spans], **_style(place))
    axes.set_xticks(range(len(spans)), [f"{span}\nn={told[span]['events']:,}" for span in spans])
    axes.set(title="by length of history", xlabel="the user's interactions before the event")
    axes.set(ylabel="NDCG@10", ylim=(0, None))


def _style(place: int) -> dict[str, Any]:
    return {
        "color": COLOURS[place % len(COLOURS)],
        "linewidth": 2.5 if place == 0 else 1.3,
        "marker": "o",
        "markersize": 4 if place == 0 else 2.5,
    }
