"""The command line. Commands are a few lines: read the settings, call a function, say what next.

What a command needs is imported when it runs, so that ``headrace --help`` answers at once.
"""

import errno
import logging
import os
from typing import Any

import click

from headrace.streams.cli import bench, bench_kafka, evaluation, roles, tools
from headrace.streams.errors import StreamsError
from headrace.streams.guards import EXIT_WRONG


class Failure(click.ClickException):
    """An error of ours: one line that says what to do, and no traceback."""

    exit_code = EXIT_WRONG

    def show(self, file: Any = None) -> None:
        """Write the line to standard error."""
        click.echo(f"headrace: {' '.join(self.message.split())}", err=True, file=file)


ROLES = ("adapt", "learn", "up")
NO_CACHE = (
    "compiled loops can be kept neither beside the package nor in this user's home: set"
    " NUMBA_CACHE_DIR to a folder that only this user can write to"
)


class Headrace(click.Group):
    """Lists commands in the order they are used, and turns our errors into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the hook's signature
        """Return the commands as they were added."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except StreamsError as exc:
            raise Failure(str(exc)) from exc
        except RuntimeError as exc:
            if "no locator available" not in str(exc):  # numba's, as a module is imported
                raise
            raise Failure(NO_CACHE) from exc
        except OSError as exc:
            # A role that finds a disk full may do better when it is started again.
            if exc.errno != errno.ENOSPC or ctx.invoked_subcommand in ROLES:
                raise
            raise Failure("no space left for the output") from exc


@click.group(cls=Headrace, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="headrace", message="headrace %(version)s")
def main() -> None:
    """Headrace: events in from Kafka, refreshed recommendation lists out.

    Every user is re-learned as they act. `headrace demo` shows all of it at once. By hand, what
    goes on running in a terminal of its own:

    \b
      headrace broker               a broker to try things on (or run Apache Kafka)
      headrace topics               create what Headrace reads and writes
      headrace up                   run both roles
      headrace produce events.tsv   publish what users did
      headrace consume              read the lists

    Every setting can be given as a flag or -s NAME=VALUE, as HEADRACE_<NAME> in the environment, or
    in a TOML file (--settings); flags win over the environment, and it wins over the file.
    """
    # Tensors of ever different sizes leave glibc's heap full of holes: 11 MB for each 200 events.
    # On boundaries of huge pages they fit where others were, 1 MB, and take half the system time.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch when it is imported
    # What its errors mean is said by ours, which also name the cure.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


for command in (
    tools.broker,
    tools.acls,
    tools.topics,
    roles.adapt,
    roles.learn,
    roles.up,
    tools.produce,
    tools.replay,
    tools.consume,
    tools.dead_letters,
    tools.forget,
    evaluation.evaluate,
    bench.bench,
    roles.demo,
):
    main.add_command(command)
for command in (
    bench_kafka.pipeline,
    bench_kafka.latency,
    bench_kafka.soak,
    bench_kafka.overload,
    bench_kafka.recover,
    bench_kafka.scale,
):
    bench.bench.add_command(command)
