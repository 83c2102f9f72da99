"""Progress on standard error, so that standard output stays for results."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

T = TypeVar("T")


class _Rate(ProgressColumn):
    """Completed steps a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s", style="progress.data.speed")


@contextmanager
def bars(*labels: str, total: int) -> Iterator[list[Callable[[int], None]]]:
    """Yield for each label a function that moves its bar by so many steps."""
    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    with shown:
        yield [partial(shown.advance, shown.add_task(label, total=total)) for label in labels]


@contextmanager
def counted(*, total: int, label: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that moves the bar by so many steps."""
    with bars(label, total=total) as (advance,):
        yield advance


def tracked(steps: Iterable[T], *, total: int, label: str) -> Generator[T, None, None]:
    """Yield the steps while a bar counts them."""
    with counted(total=total, label=label) as advance:
        for step in steps:
            yield step
            advance(1)
