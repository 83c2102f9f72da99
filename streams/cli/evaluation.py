"""The command that judges the lists of a recorded stream."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from headrace.streams.cli.options import MODEL_FLAGS, FiniteRange, context_columns, with_settings
from headrace.streams.settings import Settings

if TYPE_CHECKING:
    from headrace.streams.learn.learner import Learner

PARTS = (  # those of model.ablation; not imported, for it takes seconds to load
    "tenure", "own", "neighbours", "popularity", "categories", "content", "regression", "residual",
    "encoder", "network", "user_loop", "scorer_loop",
)  # fmt: skip
# Flags of `evaluate` that mean nothing to a protocol that takes a file whole.
PREQUENTIAL_FLAGS = {
    "catalogue": "--items",
    "n_events": "--events",
    "no_lag": "--no-lag",
    "without": "--without",
    "plot": "--plot",
    "save": "--save",
    "context": "--context",
    "others": "--then",
    "permute_items": "--permute-items",
}


@click.command()
@click.argument("file")
@click.option(
    "--protocol",
    type=click.Choice(["prequential", "ader"]),
    default="prequential",
    show_default=True,
    help="Judge each event before it is learned, or each period.",
)
@click.option(
    "--items",
    "catalogue",
    metavar="FILE",
    help="Catalogue: categories, titles and vectors help to rank; all of it is on offer.",
)
@click.option(
    "--events",
    "n_events",
    type=click.IntRange(min=2),
    default=100_000,
    show_default=True,
    help="Only the first so many interactions.",
)
@context_columns
@click.option("--no-lag", is_flag=True, help="Let shared knowledge reach the lists at once.")
@click.option(
    "--without", type=click.Choice(PARTS), multiple=True, help="Take this part out of the model."
)
@click.option("--plot", metavar="FILE", help="Draw quality over the stream and by history here.")
@click.option("--save", metavar="FILE", help="Write the model at the end, for --from.")
@click.option(
    "--then",
    "others",
    metavar="FILE",
    multiple=True,
    help="Go on with as many of its events, of other users and items. Repeatable.",
)
@click.option(
    "--permute-items",
    type=FiniteRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="From this share of the stream on, give items each other's ids.",
)
@with_settings(
    *MODEL_FLAGS,
    "inner_steps",
    "meta_learning",
    "clusters",
    "replay_batches",
    "diversity",
    "target_action",
    "action_weights",
    "start_from",
    bootstrap_help=None,
)
def evaluate(
    settings: Settings,
    file: str,
    protocol: str,
    catalogue: str | None,
    n_events: int,
    context: tuple[str, ...],
    no_lag: bool,
    without: tuple[str, ...],
    plot: str | None,
    save: str | None,
    others: tuple[str, ...],
    permute_items: float | None,
) -> None:
    """Judge the lists on the events of FILE, without Kafka.

    The report is JSON on standard output. Each event is ranked before it is applied and learned
    from; the second half is scored. The same model and passes as in the service, with the service's
    delay at 200 events a second, beside the baselines that learn from every event at once.

    With --protocol ader, FILE has a column period too, of whole numbers: a period is learned, the
    next one tested whole and then learned, and so on. Every event of a user but the first in its
    period is a test, in periods after the first.

    \b
    Example:  headrace evaluate events.tsv.gz
              headrace evaluate completejourney --items completejourney | jq .contenders
              headrace evaluate events.tsv.gz --plot quality.png
              headrace evaluate diginetica.tsv.gz --protocol ader | jq .contenders
              headrace evaluate a.tsv --then b.tsv --then a.tsv | jq .drift
    Next:     headrace up
    """
    import json
    from pathlib import Path

    from headrace.streams.evaluation import drift as change
    from headrace.streams.evaluation import plots
    from headrace.streams.evaluation.evaluate import EVENTS_PER_VERSION
    from headrace.streams.evaluation.evaluate import evaluate as judge
    from headrace.streams.learn.transfer import write_model
    from headrace.streams.tools.files import counted_once, interactions, load_events
    from headrace.streams.tools.files_items import load_items
    from headrace.streams.tools.outputs import require_writable

    if protocol == "ader":
        _evaluate_periods(settings, file)
        return
    if others and permute_items:
        raise click.UsageError("give --then or --permute-items, not both")
    if plot:
        plots.check(plot)
    if save:
        require_writable(save)
    files = {
        name: counted_once(load_events(name, context=context, is_named=True))
        for name in (file, *others)
    }
    events, drift = files[file], None
    items = load_items(catalogue) if catalogue else []
    if permute_items:
        drift = change.permuted(events, share=permute_items, seed=settings.seed, n_events=n_events)
    elif others:
        drift = change.followed([(f, files[f]) for f in (file, *others)], n_events=n_events)
    if drift:
        events, n_events = drift.events, len(drift.events)
    learned: list[Learner] = []
    n_ranked = min(n_events, len(interactions(events))) + (drift.n_more if drift else 0)
    with _passes(n_ranked) as (advance, advance_baselines):
        report = judge(
            events,
            settings,
            stream=Path(file).name.split(".")[0],
            n_events=n_events,
            items=items,
            has_lag=not no_lag,
            without=without,
            on_progress=advance,
            on_baselines=advance_baselines,
            on_learned=learned.append,
            drift=drift,
        )
    click.echo(json.dumps(report, allow_nan=False))
    if not (report["versions"] or no_lag):
        click.echo(
            f"note: too few events for a version, which comes every {EVENTS_PER_VERSION:,}: the"
            " encoder is as it begins, and settings of it change nothing; --no-lag shows them",
            err=True,
        )
    if settings.leave_out:
        click.echo("note: what leave_out leaves out of lists is ranked here all the same", err=True)
    if save:
        write_model(learned[0], save)
    if plot:
        plots.draw(report, plot)


def _evaluate_periods(settings: Settings, file: str) -> None:
    """Judge by the protocol of ADER."""
    import json
    from pathlib import Path

    from headrace.streams.evaluation import ader
    from headrace.streams.tools.files import counted_once, load_events

    given = click.get_current_context().get_parameter_source
    typed = ParameterSource.COMMANDLINE
    refused = [flag for name, flag in PREQUENTIAL_FLAGS.items() if given(name) is typed]
    if refused:
        raise click.UsageError(f"{', '.join(refused)}: not with --protocol ader")
    events = counted_once(load_events(file, also=["period"], is_named=True))
    rounds = ader.rounds_of(events, file)
    with _passes(ader.n_steps(rounds)) as (advance, advance_baselines):
        report = ader.evaluate(
            rounds,
            settings,
            stream=Path(file).name.split(".")[0],
            on_progress=advance,
            on_baselines=advance_baselines,
        )
    click.echo(json.dumps(report, allow_nan=False))


@contextmanager
def _passes(n_events: int) -> Iterator[list[Callable[[int], None]]]:
    """Count the two passes over the events: the model's, then the baselines'."""
    from headrace.streams.cli.progress import bars
    from headrace.streams.compiling import told_of_compiling

    with (
        bars("model", "baselines", total=n_events) as advances,
        # Above the bars: click's echo would write past them.
        told_of_compiling(lambda text: print(text, file=sys.stderr)),
    ):
        yield advances
