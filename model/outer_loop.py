"""Outer loop: move the meta-parameters so that the adapted users are ranked better.

A task is one judged event: the user's support is what came before it, the query is the event. The
query loss after adaptation is minimised over everything shared, by default without second
derivatives (``inner_loop`` names the other ways). New tasks are learned together with rehearsed
ones, in batches of one size however they arrive.

Two losses, each over its own meta-parameters: the scorer and its inner loop learn from the listwise
loss over the candidates, the encoder and the user vector's inner loop from predicting the item
among all. The scorer sees each task's inputs as they were when the event was judged, before anyone
had learned from it: an affinity computed again, by an encoder that has seen the answer, would be
trusted more than it deserves.

The losses are in ``losses``; other processes may compute a part of their gradients (``parallel``).

Letters: B tasks, C candidates, I inputs, T interactions, K clusters, P fast weights of the scorer,
M items of a softmax.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headrace.model.candidates import MAX_CANDIDATES, Histories
from headrace.model.encoder import EMBEDDING_STD, N_ACTIONS
from headrace.model.losses import Batch, Lists, Ranks, Sequences, backward, moved
from headrace.model.recommender import MetaParameters, Recommender
from headrace.model.replay import Array, Replay
from headrace.model.residual import Residual
from headrace.model.scorer import ADAPTED
from headrace.model.signals import Floats, Ints, Longs

STANDARDISE_EVERY = 20  # steps: the inputs' spread changes slowly, the pass over them costs
STANDARDISE_SAMPLE = 256  # tasks
ADAM = {"step", "exp_avg", "exp_avg_sq"}  # what the optimisers hold of a parameter


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
    shares: Floats  # (B, K) of the user in each task cluster

    def __len__(self) -> int:
        """Return B."""
        return len(self.targets)


@dataclass(frozen=True, slots=True, kw_only=True)
class OuterLoopConfig:
    """How the outer loop learns."""

    scorer_lr: float = 3e-3
    loop_lr: float = 5e-4  # of the scorer's inner loop, which learns noise if it may learn fast
    encoder_lr: float = 2e-3
    batch_tasks: int = 256
    replay_batches: int = 2  # rehearsed tasks for each new one
    replay_tasks: int = 8192
    standardise_until: int = 20_000  # tasks after which the scorer's mean and std stand still
    history_events: int = 1024  # of all in a batch's histories, predicted for the encoder's loss
    softmax_items: int = 4096  # of more items, so many are in the encoder's softmax at a step
    gradient_dropout: float = 0.1  # share of tasks trained as if the user were new
    max_gradient_norm: float = 5.0
    action_weights: tuple[float, ...] = (1.0,) * N_ACTIONS  # of a task, by what its event was


class OuterLoop:
    """Owns the optimisers and the replay of one set of meta-parameters.

    ``published`` is what is served meanwhile: the meta-parameters of the latest version with the
    small weights of the latest delta.
    """

    def __init__(
        self,
        recommender: Recommender,
        config: OuterLoopConfig,
        *,
        seed: int,
        ranks: Ranks | None = None,
    ) -> None:
        self.recommender = recommender
        self.published = recommender.copy()
        self.config = config
        self.n_tasks = 0
        self._ranks = ranks or Ranks()
        self._standardise_until = config.standardise_until
        self._n_due = 0  # new tasks that no step was taken for yet
        self._n_steps = 0
        self._random = np.random.default_rng(seed)
        scorer = self.meta.scorer
        own = [p for name, p in scorer.named_parameters() if not name.startswith("tenure.")]
        self._optimisers: dict[str, torch.optim.Optimizer] = {
            "scorer": torch.optim.Adam(
                [
                    {"params": own, "lr": config.scorer_lr},
                    {"params": list(self.meta.scorer_loop.parameters()), "lr": config.loop_lr},
                ],
                betas=(0.9, 0.99),
            ),
            "targets": torch.optim.Adam(
                self.meta.targets.parameters(), lr=config.scorer_lr, betas=(0.9, 0.99)
            ),
            "encoder": self._new_encoder_optimiser(),
            # Its moments stand apart in files, as its weights do.
            "tenure": torch.optim.Adam(
                scorer.tenure.parameters(), lr=config.scorer_lr, betas=(0.9, 0.99)
            ),
        }
        self._action_weights = torch.tensor(config.action_weights)
        self._residual = Residual(self.meta.capacity)
        self._forget_replay()

    @property
    def meta(self) -> MetaParameters:
        """The meta-parameters that move."""
        return self.recommender.meta

    @property
    def n_replay(self) -> int:
        """Return how many tasks are kept for rehearsal."""
        return self._sequences.filled

    def _new_encoder_optimiser(self) -> torch.optim.Optimizer:
        parameters = [*self.meta.encoder.parameters(), *self.meta.user_loop.parameters()]
        return torch.optim.Adam(parameters, lr=self.config.encoder_lr, betas=(0.9, 0.98))

    def _forget_replay(self) -> None:
        self._lists = Replay(self.config.replay_tasks)  # tasks whose item was a candidate
        self._sequences = Replay(self.config.replay_tasks)  # all tasks

    def start_from(self, state: dict[str, Tensor]) -> None:
        """Take over some meta-parameters, learned elsewhere, before anything is learned here.

        The scorer's mean and std come along and stand still: its weights are for inputs as they
        standardised them.

        Raises:
            RuntimeError: a tensor is of another shape, or there is none of that name here.
        """
        unexpected = self.meta.load_state_dict(state, strict=False).unexpected_keys
        if unexpected:
            raise RuntimeError(f"unknown: {', '.join(unexpected)}")
        self._standardise_until = 0
        self.published = self.recommender.copy()

    def start_items(self, indexes: Tensor, start: Tensor) -> None:
        """Let (n,) items start from (n, D + 1) embeddings and biases learned elsewhere."""
        if len(indexes) and int(indexes.max()) >= self.meta.capacity:
            self.grow(self.recommender.signals.capacity)
        encoder = self.meta.encoder
        with torch.no_grad():
            encoder.items[indexes] = start[:, :-1].to(encoder.items)
            encoder.bias[indexes] = start[:, -1].to(encoder.bias)

    def grow(self, capacity: int) -> None:
        """Give embeddings to more items, and forget the optimiser's moments of the encoder."""
        self.meta.grow(capacity)
        self._residual.grow(capacity)
        self._optimisers["encoder"] = self._new_encoder_optimiser()

    def forget(self, indexes: npt.NDArray[np.integer], *, n_items: int) -> None:
        """Forget items whose index is about to be given to others, and all that is rehearsed.

        What is due is learned first: afterwards nothing is left to learn it from.
        """
        self._settle(n_items)
        self.start_anew(indexes)
        self._forget_replay()

    def forget_owner(self, owner: int) -> None:
        """Rehearse a user's tasks no more, nor learn from those that no step was taken for yet."""
        self._lists.drop(owner)
        self._sequences.drop(owner)

    def start_anew(self, indexes: npt.NDArray[np.integer]) -> None:
        """Let indexes that nobody took an item of be as new: other items are to have them."""
        encoder = self.meta.encoder
        gone = torch.from_numpy(indexes[indexes < self.meta.capacity].astype(np.int64))
        with torch.no_grad():
            encoder.items[gone] = (
                torch.randn(len(gone), encoder.items.shape[1]).to(encoder.items) * EMBEDDING_STD
            )
            encoder.bias[gone] = 0.0
        self._residual.forget(gone.numpy())

    def state(self) -> dict[str, Tensor]:
        """Return the optimisers' moments and the counts, to go on from. The replay is not in it:
        after a restart only what comes from then on is rehearsed."""
        tensors = {
            "n_tasks": torch.tensor([self.n_tasks]),
            "n_steps": torch.tensor([self._n_steps]),
            "standardise_until": torch.tensor([self._standardise_until]),
            "taken": torch.from_numpy(self._residual.taken),
            "expected": torch.from_numpy(self._residual.expected),
        }
        for name, optimiser in self._optimisers.items():
            for i, moments in optimiser.state_dict()["state"].items():
                tensors |= {f"{name}.{i}.{key}": value for key, value in moments.items()}
        return tensors

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Go on from a state that ``state`` returned.

        Raises:
            ValueError: a moment is not of its parameter's shape and type, or of no parameter.
            KeyError: a part is missing.
        """
        self.n_tasks = int(tensors["n_tasks"][0])
        self._n_steps = int(tensors["n_steps"][0])
        self._standardise_until = int(tensors["standardise_until"][0])
        for name in ("taken", "expected"):
            counts = tensors[name]
            is_fit = (counts.shape, counts.dtype) == ((self.meta.capacity,), torch.float32)
            if not is_fit or not (counts > 0).all():
                raise ValueError(f"{name} is {tuple(counts.shape)}, or no counts")
        self._residual = Residual.of(tensors["taken"].numpy(), tensors["expected"].numpy())
        for name, optimiser in self._optimisers.items():
            state = optimiser.state_dict()
            like = [one for group in optimiser.param_groups for one in group["params"]]
            for key, value in tensors.items():
                if key.startswith(name + "."):
                    _, i, moment = key.split(".")
                    shape = like[int(i)].shape if moment != "step" else ()
                    if (value.shape, value.dtype) != (shape, torch.float32):
                        raise ValueError(f"{key} is {value.dtype} {tuple(value.shape)}")
                    least = value.min() if value.numel() and moment != "exp_avg" else 0
                    if not value.isfinite().all() or least < 0:
                        raise ValueError(f"{key} holds what is no moment")
                    state["state"].setdefault(int(i), {})[moment] = value
            if any(moments.keys() != ADAM for moments in state["state"].values()):
                raise ValueError(f"{name} lacks a moment")
            optimiser.load_state_dict(state)

    def publish_version(self, n_items: int) -> None:
        """Serve the meta-parameters of now; none of the tasks so far is left to learn from.

        What moves with versions only is brought up to date: the inner loop's negatives, half drawn
        by popularity and half evenly, which of the ``n_items`` item indexes in use have a learned
        embedding, and the residuals.
        """
        self._settle(n_items)
        self._prepare_version(n_items)
        self.published = self.recommender.copy()

    def publish_delta(self) -> None:
        """Serve the small weights of now."""
        self.published.meta.load_state_dict(self.meta.small_state(), strict=False)

    def _prepare_version(self, n_items: int) -> None:
        n_items = min(n_items, self.meta.capacity)
        m = len(self.meta.negatives)
        if n_items == 0:
            return
        popularity = np.sqrt(self.recommender.signals.popularity_now(n_items)[:, 1]) + 1e-9
        popular = self._random.choice(n_items, m // 2, p=popularity / popularity.sum())
        even = self._random.integers(0, n_items, m - m // 2)
        self.meta.negatives.copy_(torch.from_numpy(np.concatenate([popular, even])))
        self.meta.n_items.fill_(n_items)
        self.meta.residual.copy_(torch.from_numpy(self._residual.logs()))

    def learn(
        self, tasks: Tasks, *, n_items: int, rehearse: bool = True, owners: Longs | None = None
    ) -> float:
        """Take the steps that new tasks make due: each on ``batch_tasks``, new and rehearsed.

        ``n_items`` is how many item indexes are in use. Without ``rehearse`` fewer steps are due.
        ``owners`` are (B,) numbers of the tasks' users, to forget them by.
        Returns the mean query loss in nats before each step, NaN if there was none.
        """
        self._keep(tasks, np.zeros(len(tasks), np.int64) if owners is None else owners)
        self.n_tasks += len(tasks)
        self._n_due += len(tasks)
        n_new = max(1, self.config.batch_tasks // (1 + self.config.replay_batches * rehearse))
        losses = []
        while self._n_due >= n_new:
            self._n_due -= n_new
            losses.append(self._step(n_items))
        return float(np.mean(losses)) if losses else float("nan")

    def _settle(self, n_items: int) -> None:
        """Take a step on what none was due for yet: a checkpoint must not owe any."""
        n_due, self._n_due = self._n_due, 0
        if n_due and self._sequences.filled:  # a user who was forgotten may have owed them all
            self._step(n_items)

    def _step(self, n_items: int) -> float:
        """Step both parts; return the mean query loss before, NaN while no item was a candidate."""
        self._standardise()
        self._descend(self._draw_sequences(n_items))
        return self._descend(self._draw_lists()) if self._lists.filled else float("nan")

    def _keep(self, tasks: Tasks, owners: Longs) -> None:
        """Put tasks into the replay; half precision, for the inputs are most of it."""
        h, length = tasks.histories, self.meta.config.length
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
        self.meta.targets.count(_tensor(tasks.actions).to(self.recommender.device))
        hit = tasks.positions >= 0
        taken = tasks.items[hit, tasks.positions[hit]]
        self._residual.count(tasks.items[hit], tasks.probabilities[hit], taken)
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

    def _standardise(self) -> None:
        """Follow the inputs' mean and spread while the stream is young."""
        self._n_steps += 1
        is_due = self._n_steps % STANDARDISE_EVERY == 1
        if self.n_tasks > self._standardise_until or not is_due or not self._lists.filled:
            return
        filled, inputs, *_ = self._lists.peek(STANDARDISE_SAMPLE, self._random)
        adapted = inputs[filled][:, ADAPTED].astype(np.float32)
        rows = _tensor(adapted).to(self.recommender.device)  # (rows, J)
        if len(rows) > 1:
            self.meta.scorer.mean.copy_(rows.mean(0))
            self.meta.scorer.std.copy_(rows.std(0).clamp(min=0.05))

    def _descend(self, batch: Batch) -> float:
        """Step on each loss of a batch in turn; return the first in nats, before its step."""
        losses = []
        mine = self._ranks.share(batch, self.meta).to(self.recommender.device)
        for part, loss in mine.losses(self.meta, self._ranks):
            parameters = moved(self.meta, part)
            losses.append(float(backward(loss, parameters, self._ranks)))
            if math.isfinite(losses[-1]):  # an empty batch has no mean
                torch.nn.utils.clip_grad_norm_(parameters, self.config.max_gradient_norm)
                self._optimisers[part].step()
                if part == "scorer":
                    self._optimisers["tenure"].step()
        return losses[0]

    def _draw_lists(self) -> Lists:
        """Draw a batch for the scorer; some users' gradients drop out."""
        n = self.config.batch_tasks
        drawn = self._lists.sample(n, self._random)
        filled, inputs, context, positions, actions, sums, counts, shares = drawn
        width = int(filled.sum(1).max())  # C of this batch: padding costs time
        keep = self._random.random(n) >= self.config.gradient_dropout
        weights = self._action_weights[actions]
        return Lists(
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

    def _draw_sequences(self, n_items: int) -> Sequences:
        """Draw a batch for the encoder, and what of its histories is to be predicted."""
        columns = self._sequences.sample(self.config.batch_tasks, self._random)
        items, actions, times_s, features, targets, kinds = columns
        n_known = min(n_items, self.meta.capacity)
        items = np.where(items < self.meta.capacity, items, -1)  # too new to have an embedding
        known = (targets >= 0) & (targets < n_known) & (items[:, 0] >= 0)
        event = self._softmax(targets[known], n_known)
        event_columns = np.full(len(targets), -1)
        event_columns[known] = event.columns
        weights = self._action_weights[kinds]
        oldest_first = items[:, ::-1]
        given, asked = oldest_first[:, :-1], oldest_first[:, 1:]
        task, step = np.nonzero((given >= 0) & (asked >= 0) & (asked < n_known))
        if len(task) > self.config.history_events:
            some = self._random.permutation(len(task))[: self.config.history_events]
            task, step = task[some], step[some]
        history = self._softmax(asked[task, step], n_known if len(task) else 0)
        return Sequences(
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
        width = self.config.softmax_items
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
