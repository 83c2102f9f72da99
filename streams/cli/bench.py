"""Commands that measure how fast this machine is; ``bench_kafka`` has those through Kafka."""

import click

from headrace.streams.cli.options import number, with_settings
from headrace.streams.settings import Settings

repeats_option = number("--repeats", 3, "Runs for each figure.", least=1)
items_option = number(
    "--items", 10_000, "Items in the catalogue, each with a full row of neighbours.", least=100
)
plot_option = click.option("--plot", metavar="FILE", help="Draw it here: .svg, .png or .pdf.")


@click.group()
def bench() -> None:
    """Measure how fast this machine is with Headrace.

    Each prints a table, and JSON on standard output: with the machine, the versions, the date and
    the spread over repeats. What is compared is measured in turn, in the same run. Run nothing else
    beside it.

    \b
    Example:  headrace bench adapt
              headrace bench pipeline > pipeline.json
    Next:     headrace evaluate, for how good the lists are
    """


@bench.command()
@number("--up-to", 4096, "Users of the largest micro-batch.", least=1)
@items_option
@repeats_option
@with_settings("device", bootstrap_help=None)
def adapt(settings: Settings, items: int, up_to: int, repeats: int) -> None:
    """Measure users a second that are adapted and ranked, by micro-batch.

    Without broker and wire. Beside each figure stands its floor: what reading the tables' rows,
    and what the matrix products alone reach in the same run; and two other ways to adapt.

    \b
    Example:  headrace bench adapt --items 100000 --device cuda
    Next:     headrace bench pipeline, for what Kafka adds
    """
    from headrace.streams.bench import adapt as job
    from headrace.streams.bench.measuring import fitting, sizes_up_to
    from headrace.streams.bench.shop import ITEM_BYTES
    from headrace.streams.bench.telling import tell
    from headrace.streams.cli.progress import counted

    items = fitting(items, bytes_each=ITEM_BYTES, what="items")
    up_to = fitting(up_to, bytes_each=job.BATCH_USER_BYTES, what="users of a micro-batch")
    sizes = sizes_up_to(up_to, job.SIZES)
    with counted(total=len(sizes), label="sizes") as advance:
        rows = job.measure(
            settings, n_items=items, sizes=sizes, repeats=repeats, on_progress=advance
        )
    tell(settings, "adapt", f"{items:,} items", rows, up_to=up_to, items=items, repeats=repeats)


@bench.command()
@number("--up-to", 1_000_000, "Users, and items, of the largest size.", least=1_000)
@repeats_option
@plot_option
@with_settings("device", bootstrap_help=None)
def growth(settings: Settings, up_to: int, repeats: int, plot: str | None) -> None:
    """Measure what a user, an item and an interaction take.

    Memory and CPU time against users whose states a worker holds, against items with all their
    counts full, and against the length of histories; one is varied at a time, each size in a
    process of its own. Without broker and wire. On Linux.

    \b
    Example:  headrace bench growth --up-to 100000 --plot growth.svg
    Next:     headrace bench soak, for whether anything grows with time
    """
    from headrace.streams.bench import growth as job
    from headrace.streams.bench import plots as bench_plots
    from headrace.streams.bench.measuring import fitting
    from headrace.streams.bench.telling import tell_tables
    from headrace.streams.cli.progress import counted
    from headrace.streams.evaluation import plots

    if plot:
        plots.check(plot)
    sizes = job.sizes(
        users=fitting(up_to, bytes_each=job.STATE_BYTES, what="users"),
        items=fitting(up_to, bytes_each=job.ITEM_BYTES, what="items"),
    )
    with counted(total=sum(map(len, sizes.values())), label="sizes") as advance:
        tables = job.measure(settings, sizes=sizes, repeats=repeats, on_progress=advance)
    told = tell_tables(settings, "growth", tables, up_to=up_to, repeats=repeats)
    if plot:
        bench_plots.growth(told, plot)


@bench.command()
@number("--up-to", 10_000_000, "Items of the largest catalogue.", least=1_000)
@repeats_option
@with_settings("device", "threads", bootstrap_help=None)
def rank(settings: Settings, up_to: int, repeats: int) -> None:
    """Measure what it takes to rank all items.

    The top 50 of up to 10 million items by the encoder's affinity, for a micro-batch of 512 users:
    exact, as bf16, as int8, and by faiss's approximate search on the CPU (pip install
    'headrace[bench]'), with the share of the exact lists that each finds. The service gathers some
    250 candidates of a user instead, and ranks those by more than the affinity.

    \b
    Example:  headrace bench rank --up-to 1000000
    Next:     headrace bench adapt, for what ranking gathered candidates costs
    """
    from headrace.streams.bench import rank as job
    from headrace.streams.bench.telling import tell
    from headrace.streams.cli.progress import counted

    sizes = job.sizes(settings, up_to)
    with counted(total=job.steps(sizes, repeats), label="ways") as advance:
        rows = job.measure(settings, sizes=sizes, repeats=repeats, on_progress=advance)
    title = f"top {job.LENGTH} for {job.N_USERS} users"
    tell(settings, "rank", title, rows, up_to=up_to, repeats=repeats)
