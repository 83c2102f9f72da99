"""Plots of what `headrace bench` found, each with its command."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.streams.evaluation.plots import COLOURS
from headrace.streams.settings import Settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH_IN, HEIGHT_IN = 4.5, 4.6  # of one plot
MARKERS = "os^"  # one after the other, where there are more lines than colours
GROWTH = {
    "users": ("bytes resident", "us to read one", "us to write one", "ms a user"),
    "items": (
        "learn kB an item", "adapt kB an item", "ms a user", "ms a learned event",
        "checkpoint MB", "s to publish", "s to load",
        "weights MB", "ms to publish weights", "ms to load weights", "delta kB",
    ),
    "history": ("bytes encoded", "ms a user"),
}  # fmt: skip
PERCENTILES = ("p50 ms", "p95 ms", "p99 ms")


def growth(told: Mapping[str, Any], path: str | Path) -> None:
    """Draw memory and time against what grew, from the JSON of `headrace bench growth`."""
    tables = told["tables"]
    with _figure(told, path, n=len(tables)) as plots:
        for axes, (name, rows) in zip(plots, tables.items(), strict=True):
            sizes = [int(row[name].replace(",", "")) for row in rows]
            _lines(axes, sizes, rows, GROWTH[name])
            axes.set(xscale="log", yscale="log", xlabel=name)
            axes.minorticks_off()
            axes.set_xticks(sizes, [row[name] for row in rows])


def latency(told: Mapping[str, Any], path: str | Path) -> None:
    """Draw latency against throughput, from the JSON of `headrace bench latency`."""
    with _figure(told, path, n=1) as (axes,):
        rows = told["rows"]
        loads = [_median(row["events/s"]) for row in rows]
        _lines(axes, loads, rows, PERCENTILES)
        axes.set(xlabel="events/s", ylabel="event to list, ms", ylim=(0, None), xlim=(0, None))


def command_of(told: Mapping[str, Any]) -> str:
    """Return the command that finds this again."""
    flags = (_flag(name, value) for name, value in told["asked"].items() if value is not None)
    return " ".join(["headrace bench", told["bench"], *flags])


def _flag(name: str, value: Any) -> str:
    if name in Settings.model_fields:  # not each has a flag of its own
        text = json.dumps(value) if isinstance(value, dict) else value
        return f"-s {shlex.quote(f'{name}={text}')}"
    return f"--{name.replace('_', '-')} {value}"


@contextmanager
def _figure(told: Mapping[str, Any], path: str | Path, *, n: int) -> Iterator[list["Axes"]]:
    """Yield plots side by side under their command, and save them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(n * WIDTH_IN, HEIGHT_IN), layout="constrained")
    on = told["machine"]
    figure.suptitle(f"{command_of(told)}\n{on['cpu']}, {on['date']}", fontsize="small", wrap=True)
    yield list(figure.subplots(1, n, squeeze=False)[0])
    figure.savefig(path, dpi=120)


def _lines(
    axes: "Axes", at: Sequence[float], rows: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> None:
    looks = [(colour, marker) for marker in MARKERS for colour in COLOURS]
    for name, (colour, marker) in zip(names, looks[: len(names)], strict=True):
        axes.plot(at, [_median(row[name]) for row in rows], label=name, color=colour, marker=marker)
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)


def _median(figure: Any) -> float:
    """Return a figure of the JSON, with or without its spread."""
    return float(figure["median"] if isinstance(figure, Mapping) else figure)
