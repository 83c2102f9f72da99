"""The outer loop over two processes: the meta-parameters of one, and a clear end."""

import os
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from queue import Queue

import numpy as np
import pytest
import torch
from outer_loop_samples import N_ITEMS, new_loop, new_tasks, with_gradients
from stream_samples import small

from headrace.model.config import MetaLearning, OuterLoopConfig
from headrace.model.learning.losses import Processes
from headrace.model.learning.outer_loop import OuterLoop
from headrace.model.learning.parallel import RankLostError
from headrace.model.learning.rehearsal import Tasks
from headrace.streams.guards import EXIT_FAILED
from headrace.streams.learn import processes
from headrace.streams.learn.processes import processes_of
from headrace.streams.model_settings import model_config

# Parts of unequal sizes, and everything that is sampled, weighed or drawn is so.
CONFIG = OuterLoopConfig(
    batch_tasks=33,
    history_events=60,
    softmax_items=12,
    standardise_until=200,
    action_weights=(1, 2, 0.5, 0, 3, 1, 1, 1),
)
N_TASKS = 20  # at once
LIMIT_S = 30.0
LOOPBACK, LISTENS = "0100007F", "0A"  # as /proc/net/tcp has them


def drawn_tasks(loop: OuterLoop, n_batches: int) -> Iterator[Tasks]:
    """Draw users with several actions, some with judged events, some whose item was missed."""
    random = np.random.default_rng(1)
    for place in range(n_batches):
        users = [random.integers(0, N_ITEMS, n).tolist() for n in random.integers(0, 9, N_TASKS)]
        tasks = new_tasks(loop, users, place=place % 4)
        missed = random.random(N_TASKS) < 0.1
        yield replace(
            with_gradients(tasks) if place % 2 else tasks,
            actions=random.integers(0, 8, N_TASKS),
            positions=np.where(missed, -1, tasks.positions).astype(np.int32),
        )


def learned(
    tasks: list[Tasks], processes: Processes, loop: OuterLoop
) -> tuple[OuterLoop, list[float]]:
    """Return an outer loop after a short life, and its losses: items come, and are forgotten."""
    loop = new_loop(CONFIG, model=loop.meta.config, processes=processes)
    losses = []
    for at, some in enumerate(tasks):
        if at == 6:
            loop.serve_version(N_ITEMS)
            loop.grow(N_ITEMS + 10)
        if at == 10:
            loop.forget(np.array([3, 4]), n_items=N_ITEMS)
        losses.append(loop.learn(some, n_items=N_ITEMS if at < 6 else N_ITEMS + 5))
    loop.serve_version(N_ITEMS)
    return loop, losses


@pytest.mark.parametrize(
    ("kind", "clusters"), [("fomaml", 1), ("fomaml", 3), ("maml", 1), ("reptile", 3)]
)
def test_two_processes_learn_what_one_does(kind: MetaLearning, clusters: int) -> None:
    settings = small(learn_processes=2, meta_learning=kind, clusters=clusters)
    judging = new_loop(model=model_config(settings))
    tasks = list(drawn_tasks(judging, 16))
    alone, losses = learned(tasks, Processes(), judging)
    with processes_of(settings) as processes:
        together, losses_together = learned(tasks, processes, judging)
    assert losses_together == pytest.approx(losses, rel=1e-5, nan_ok=True)
    torch.testing.assert_close(together.state(), alone.state(), rtol=1e-4, atol=1e-6)
    # A twentieth of a step: where a gradient is nothing but rounding, as that of the keys' bias,
    # Adam divides noise by noise.
    found, expected = together.meta.state_dict(), alone.meta.state_dict()
    torch.testing.assert_close(found, expected, rtol=0, atol=CONFIG.encoder_lr / 20)
    exact = ["encoder.items", "user_loop.start", "scorer.first.weight", "scorer_loop.write.weight"]
    for name in exact:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-6)


def test_failing_process_ends_the_step_with_an_error_that_says_so() -> None:
    settings = small(learn_processes=2)
    other = new_loop(model=replace(model_config(settings), width=4))  # of another shape
    tasks = new_tasks(other)
    with processes_of(settings, end=lambda _: None) as processes:
        loop = new_loop(model=other.meta.config, processes=processes)
        with pytest.raises(RankLostError, match="has ended or does not answer"):
            loop.learn(tasks, n_items=N_ITEMS)


def test_a_process_that_ends_ends_us_though_there_is_nothing_to_learn(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended = Queue[int]()
    with processes_of(small(learn_processes=2), end=ended.put):
        os.kill(further_process(), signal.SIGKILL)
        assert ended.get(timeout=LIMIT_S) == EXIT_FAILED
    assert "a process that computes a part of the gradients has ended with status -9" in caplog.text


def test_processes_leave_nothing_behind_and_their_end_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = Queue[int]()
    with processes_of(small(learn_processes=3), end=ended.put):
        assert not [*tmp_path.iterdir()]  # nor if we were killed now
    assert not [*tmp_path.iterdir()]
    assert ended.empty()
    assert not caplog.records


def test_processes_listen_on_the_loopback_address_only() -> None:
    before = listening()
    with processes_of(small(learn_processes=2)):
        new = listening() - before
    assert new
    assert {address for address, _ in new} == {LOOPBACK}


def further_process() -> int:
    """Return the process that computes gradients for this one."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    name = processes.__name__.encode()
    (found,) = [p for p in children if name in Path(f"/proc/{p}/cmdline").read_bytes()]
    return int(found)


def listening() -> set[tuple[str, str]]:
    """Return the (address, port) pairs that this process listens on, in the kernel's digits."""
    ours = {os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == LISTENS and f"socket:[{inode}]" in ours:
                address, _, port = local.partition(":")
                found.add((address, port))
    return found
