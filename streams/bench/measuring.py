"""Figures: repeated, spread told, with the machine they were taken on."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

_MEMORY_INFO = Path("/proc/meminfo")
FILE_WIDTH = 160  # letters; a terminal has its own
_CPU_INFO = Path("/proc/cpuinfo")
_PACKAGES = ("headrace", "torch", "numpy", "numba", "faust-streaming", "aiokafka")


class Figure(NamedTuple):
    """The median of some repeats, and the lowest and highest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Figure":
        """Sum up repeats; there must be at least one."""
        return cls(statistics.median(samples), min(samples), max(samples))

    def told(self) -> str:
        """Return it as a person reads it."""
        if self.low == self.high:
            return _short(self.median)
        return f"{_short(self.median)} ±{50 * (self.high - self.low) / self.median:.0f}%"


Row = Mapping[str, Figure | float | str]  # of a table: the same columns in each


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def seconds_of(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    started_s = time.perf_counter()
    call()
    return time.perf_counter() - started_s


def machine(*, device: str, threads: int) -> dict[str, Any]:
    """Return what a figure depends on."""
    return {
        "date": date.today().isoformat(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
        "load": round(os.getloadavg()[0], 2),  # of others too: read it before comparing
        "device": device,
        "threads": threads,
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        "faiss-cpu": version("faiss-cpu") if find_spec("faiss") else None,
    }


def _cpu() -> str:
    if _CPU_INFO.is_file():
        for line in _CPU_INFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def sizes_up_to(most: int, sizes: Sequence[int]) -> list[int]:
    """Return the sizes below ``most``, and that."""
    return [*(size for size in sizes if size < most), most]


def fitting(asked: int, *, bytes_each: int, what: str, free: int | None = None) -> int:
    """Return how many of ``asked`` fit into three quarters of the memory that is free.

    Says so on standard error where that is fewer. ``free`` is in bytes, the system's own figure if
    not given; where the system tells none, all fit.
    """
    free = _free_bytes() if free is None else free
    fit = asked if free is None else min(asked, max(1, int(0.75 * free) // bytes_each))
    if fit < asked and free is not None:
        needed_gb, free_gb = asked * bytes_each / 1e9, free / 1e9
        Console(stderr=True).print(
            f"{asked:,} {what} take some {needed_gb:,.1f} GB and {free_gb:,.1f} GB are free here:"
            f" measured with {fit:,}"
        )
    return fit


def _free_bytes() -> int | None:
    """Return what can be had without swapping, None where the system does not tell."""
    if not _MEMORY_INFO.is_file():
        return None
    fields = dict(line.split(":", 1) for line in _MEMORY_INFO.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def resident_bytes(process: int | str = "self") -> int:
    """Return the memory that a process holds, which Linux tells."""
    pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def show(title: str, rows: Sequence[Row]) -> None:
    """Print rows with the same columns as a table, to standard error."""
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(*map(_told, row.values()))
    console = Console(stderr=True)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    console.print(table)


def _told(value: Figure | float | str) -> str:
    if isinstance(value, str):
        return value
    return value.told() if isinstance(value, Figure) else _short(value)


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return rows for JSON, figures with their spread."""
    return [
        {
            name: {k: round(v, 4) for k, v in value._asdict().items()}
            if isinstance(value, Figure)
            else value
            for name, value in row.items()
        }
        for row in rows
    ]
