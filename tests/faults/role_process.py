"""A role in a process that is forked from one where the tensor library is imported already.

Importing takes seven seconds of CPU, four times as long on a busy machine, and a schedule starts a
dozen roles. All that follows the imports is what `headrace adapt` and `headrace learn` do.
"""

import multiprocessing
import os
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

from headrace.streams.settings import Settings
from headrace.streams.up import child_environment

IMPORTED = ["headrace.streams.cli.main", "headrace.streams.roles", "torch._dynamo"]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(IMPORTED)


def start(role: str, settings: Settings, log: Path) -> BaseProcess:
    """Start a role that appends to ``log``."""
    process = _context.Process(target=_run, args=(role, child_environment(settings), log))
    process.start()
    return process


def _run(role: str, environment: Mapping[str, str], log: Path) -> None:
    with log.open("a") as output:
        for standard in (1, 2):
            os.dup2(output.fileno(), standard)
    os.environ.update(environment)
    from headrace.streams.cli.main import main

    main([role], prog_name="headrace")
