"""What a new shop gains from another's model: NDCG@10 over its first events, by its start.

    python tests/bench/transfer.py --old FILE --old-items FILE --new FILE --new-items FILE
    python tests/bench/transfer.py --halves items           complete journey, made two shops

Halves have users and items of their own: every other item, or every other department's items.

It starts from nothing, from how the old shop's model ranks (``ranking``), or also from the
embeddings of the old shop's items with like content (``items``). A JSON object a line, for each
start and number of events between two versions of the new shop (``--per-version``).
"""

import json
import tempfile
from collections import Counter
from itertools import product
from pathlib import Path

import click
import polars as pl

from headrace.model.ranking_metrics import UNSCORED, ndcg_at
from headrace.streams.evaluation.evaluate import EVENTS_PER_DELTA, EVENTS_PER_VERSION, Evaluation
from headrace.streams.evaluation.report import K
from headrace.streams.learn.learner import Learner
from headrace.streams.records import Item
from headrace.streams.settings import Settings
from headrace.streams.tools.files import events_of, interactions, load_events
from headrace.streams.tools.files_items import load_items
from headrace.streams.tools.purchases import completejourney
from headrace.streams.versions.publication import pack_model

FIRST = (500, 1_000, 2_000, 5_000, 10_000)  # events
Shop = tuple[pl.DataFrame, list[Item]]


def halves(by: str) -> tuple[Shop, Shop]:
    """Return two shops made of complete journey: every other user's events of half the items."""
    events, items = completejourney()
    is_even = pl.col("user").cast(pl.Int64) % 2 == 0
    sizes = Counter(item.categories[0] for item in items if item.categories)
    departments = {department for department, _ in sizes.most_common()[::2]}
    shops: list[Shop] = []
    for is_ours, users in ((True, is_even), (False, ~is_even)):
        if by == "items":
            own = [item for item in items if (int(item.item) % 2 == 0) == is_ours]
        else:
            own = [i for i in items if i.categories and (i.categories[0] in departments) == is_ours]
        its = pl.col("item").is_in([item.item for item in own])
        shops.append((events.filter(users & its), own))
    return shops[0], shops[1]


def learned(shop: Shop, n_events: int) -> Learner:
    """Return a learner of a shop's first events."""
    learner = Learner(Settings(device="cpu"))
    for item in shop[1]:
        learner.assortment.note(item)
    while learner.assortment.place():
        pass
    events = list(events_of(interactions(shop[0]).head(n_events)))
    for at in range(0, len(events), EVENTS_PER_DELTA):
        block = events[at : at + EVENTS_PER_DELTA]
        learner.learn([(event.user, at + i, event) for i, event in enumerate(block)])
        if at % EVENTS_PER_VERSION == EVENTS_PER_VERSION - EVENTS_PER_DELTA:
            learner.serve_version()
        learner.serve_delta()
    return learner


def prepared(shop: Shop, settings: Settings, *, per_version: int, is_matching: bool) -> Evaluation:
    """Return an evaluation that knows a shop's catalogue."""
    evaluation = Evaluation(settings, events_per_version=per_version)
    if not is_matching:
        evaluation.learner.assortment.inheritance = None
    evaluation.know(shop[1])
    return evaluation


@click.command()
@click.option("--halves", "by", type=click.Choice(["items", "departments"]))
@click.option("--old", default="completejourney")
@click.option("--old-items", default="completejourney")
@click.option("--new")
@click.option("--new-items")
@click.option("--old-events", default=30_000)
@click.option("--events", "n_events", default=10_000)
@click.option("--per-version", "sizes", multiple=True, type=int, default=(EVENTS_PER_VERSION,))
def main(
    by: str | None,
    old: str,
    old_items: str,
    new: str,
    new_items: str,
    old_events: int,
    n_events: int,
    sizes: tuple[int, ...],
) -> None:
    """Train the old shop, then evaluate the new one from each start."""
    if by:
        first, second = halves(by)
    else:
        first = load_events(old), load_items(old_items)
        second = load_events(new), load_items(new_items)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "old.model"
        learner = learned(first, old_events)
        space = learner.assortment.catalogue.space
        model.write_bytes(pack_model(learner.recommender, learner.vocabulary, content_space=space))
        for per_version, start in product(sizes, ("nothing", "ranking", "items")):
            settings = Settings(device="cpu", start_from="" if start == "nothing" else str(model))
            shop = prepared(second, settings, per_version=per_version, is_matching=start == "items")
            ranks = shop.run(interactions(second[0]).head(n_events))["adapted"]
            told = {"content": space, "events_per_version": per_version, "start": start}
            inheritance = shop.learner.assortment.inheritance
            matched = {"matched": inheritance.n_matched} if inheritance else {}
            ndcg = {
                n: round(ndcg_at(ranks[:n][ranks[:n] != UNSCORED], K), 5)
                for n in FIRST
                if n <= n_events
            }
            click.echo(json.dumps(told | matched | {"ndcg10_over_first": ndcg}))


if __name__ == "__main__":
    main()
