"""Outer loop: move the meta-parameters so that the adapted users are ranked better.

A task is one judged event: the user's support is what came before it, the query is the event. The
query loss after adaptation is minimised over everything shared, by default without second
derivatives. Tasks are rehearsed from a bounded replay, so that a quiet taste is not forgotten.

Two losses, each over its own meta-parameters: the scorer and its preconditioner learn from the
listwise loss over the candidates, the encoder and the user vector's inner loop from predicting the
item among all. The affinity enters the scorer as a number, so that neither spoils the other.

Letters: B tasks, C candidates, F signals, P fast weights of the scorer, N items.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from headrace.model.candidates import MAX_CANDIDATES, Candidates, Histories
from headrace.model.encoder import EMBEDDING_STD
from headrace.model.inner_loop import GradientSums, n_scorer_weights
from headrace.model.recommender import MetaParameters, Prepared, Recommender
from headrace.model.signals import Floats, Ints, Longs

STANDARDISE_EVERY = 20  # steps: the inputs' spread changes slowly, the pass over them costs


@dataclass(frozen=True, slots=True)
class Tasks:
    """B judged events, each with the support it was judged from."""

    histories: Histories
    candidates: Candidates
    targets: Ints  # (B,) item index of the event
    positions: Longs  # (B,) its place among the candidates, -1 if it is none
    gradient_sums: Floats  # (B, decays, P)
    gradient_counts: Floats  # (B, decays)

    def __len__(self) -> int:
        """Return B."""
        return len(self.targets)


@dataclass(frozen=True, slots=True, kw_only=True)
class OuterLoopConfig:
    """How the outer loop learns."""

    scorer_lr: float = 3e-3
    encoder_lr: float = 2e-3
    first_order: bool = True
    replay_batches: int = 2
    replay_tasks: int = 8192
    standardise_until: int = 20_000  # tasks after which the scorer's mean and std stand still
    full_softmax_items: int = 8192  # beyond this many, as many negatives are drawn for a step
    gradient_dropout: float = 0.1  # share of tasks trained as if the user were new
    max_gradient_norm: float = 5.0


class OuterLoop:
    """Owns the optimiser and the replay of one set of meta-parameters."""

    def __init__(self, recommender: Recommender, config: OuterLoopConfig, *, seed: int) -> None:
        self.recommender = recommender
        self.config = config
        self.n_tasks = 0
        self._n_steps = 0
        self._random = np.random.default_rng(seed)
        self._replay = Replay(config.replay_tasks, n_scorer_weights(self.meta.config))
        self._scorer_optimiser = torch.optim.Adam(
            self._parameters("scorer"), lr=config.scorer_lr, betas=(0.9, 0.99)
        )
        self._encoder_optimiser = torch.optim.Adam(
            self._parameters("encoder", "user_loop"), lr=config.encoder_lr, betas=(0.9, 0.98)
        )

    @property
    def meta(self) -> MetaParameters:
        """The meta-parameters that move."""
        return self.recommender.meta

    @property
    def n_replay(self) -> int:
        """Return how many tasks are kept for rehearsal."""
        return self._replay.filled

    def _parameters(self, *prefixes: str) -> list[torch.nn.Parameter]:
        return [p for n, p in self.meta.named_parameters() if n.startswith(prefixes)]

    def grow(self, capacity: int) -> None:
        """Give embeddings to more items, and forget the optimiser's moments of the encoder."""
        self.meta.grow(capacity)
        self._encoder_optimiser = torch.optim.Adam(
            self._parameters("encoder", "user_loop"), lr=self.config.encoder_lr, betas=(0.9, 0.98)
        )

    def forget(self, indexes: npt.NDArray[np.integer]) -> None:
        """Forget items whose index is about to be given to others, and all that is rehearsed."""
        encoder = self.meta.encoder
        gone = torch.from_numpy(indexes[indexes < self.meta.capacity].astype(np.int64))
        with torch.no_grad():
            encoder.items[gone] = (
                torch.randn(len(gone), encoder.items.shape[1]).to(encoder.items) * EMBEDDING_STD
            )
            encoder.bias[gone] = 0.0
        self._replay = Replay(self.config.replay_tasks, n_scorer_weights(self.meta.config))

    def state(self) -> dict[str, Tensor]:
        """Return the optimisers' moments and the counts, to go on from. The replay is not in it:
        after a restart only what comes from then on is rehearsed."""
        tensors = {
            "n_tasks": torch.tensor([self.n_tasks]),
            "n_steps": torch.tensor([self._n_steps]),
        }
        for name, optimiser in self._optimisers().items():
            for i, moments in optimiser.state_dict()["state"].items():
                tensors |= {f"{name}.{i}.{key}": value for key, value in moments.items()}
        return tensors

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Go on from a state that ``state`` returned."""
        self.n_tasks = int(tensors["n_tasks"][0])
        self._n_steps = int(tensors["n_steps"][0])
        for name, optimiser in self._optimisers().items():
            state = optimiser.state_dict()
            for key, value in tensors.items():
                if key.startswith(name + "."):
                    _, i, moment = key.split(".")
                    state["state"].setdefault(int(i), {})[moment] = value
            optimiser.load_state_dict(state)

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {"scorer": self._scorer_optimiser, "encoder": self._encoder_optimiser}

    def choose_negatives(self, n_items: int) -> None:
        """Draw the inner loop's negatives anew: half by popularity, half evenly."""
        m = len(self.meta.negatives)
        if n_items == 0:
            return
        popularity = np.sqrt(self.recommender.signals.popularity_now(n_items)[:, 1]) + 1e-9
        popular = self._random.choice(n_items, m // 2, p=popularity / popularity.sum())
        even = self._random.integers(0, n_items, m - m // 2)
        drawn = np.minimum(np.concatenate([popular, even]), self.meta.capacity - 1)
        self.meta.negatives.copy_(torch.from_numpy(drawn))

    def learn(self, tasks: Tasks, *, n_items: int, rehearse: bool = True) -> float:
        """Take one step on new tasks and, to ``rehearse``, ``replay_batches`` on kept ones.

        ``n_items`` is how many item indexes are in use. Returns the mean query loss in nats of the
        new tasks whose item was a candidate, NaN if there were none.
        """
        self._replay.add(tasks)
        self.n_tasks += len(tasks)
        self._standardise()
        loss = self._step(tasks, n_items)
        for _ in range(self.config.replay_batches if rehearse else 0):
            self._step(self._replay.sample(len(tasks), self._random), n_items)
        return loss

    def _standardise(self) -> None:
        """Follow the inputs' mean and spread while the stream is young."""
        self._n_steps += 1
        if self.n_tasks > self.config.standardise_until or self._n_steps % STANDARDISE_EVERY != 1:
            return
        sample = self._replay.sample(256, self._random)
        with torch.no_grad():
            prepared = self.recommender.prepare(sample.histories, sample.candidates)
            inputs = self.recommender.inputs(
                prepared, self.recommender.initial(len(sample.targets)).user
            )[~prepared.is_padding]
            if len(inputs) > 1:
                self.meta.scorer.mean.copy_(inputs.mean(0))
                self.meta.scorer.std.copy_(inputs.std(0).clamp(min=0.05))

    def _step(self, tasks: Tasks, n_items: int) -> float:
        prepared = self.recommender.prepare(tasks.histories, tasks.candidates)
        keep = self._random.random(len(tasks)) >= self.config.gradient_dropout
        gradients = GradientSums(
            self._tensor(tasks.gradient_sums * keep[:, None, None]),
            self._tensor(tasks.gradient_counts * keep[:, None]),
        )
        fast = self.recommender.adapt(prepared, gradients, first_order=self.config.first_order)
        with torch.no_grad():  # the affinity is a number, not a function, for the scorer
            inputs = self.recommender.inputs(prepared, fast.user)
        scores = self.recommender.score_inputs(inputs, prepared, fast)
        encoder_loss = self._encoder_loss(prepared, fast.user, tasks.targets, n_items)
        self._descend(self._encoder_optimiser, encoder_loss)
        hit = self._tensor(tasks.positions >= 0)
        if not bool(hit.any()):
            return float("nan")
        place = self._tensor(tasks.positions).long()
        listwise = F.cross_entropy(scores[hit], place[hit])
        self._descend(self._scorer_optimiser, listwise)
        return float(listwise.detach())

    def _encoder_loss(
        self, prepared: Prepared, shift: Tensor, targets: Ints, n_items: int
    ) -> Tensor:
        """Return the cross-entropy of the adapted user vector over all items, or a sample."""
        encoder = self.meta.encoder
        n = min(n_items, self.meta.capacity)
        known = self._tensor((targets >= 0) & (targets < n)) & (prepared.encoded.items[:, -1] >= 0)
        target = self._tensor(targets.astype(np.int64))[known]
        user = (prepared.encoded.latest + shift)[known]  # (B', D)
        if n <= self.config.full_softmax_items:
            logits = user @ encoder.items[:n].T + encoder.bias[:n]
            return F.cross_entropy(logits, target)
        drawn = self._tensor(self._random.integers(0, n, self.config.full_softmax_items))
        positive = (user * encoder.items[target]).sum(1) + encoder.bias[target]
        negative = user @ encoder.items[drawn].T + encoder.bias[drawn]
        negative = negative.masked_fill(drawn == target[:, None], float("-inf"))
        # Sampled evenly: weigh the sample up to the catalogue it stands for.
        negative = negative + np.log(n / len(drawn))
        logits = torch.cat([positive[:, None], negative], 1)
        return F.cross_entropy(logits, torch.zeros_like(target))

    def _descend(self, optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
        if not torch.isfinite(loss):  # an empty batch has no mean
            return
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for group in optimiser.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], self.config.max_gradient_norm)
        optimiser.step()

    def _tensor(self, array: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.recommender.device)


class Replay:
    """A ring of the latest tasks; half precision, for the signals are most of it."""

    def __init__(self, size: int, n_weights: int) -> None:
        self.size, self.filled, self._next = size, 0, 0
        self._n_weights = n_weights
        self._columns: list[npt.NDArray[Any]] = []

    def add(self, tasks: Tasks) -> None:
        """Keep tasks, in place of the oldest."""
        columns = self._flatten(tasks)
        if not self._columns:
            self._columns = [np.zeros((self.size, *c.shape[1:]), c.dtype) for c in columns]
        n = len(tasks)
        places = (self._next + np.arange(n)) % self.size
        for column, values in zip(self._columns, columns, strict=True):
            column[places] = values
        self._next = (self._next + n) % self.size
        self.filled = min(self.size, self.filled + n)

    def sample(self, n: int, random: np.random.Generator) -> Tasks:
        """Draw tasks evenly, with replacement."""
        drawn = random.integers(0, self.filled, n)
        (
            h_items, h_times, h_actions, h_events, h_repeats,
            items, signals, context, because, targets, positions, sums, counts,
        ) = (column[drawn] for column in self._columns)  # fmt: skip
        width = int((items >= 0).sum(1).max(initial=1))
        return Tasks(
            Histories(h_items, h_times, h_actions, h_events, h_repeats),
            Candidates(
                items[:, :width],
                signals[:, :width].astype(np.float32),
                context,
                because[:, :width],
            ),
            targets,
            positions,
            sums,
            counts,
        )

    def _flatten(self, tasks: Tasks) -> list[npt.NDArray[np.generic]]:
        c = tasks.candidates
        pad = ((0, 0), (0, MAX_CANDIDATES - c.items.shape[1]))
        return [
            *tasks.histories,
            np.pad(c.items, pad, constant_values=-1),
            np.pad(c.signals, (*pad, (0, 0))).astype(np.float16),
            c.context,
            np.pad(c.because, pad, constant_values=-1),
            tasks.targets,
            tasks.positions,
            tasks.gradient_sums,
            tasks.gradient_counts,
        ]
