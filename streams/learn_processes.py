"""The learn role's further processes, which compute a part of each batch's gradients.

They are started by the role, end with it, and see no topic. All is on this machine and over its
loopback interface, by gloo: what travels is small beside what is computed. They find each other by
a file in a private folder, for torch's own TCP store would listen on every address.

    python -m headrace.streams.learn_processes RANK FOLDER    with the settings in the environment
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta

import torch
from torch import distributed as dist

from headrace.model.losses import Processes
from headrace.model.parallel import FIRST, RankLostError, SeveralProcesses, compute_forever
from headrace.model.recommender import MetaParameters
from headrace.streams.child import Child
from headrace.streams.model_settings import model_config, pick_device
from headrace.streams.settings import Settings, load
from headrace.streams.up import child_environment

LOST_AFTER_S = 60.0  # without an answer; longer than a start takes on a busy machine
NEVER_S = 10 * 365 * 86_400.0  # a rank waits for the next event; the role's end is its own
STOP_LIMIT_S = 10.0


@contextmanager
def processes_of(settings: Settings, *, lost_after_s: float = LOST_AFTER_S) -> Iterator[Processes]:
    """Start ``learn_processes`` less ours, and end them at the end of the ``with`` block.

    Raises:
        RankLostError: one of them did not start.
    """
    n = settings.learn_processes
    if n == 1:
        yield Processes()
        return
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder, ExitStack() as stack:
        for rank in range(FIRST + 1, n):
            command = [sys.executable, "-m", __name__, str(rank), folder]
            child = Child(command, env=child_environment(settings), is_quiet=False)
            stack.callback(child.stop, limit_s=STOP_LIMIT_S)
        _join(FIRST, n, folder, limit_s=lost_after_s)
        stack.callback(dist.destroy_process_group)
        yield SeveralProcesses()


def _join(rank: int, n: int, folder: str, *, limit_s: float) -> None:
    """Meet the other ranks; from here on, each waits so long for the others."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder}/ranks",
            rank=rank,
            world_size=n,
            timeout=timedelta(seconds=limit_s),
        )
    except RuntimeError as exc:
        raise RankLostError("a process that is to compute gradients did not start") from exc


def device_of(settings: Settings, rank: int) -> torch.device:
    """Return where a rank computes: on a GPU of its own as far as there are some."""
    device = pick_device(settings)
    return torch.device(f"cuda:{rank % torch.cuda.device_count()}" if device == "cuda" else device)


def main() -> None:
    """Be one of the ranks until the role ends."""
    rank, folder = int(sys.argv[1]), sys.argv[2]
    settings = load()
    torch.set_num_threads(settings.threads)
    _join(rank, settings.learn_processes, folder, limit_s=NEVER_S)
    meta = MetaParameters(model_config(settings), capacity=1)  # grows to that of the first rank
    with suppress(RankLostError):  # the role has ended
        compute_forever(meta, SeveralProcesses(), device_of(settings, rank))


if __name__ == "__main__":
    main()
