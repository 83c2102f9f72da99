"""Commands that run the roles, and the demo of both."""

import click

from headrace.streams.cli.options import MODEL_FLAGS, PORT, number, with_settings
from headrace.streams.settings import Settings

ROLE_FLAGS = ("topic_prefix", "partitions", "group", "model_store", "http_host", "log_level")


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
@number(
    "--workers",
    1,
    "Adapt workers, at most one for each partition; their ports go on from --adapt-port, past"
    " --learn-port.",
    least=1,
    most=64,
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


@click.command()
@click.option("--keep", is_flag=True, help="Leave everything running after the summary.")
@click.option("--port", type=PORT, default=0, help="Port of the broker; any free one if not given.")
@number("--seconds", 100.0, "How long events are replayed.", least=1)
@number("--rate", 150.0, "Events a second.", least=1)
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
