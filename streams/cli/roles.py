"""Commands that run the roles and judge what they do."""

from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from headrace.streams.cli.options import PORT, FiniteRange, context_columns, with_settings
from headrace.streams.settings import Settings

if TYPE_CHECKING:
    from headrace.streams.learn.learner import Learner

MODEL_FLAGS = ("device", "seed")
ROLE_FLAGS = ("topic_prefix", "partitions", "group", "model_store", "http_host", "log_level")
PARTS = (  # those of model.ablation; not imported, for it takes seconds to load
    "tenure", "own", "neighbours", "popularity", "categories", "content", "regression", "residual",
    "encoder", "network", "user_loop", "scorer_loop",
)  # fmt: skip


@click.command()
@with_settings(
    *ROLE_FLAGS, "adapt_port", "list_length", "diversity", "target_action", "device", "threads"
)
def adapt(settings: Settings) -> None:
    """Run an adapt worker: events in, refreshed lists out.

    Start as many as there are partitions to share; each holds the state of its partitions' users.
    It serves once the learn role has announced a model version. A failure ends the process with
    its own exit status and without a commit: start it again, and the replay repairs.

    \b
    Example:  headrace adapt --bootstrap broker:9092 --model-store s3://shop/models
    Next:     headrace consume --follow; curl http://127.0.0.1:8601/metrics
    """
    from headrace.streams.roles import as_process, run_adapt

    with as_process("adapt"):
        run_adapt(settings)


@click.command()
@with_settings(*ROLE_FLAGS, "learn_port", "start_from", "learn_processes", *MODEL_FLAGS)
@click.option(
    "--anew", is_flag=True, help="Leave out all versions so far and read all events there are."
)
def learn(settings: Settings, *, anew: bool) -> None:
    """Run the learn role: events in, model versions out.

    Run exactly one: it owns what all users share, item signals among it. It goes on from the
    version it announced last, or from nothing, or from how another shop's model ranks (--from).
    --anew, once, is for when the files of all versions are lost, or the model is to have another
    size: lists get worse until it has learned from the events that the topic still has.

    \b
    Example:  headrace learn --bootstrap broker:9092 --model-store s3://shop/models
              headrace learn --from s3://other-shop/models/v00000042.model.safetensors
              headrace learn --learn-processes 4
    Next:     headrace adapt
    """
    from headrace.streams.roles import as_process, run_learn

    with as_process("learn"):
        run_learn(settings, anew=anew)


@click.command()
@with_settings(
    *ROLE_FLAGS, "adapt_port", "learn_port", "list_length", "diversity", *MODEL_FLAGS, "threads"
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Adapt workers, at most one for each partition; their ports go on from --adapt-port, past"
    " --learn-port.",
)
def up(settings: Settings, workers: int) -> None:
    """Run both roles on this machine, until Ctrl-C.

    A process that fails is started again. Where there are cores to spare, several adapt workers
    carry more events than one with as many threads, and each holds a model.

    \b
    Example:  headrace up
              headrace up --workers 4
    Next:     headrace produce events.tsv, then headrace consume
    """
    from headrace.streams import up as both

    if workers > settings.partitions:
        raise click.UsageError(
            f"{workers} workers for {settings.partitions} partitions: the others would have nothing"
            f" to do; --workers {settings.partitions} at most, or topics of more --partitions"
        )
    both.up(settings, n_workers=workers)


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
    help="Catalogue: categories, titles and vectors help to rank.",
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

    from headrace.streams.cli.outputs import require_writable
    from headrace.streams.cli.progress import counted
    from headrace.streams.evaluation import drift as change
    from headrace.streams.evaluation import plots
    from headrace.streams.evaluation.evaluate import EVENTS_PER_VERSION
    from headrace.streams.evaluation.evaluate import evaluate as judge
    from headrace.streams.learn.transfer import write_model
    from headrace.streams.tools.files import load_events
    from headrace.streams.tools.files_items import load_items

    if protocol == "ader":
        _evaluate_periods(settings, file)
        return
    if others and permute_items:
        raise click.UsageError("give --then or --permute-items, not both")
    if plot:
        plots.check(plot)
    if save:
        require_writable(save)
    files = {name: load_events(name, context=context) for name in (file, *others)}
    events, drift = files[file], None
    items = load_items(catalogue) if catalogue else []
    if permute_items:
        drift = change.permuted(events, share=permute_items, seed=settings.seed, n_events=n_events)
    elif others:
        drift = change.followed([(f, files[f]) for f in (file, *others)], n_events=n_events)
    if drift:
        events, n_events = drift.events, len(drift.events)
    # Twice: the model ranks the stream, then the baselines do.
    learned: list[Learner] = []
    n_ranked = min(n_events, len(events)) + (drift.n_more if drift else 0)
    with counted(total=2 * n_ranked, label="evaluate") as advance:
        report = judge(
            events,
            settings,
            stream=Path(file).name.split(".")[0],
            n_events=n_events,
            items=items,
            has_lag=not no_lag,
            without=without,
            on_progress=advance,
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

    from headrace.streams.cli.progress import counted
    from headrace.streams.evaluation import ader
    from headrace.streams.tools.files import load_events

    given = click.get_current_context().get_parameter_source
    typed = ParameterSource.COMMANDLINE
    refused = [flag for name, flag in PREQUENTIAL_FLAGS.items() if given(name) is typed]
    if refused:
        raise click.UsageError(f"{', '.join(refused)}: not with --protocol ader")
    rounds = ader.rounds_of(load_events(file, also=["period"]), file)
    # Twice: the model learns and is tested, then the baselines are.
    with counted(total=2 * ader.n_steps(rounds), label="evaluate") as advance:
        report = ader.evaluate(
            rounds, settings, stream=Path(file).name.split(".")[0], on_progress=advance
        )
    click.echo(json.dumps(report, allow_nan=False))


@click.command()
@click.option("--keep", is_flag=True, help="Leave everything running after the summary.")
@click.option("--port", type=PORT, default=0, help="Port of the broker; any free one if not given.")
@click.option(
    "--seconds",
    type=FiniteRange(min=1),
    default=100.0,
    show_default=True,
    help="How long events are replayed.",
)
@click.option(
    "--rate",
    type=FiniteRange(min=1),
    default=150.0,
    show_default=True,
    help="Events a second.",
)
@with_settings("adapt_port", "learn_port", "device", bootstrap_help=None)
def demo(settings: Settings, keep: bool, port: int, seconds: float, rate: float) -> None:
    """Replay real purchases, live on one screen.

    They go through a broker and both roles, which it starts, and takes down again at the end.

    \b
    Example:  headrace demo
              headrace demo --keep --port 9092    then: headrace consume --follow
    Next:     headrace evaluate completejourney
    """
    from headrace.streams.tools.demo import run_demo

    run_demo(settings, broker_port=port, seconds=seconds, events_per_s=rate, keep=keep)
