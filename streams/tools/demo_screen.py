"""The demo's one screen: is it fast, is it good, and what one shopper gets."""

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from headrace.streams.records import Recommendation
from headrace.streams.tools.reasons import phrase

LIST_SHOWN = 6
MEANINGS = {
    "adapted": "each shopper re-learned",
    "frozen": "the same model, not adapted",
    "popularity": "what sells now",
}


@dataclass(frozen=True, slots=True)
class Shopper:
    """One shopper, what they bought last (newest last) and the list that answered."""

    found: Recommendation
    purchases: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """All that the screen shows."""

    events: int
    events_per_s: float
    lists: int
    p50_s: float
    p99_s: float
    model_version: int
    users: int
    items: int
    ndcg: Mapping[str, float]
    hit: Mapping[str, float]
    shopper: Shopper | None
    titles: Mapping[str, str]


def render(moment: Moment) -> RenderableType:
    """Return the screen."""
    parts: list[RenderableType] = [
        Panel(_flow(moment), title="real purchases through Kafka"),
        Panel(_quality(moment), title="NDCG@10 of the lists, judged by the next purchase"),
    ]
    if moment.shopper:
        parts.append(_shopper(moment.shopper, moment.titles))
    return Group(*parts)


def _flow(moment: Moment) -> Table:
    table = Table.grid(padding=(0, 3))
    table.add_row(
        f"[bold]{moment.events_per_s:,.0f}[/] events/s",
        f"[bold]{moment.events:,}[/] events",
        f"[bold]{moment.lists:,}[/] lists",
        f"{moment.users:,} shoppers",
        f"{moment.items:,} products",
    )
    table.add_row(
        f"event to list p50 [bold]{moment.p50_s * 1000:,.0f} ms[/]",
        f"p99 [bold]{moment.p99_s * 1000:,.0f} ms[/]",
        f"model version [bold]{moment.model_version}[/]",
    )
    return table


def _quality(moment: Moment) -> Table:
    table = Table.grid(padding=(0, 2))
    best = max(*moment.ndcg.values(), 1e-9)
    for name, ndcg in moment.ndcg.items():
        bar = ProgressBar(total=best, completed=ndcg, width=30)
        hit = f"{moment.hit[name]:.1%} in the first ten"
        table.add_row(f"[bold]{name}[/]", f"{ndcg:.4f}", bar, hit, f"[dim]{MEANINGS[name]}[/]")
    return table


def _shopper(shopper: Shopper, titles: Mapping[str, str]) -> Panel:
    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("just bought, newest first", ratio=2, no_wrap=True)
    table.add_column("list refreshed", ratio=2, no_wrap=True)
    table.add_column("because", ratio=3, no_wrap=True)
    bought = [titles.get(item, item) for item in reversed(shopper.purchases)]
    found = shopper.found
    for row in range(LIST_SHOWN):
        item = found.items[row] if row < len(found.items) else ""
        table.add_row(
            Text(bought[row] if row < len(bought) else ""),
            Text(titles.get(item, item)),
            Text(phrase(found.reasons[row], titles) if item else "", style="dim"),
        )
    return Panel(table, title=f"shopper {found.user}")


def summary(moment: Moment) -> RenderableType:
    """Return what remains to be said at the end."""
    adapted, popularity = moment.ndcg["adapted"], moment.ndcg["popularity"]
    times = f", {adapted / popularity:.1f} times popularity's" if popularity else ""
    return (
        f"{moment.events:,} purchases of {moment.users:,} shoppers led to {moment.lists:,} lists;"
        f" event to list p50 {moment.p50_s * 1000:.0f} ms, p99 {moment.p99_s * 1000:.0f} ms;"
        f" model version {moment.model_version};"
        f" NDCG@10 adapted {adapted:.4f}, frozen {moment.ndcg['frozen']:.4f},"
        f" popularity {popularity:.4f}{times}."
    )
