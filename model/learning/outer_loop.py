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

The losses are in ``losses``, the tasks to draw batches from in ``rehearsal``; other processes may
compute a part of the gradients (``parallel``).

Letters: B tasks, D width, J adapted inputs of the scorer.
"""

import logging
import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headrace.model.arrays import Longs
from headrace.model.config import OuterLoopConfig
from headrace.model.counts.residual import Residual
from headrace.model.learning.losses import Batch, Processes, backward, moved
from headrace.model.learning.rehearsal import Rehearsal, Tasks
from headrace.model.networks.encoder import EMBEDDING_STD
from headrace.model.networks.meta_parameters import MetaParameters
from headrace.model.networks.scorer import ADAPTED
from headrace.model.recommender import Recommender

logger = logging.getLogger(__name__)

STANDARDISE_EVERY = 20  # steps: the inputs' spread changes slowly, the pass over them costs
STANDARDISE_SAMPLE = 256  # tasks
LEAST_STD = 0.05  # of an input; what was silent has this one
LATE_MEASUREMENTS = 12  # of an input that was silent while the stream was young: as many as then
ADAM = {"step", "exp_avg", "exp_avg_sq"}  # what the optimisers hold of a parameter


class OuterLoop:
    """Owns the optimisers and the replay of one set of meta-parameters.

    ``served`` ranks meanwhile: the meta-parameters of the latest version with the
    small weights of the latest delta.
    """

    def __init__(
        self,
        recommender: Recommender,
        config: OuterLoopConfig,
        *,
        seed: int,
        processes: Processes | None = None,
    ) -> None:
        self.recommender = recommender
        self.served = recommender.copy()
        self.config = config
        self.n_tasks = 0
        self._processes = processes or Processes()
        self._standardise_until = config.standardise_until
        self._n_late: Tensor | None = None  # (J,) measurements left of late inputs, once it is old
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
        self._residual = Residual(self.meta.capacity)
        self._rehearsal = self._new_rehearsal()

    @property
    def meta(self) -> MetaParameters:
        """The meta-parameters that move."""
        return self.recommender.meta

    @property
    def n_rehearsed(self) -> int:
        """Return how many tasks are kept for rehearsal."""
        return self._rehearsal.n_tasks

    def _new_encoder_optimiser(self) -> torch.optim.Optimizer:
        parameters = [*self.meta.encoder.parameters(), *self.meta.user_loop.parameters()]
        return torch.optim.Adam(parameters, lr=self.config.encoder_lr, betas=(0.9, 0.98))

    def _new_rehearsal(self) -> Rehearsal:
        return Rehearsal(self.config, self._random, length=self.meta.config.length)

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
        self.served = self.recommender.copy()

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
        self._rehearsal = self._new_rehearsal()

    def forget_owner(self, owner: int) -> None:
        """Rehearse a user's tasks no more, nor learn from those that no step was taken for yet."""
        self._rehearsal.drop(owner)

    def start_anew(self, indexes: npt.NDArray[np.integer]) -> None:
        """Reset what was learned of items whose indexes are about to be given to others."""
        encoder = self.meta.encoder
        gone = torch.from_numpy(indexes[indexes < self.meta.capacity].astype(np.int64))
        for served in (self.meta, self.served.meta):
            served.start_anew(gone)
        with torch.no_grad():
            encoder.items[gone] = (
                torch.randn(len(gone), encoder.items.shape[1]).to(encoder.items) * EMBEDDING_STD
            )
        for rows in (encoder.items, encoder.bias):  # where the steps of others led
            for moment in self._optimisers["encoder"].state.get(rows, {}).values():
                if moment.shape == rows.shape:
                    moment[gone] = 0
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

    def serve_version(self, n_items: int) -> None:
        """Serve the meta-parameters of now; none of the tasks so far is left to learn from.

        What moves with versions only is brought up to date: the inner loop's negatives, half drawn
        by popularity and half evenly, which of the ``n_items`` item indexes in use have a learned
        embedding, and the residuals.
        """
        self._settle(n_items)
        self._prepare_version(n_items)
        self.served = self.recommender.copy()

    def serve_delta(self) -> None:
        """Serve the small weights of now."""
        self.served.meta.load_state_dict(self.meta.small_state(), strict=False)

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
        if n_due and self._rehearsal.n_tasks:  # a user who was forgotten may have owed them all
            self._step(n_items)

    def _step(self, n_items: int) -> float:
        """Step both parts; return the mean query loss before, NaN while no item was a candidate."""
        self._standardise()
        self._descend(self._rehearsal.draw_for_encoder(min(n_items, self.meta.capacity)))
        if not self._rehearsal.n_lists:
            return float("nan")
        return self._descend(self._rehearsal.draw_for_scorer())

    def _keep(self, tasks: Tasks, owners: Longs) -> None:
        """Count tasks, and put them with those to draw from."""
        self.meta.targets.count(torch.from_numpy(tasks.actions).to(self.recommender.device))
        hit = tasks.positions >= 0
        taken = tasks.items[hit, tasks.positions[hit]]
        self._residual.count(tasks.items[hit], tasks.probabilities[hit], taken)
        self._rehearsal.keep(tasks, owners)

    def _standardise(self) -> None:
        """Follow the inputs' mean and spread while the stream is young, or they are.

        An input that begins later, such as that of a catalogue's content, would be clamped for good
        by the spread of its silence.
        """
        self._n_steps += 1
        is_due = self._n_steps % STANDARDISE_EVERY == 1
        if not is_due or not self._rehearsal.n_lists:
            return
        scorer, random = self.meta.scorer, self._random
        is_followed = torch.ones_like(scorer.std, dtype=torch.bool)
        if self.n_tasks > self._standardise_until:
            if self._n_late is None:
                self._n_late = LATE_MEASUREMENTS * (scorer.std <= LEAST_STD).int()
            is_followed = self._n_late > 0
            random = np.random.default_rng(self._n_steps)  # what else is drawn stays as it was
        if not is_followed.any():
            return
        inputs = self._rehearsal.peek_inputs(STANDARDISE_SAMPLE, random)[:, ADAPTED]
        rows = torch.from_numpy(inputs).to(self.recommender.device)  # (rows, J)
        if len(rows) < 2:
            return
        std = rows.std(0).clamp(min=LEAST_STD)
        if self._n_late is not None:
            is_followed &= std > LEAST_STD
            self._n_late -= is_followed.int()
        scorer.mean[is_followed] = rows.mean(0)[is_followed]
        scorer.std[is_followed] = std[is_followed]

    def _descend(self, batch: Batch) -> float:
        """Step on each loss of a batch in turn; return the first in nats, before its step."""
        losses = []
        mine = self._processes.share(batch, self.meta).to(self.recommender.device)
        for part, loss in mine.losses(self.meta, self._processes):
            parameters = moved(self.meta, part)
            losses.append(float(backward(loss, parameters, self._processes)))
            if not math.isfinite(losses[-1]):  # an empty batch has no mean
                continue
            norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.max_gradient_norm)
            if not norm.isfinite():  # a weight that is not finite once would be so for good
                logger.warning("skipped a step: the gradient of the %s is not finite", part)
                continue
            self._optimisers[part].step()
            if part == "scorer":
                self._optimisers["tenure"].step()
        return losses[0]
