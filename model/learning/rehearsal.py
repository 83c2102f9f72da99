"""Rehearsal: the latest tasks, kept to be learned from again, and the batches drawn of them.

Letters: B tasks, C candidates, I inputs, X context, T interactions, G clusters, P fast weights of
the scorer, M items of a softmax.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from headrace.model.arrays import Floats, Ints, Longs
from headrace.model.config import OuterLoopConfig
from headrace.model.counts.candidates import MAX_CANDIDATES
from headrace.model.histories import Histories
from headrace.model.learning.losses import EncoderBatch, ScorerBatch
from headrace.model.learning.replay_buffer import Array, ReplayBuffer


@dataclass(frozen=True, slots=True)
class Tasks:
    """B judged events, each with the support it was judged from."""

    histories: Histories
    items: Ints  # (B, C) candidates, -1 padded
    inputs: Floats  # (B, C, I) what the scorer was given for each
    context: Floats  # (B, X)
    targets: Ints  # (B,) item index of the event
    actions: Longs  # (B,) what it was
    positions: Ints  # (B,) its place among the candidates, -1 if it is none
    probabilities: Floats  # (B, C) of each candidate, before
    gradient_sums: Floats  # (B, decays, P)
    gradient_counts: Floats  # (B, decays)
    shares: Floats  # (B, G) of the user in each task cluster

    def __len__(self) -> int:
        """Return B."""
        return len(self.targets)


class Rehearsal:
    """The latest tasks, new and rehearsed ones together in batches of one size."""

    def __init__(
        self, config: OuterLoopConfig, random: np.random.Generator, *, length: int
    ) -> None:
        """Keep nothing yet; ``length`` is T, the interactions that the encoder sees."""
        self._config = config
        self._random = random
        self._length = length
        self._action_weights = torch.tensor(config.action_weights)
        self._lists = ReplayBuffer(config.replay_tasks)  # tasks whose item was a candidate
        self._sequences = ReplayBuffer(config.replay_tasks)  # all tasks

    @property
    def n_tasks(self) -> int:
        """Return how many tasks are kept."""
        return self._sequences.filled

    @property
    def n_lists(self) -> int:
        """Return how many tasks are kept whose item was a candidate."""
        return self._lists.filled

    def keep(self, tasks: Tasks, owners: Longs) -> None:
        """Keep tasks of (B,) owners; in half precision, for the inputs are most of it."""
        h, length = tasks.histories, self._length
        self._sequences.add(
            [
                h.items[:, :length],
                h.actions[:, :length],
                h.times_s[:, :length],
                h.features,
                tasks.targets,
                tasks.actions,
            ],
            owners,
        )
        hit = tasks.positions >= 0
        pad = ((0, 0), (0, MAX_CANDIDATES - tasks.items.shape[1]))
        self._lists.add(
            [
                np.pad(tasks.items[hit], pad, constant_values=-1) >= 0,
                np.pad(tasks.inputs[hit], (*pad, (0, 0))).astype(np.float16),
                *(a[hit] for a in (tasks.context, tasks.positions, tasks.actions)),
                *(a[hit] for a in (tasks.gradient_sums, tasks.gradient_counts, tasks.shares)),
            ],
            owners[hit],
        )

    def drop(self, owner: int) -> None:
        """Let go of an owner's tasks."""
        self._lists.drop(owner)
        self._sequences.drop(owner)

    def peek_inputs(self, n: int, random: np.random.Generator) -> Floats:
        """Return the (rows, I) inputs of all candidates of ``n`` tasks, drawn by ``random``."""
        filled, inputs, *_ = self._lists.peek(n, random)
        rows: Floats = inputs[filled].astype(np.float32)
        return rows

    def draw_for_scorer(self) -> ScorerBatch:
        """Draw a batch for the scorer; some users' gradients drop out."""
        n = self._config.batch_tasks
        drawn = self._lists.sample(n, self._random)
        filled, inputs, context, positions, actions, sums, counts, shares = drawn
        width = int(filled.sum(1).max())  # C of this batch: padding costs time
        keep = self._random.random(n) >= self._config.gradient_dropout
        weights = self._action_weights[actions]
        return ScorerBatch(
            filled=_tensor(filled[:, :width]),
            inputs=_tensor(inputs[:, :width]),
            context=_tensor(context),
            positions=_tensor(positions).long(),
            actions=_tensor(actions),
            weights=weights,
            gradient_sums=_tensor(sums * keep[:, None, None]),
            gradient_counts=_tensor(counts * keep[:, None]),
            shares=_tensor(shares),
            weight=weights.sum(),
            has_several_actions=torch.tensor(bool((actions != actions[0]).any())),
        )

    def draw_for_encoder(self, n_items: int) -> EncoderBatch:
        """Draw a batch for the encoder, and what of its histories is to be predicted.

        Items with an index below ``n_items`` have an embedding.
        """
        columns = self._sequences.sample(self._config.batch_tasks, self._random)
        items, actions, times_s, features, targets, kinds = columns
        items = np.where(items < n_items, items, -1)  # too new to have an embedding
        is_told = (items[:, 0] >= 0) | (features[:, 0] >= 0)  # something to predict from
        known = (targets >= 0) & (targets < n_items) & is_told
        event = self._softmax(targets[known], n_items)
        event_columns = np.full(len(targets), -1)
        event_columns[known] = event.columns
        weights = self._action_weights[kinds]
        oldest_first = items[:, ::-1]
        given, asked = oldest_first[:, :-1], oldest_first[:, 1:]
        task, step = np.nonzero((given >= 0) & (asked >= 0))
        if len(task) > self._config.history_events:
            some = self._random.permutation(len(task))[: self._config.history_events]
            task, step = task[some], step[some]
        history = self._softmax(asked[task, step], n_items if len(task) else 0)
        return EncoderBatch(
            items=_tensor(items).long(),
            actions=_tensor(actions).long(),
            times_s=_tensor(times_s),
            features=_tensor(features).long(),
            weights=weights,
            event_columns=_tensor(event_columns),
            event_items=_tensor(event.items),
            event_logs=_tensor(event.logs),
            event_weight=weights[_tensor(known)].sum(),
            history_tasks=_tensor(task),
            history_steps=_tensor(step),
            history_columns=_tensor(history.columns),
            history_items=_tensor(history.items),
            history_logs=_tensor(history.logs),
            n_history=torch.tensor(len(task)),
        )

    def _softmax(self, targets: Ints, n_items: int) -> "_Softmax":
        """Return a softmax over all items that has these (n,) targets.

        Of many items, all targets stand for themselves and a sample for the others.
        """
        width = self._config.softmax_items
        if n_items <= width:
            return _Softmax(np.arange(n_items), np.zeros(n_items, np.float32), targets.astype(int))
        asked, columns = np.unique(targets, return_inverse=True)
        others = self._random.permutation(n_items)
        others = others[np.isin(others, asked, invert=True)]
        drawn = others[: max(1, width - len(asked))]
        each = np.log(max(1, len(others)) / max(1, len(drawn)))
        logs = np.repeat(np.array([0, each], np.float32), [len(asked), len(drawn)])
        return _Softmax(np.concatenate([asked, drawn]), logs, columns)


class _Softmax(NamedTuple):
    items: Longs  # (M,)
    logs: Floats  # (M,) of how many items each stands for
    columns: Longs  # (n,) of the targets


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
