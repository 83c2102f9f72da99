"""The learn role's further processes, which compute a part of each batch's gradients.

They are started by the role, end with it, and see no topic. All is on this machine and over its
loopback interface, by gloo: what travels is small beside what is computed. They find each other by
a file, for torch's own TCP store would listen on every address. It has no name but that of our open
descriptor: however the role ends, nothing of it is left.

    python -m headrace.streams.learn.processes RANK FILE    with the settings in the environment
"""

import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta

import torch
from torch import distributed as dist

from headrace.model.learning.losses import Processes
from headrace.model.learning.parallel import FIRST, RankLostError, SeveralProcesses, compute_forever
from headrace.model.networks.meta_parameters import MetaParameters
from headrace.streams.child import Child
from headrace.streams.guards import EXIT_FAILED, end_process
from headrace.streams.model_settings import model_config, pick_device
from headrace.streams.settings import Settings, load
from headrace.streams.up import child_environment

logger = logging.getLogger(__name__)

LOST_AFTER_S = 60.0  # without an answer; longer than a start takes on a busy machine
NEVER_S = 10 * 365 * 86_400.0  # a rank waits for the next event; the role's end is its own
STOP_LIMIT_S = 1.0  # a rank keeps nothing, and gloo may leave it waiting for the next batch
SETTLE_S = 1.0  # in which a signal that is sent to all processes of a unit has come to each


@contextmanager
def processes_of(
    settings: Settings,
    *,
    end: Callable[[int], object] = end_process,
) -> Iterator[Processes]:
    """Start ``learn_processes`` less ours, and end them at the end of the ``with`` block.

    When one of them ends before, so do we.

    Raises:
        RankLostError: one of them did not start.
    """
    n = settings.learn_processes
    if n == 1:
        yield Processes()
        return
    is_over = threading.Event()
    with tempfile.TemporaryFile() as meeting, ExitStack() as stack:
        file = f"/proc/{os.getpid()}/fd/{meeting.fileno()}"
        for rank in range(FIRST + 1, n):
            command = [sys.executable, "-m", __name__, str(rank), file]
            child = Child(command, env=child_environment(settings), is_quiet=False)
            stack.callback(child.stop, limit_s=STOP_LIMIT_S)
            threading.Thread(target=_watch, args=(child, is_over, end), daemon=True).start()
        stack.callback(is_over.set)  # where they do not meet
        _join(FIRST, n, file, limit_s=LOST_AFTER_S)
        stack.callback(dist.destroy_process_group)  # which they end of
        stack.callback(is_over.set)
        yield SeveralProcesses()


def _watch(child: Child, is_over: threading.Event, end: Callable[[int], object]) -> None:
    """End with a child: while no events come, nobody else would notice.

    One that was told to end before the ranks have met is not alone: so were we, most likely.
    """
    status = child.wait()
    if status == -signal.SIGTERM:
        is_over.wait(SETTLE_S)
    if not is_over.is_set():
        logger.error(
            "ended: a process that computes a part of the gradients has ended with status %d: its"
            " own lines say why; start the role again",
            status,
        )
        end(EXIT_FAILED)


def _join(rank: int, n: int, file: str, *, limit_s: float) -> None:
    """Meet the other ranks; from here on, each waits so long for the others.

    In a thread: gloo waits where Python hears no signal.
    """
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(
                dist.init_process_group,
                "gloo",
                init_method=f"file://{file}",
                rank=rank,
                world_size=n,
                timeout=timedelta(seconds=limit_s),
            ).result()
    except RuntimeError as exc:
        raise RankLostError("a process that is to compute gradients did not start") from exc


def device_of(settings: Settings, rank: int) -> torch.device:
    """Return where a rank computes: on a GPU of its own as far as there are some."""
    device = pick_device(settings)
    return torch.device(f"cuda:{rank % torch.cuda.device_count()}" if device == "cuda" else device)


def main() -> None:
    """Be one of the ranks until the role ends."""
    rank, file = int(sys.argv[1]), sys.argv[2]
    settings = load()
    torch.set_num_threads(settings.threads)
    _join(rank, settings.learn_processes, file, limit_s=NEVER_S)
    # From here on we end with the connection. A stop that is sent to every process of a unit, as
    # systemd does, is for the role: it still has a version to publish, and events to learn from.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    meta = MetaParameters(model_config(settings), capacity=1)  # grows to that of the first rank
    with suppress(RankLostError):  # the role has ended
        compute_forever(meta, SeveralProcesses(), device_of(settings, rank))


if __name__ == "__main__":
    main()
