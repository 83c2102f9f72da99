"""Losses of the outer loop: each a sum over the tasks of a batch, so that any part of it adds up.

Whatever depends on the batch as a whole (how wide it is, which items are sampled, by how much a
weighted mean is divided) is in the batch already. A batch can therefore be cut by its tasks, and
the gradients of the parts, each computed by a process of its own (``parallel``), sum to those of
the whole.

Letters: B tasks, C candidates, I inputs, X context, T interactions, J features, G clusters, P fast
weights of the scorer, H predicted interactions of histories, M items of a softmax.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from headrace.model.networks.clusters import mean_moves
from headrace.model.networks.encoder import Encoded, Encoder
from headrace.model.networks.inner_loop import GradientSums
from headrace.model.networks.meta_parameters import MetaParameters

REPTILE_STEP = 0.1  # of the way from the start to where the steps end


class Processes:
    """The processes that share a batch's gradients. This base class is a single process."""

    def share(self, batch: "Batch", meta: MetaParameters) -> "Batch":  # noqa: ARG002 - the seam
        """Give each rank its part of a batch, and what it needs of ``meta``; return ours."""
        return batch

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all ranks."""

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by those of the first rank."""


@dataclass(frozen=True, slots=True)
class Batch(ABC):
    """Tasks of one step, or one rank's part of them, as tensors."""

    needs: ClassVar[tuple[str, ...]]  # how names of the meta-parameters begin that it takes

    def tensors(self) -> dict[str, Tensor]:
        """Return the fields by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: torch.device) -> Self:
        """Return the batch on a device."""
        return replace(self, **{name: value.to(device) for name, value in self.tensors().items()})

    @abstractmethod
    def __len__(self) -> int:
        """Return B."""

    @abstractmethod
    def rows(self, part: slice) -> Self:
        """Return some of the tasks; ``part`` has a start and a stop."""

    @abstractmethod
    def losses(self, meta: MetaParameters, processes: Processes) -> Iterator[tuple[str, Tensor]]:
        """Yield the losses to step on in turn, in nats, each with the key in ``MOVES``.

        A loss is computed once the step on the one before it was taken, by the first rank.
        """


# The meta-parameters that each loss moves, by how their names begin.
MOVES = {
    "scorer": ("scorer.", "scorer_loop."),
    "targets": ("targets.",),
    "encoder": ("encoder.", "user_loop."),
}


def moved(meta: MetaParameters, part: str) -> list[torch.nn.Parameter]:
    """Return the meta-parameters that a loss moves."""
    return [p for n, p in meta.named_parameters() if n.startswith(MOVES[part]) and p.requires_grad]


def backward(
    loss: Tensor, parameters: Sequence[torch.nn.Parameter], processes: Processes
) -> Tensor:
    """Leave the gradients of the whole batch's loss in the parameters, and return that loss."""
    for parameter in parameters:
        parameter.grad = None
    loss.backward(inputs=parameters)  # type: ignore[no-untyped-call] # torch leaves it untyped
    whole = loss.detach()
    processes.sum_([whole, *(p.grad for p in parameters if p.grad is not None)])
    return whole


@dataclass(frozen=True, slots=True)
class ScorerBatch(Batch):
    """B tasks for the scorer and its inner loop: candidates, one of which is the event's item."""

    needs: ClassVar = ("scorer", "targets")

    filled: Tensor  # (B, C) bool, false where padded
    inputs: Tensor  # (B, C, I) half precision
    context: Tensor  # (B, X)
    positions: Tensor  # (B,) int64, of the event's item
    actions: Tensor  # (B,) int64
    weights: Tensor  # (B,)
    gradient_sums: Tensor  # (B, decays, P)
    gradient_counts: Tensor  # (B, decays)
    shares: Tensor  # (B, G)
    weight: Tensor  # () of all tasks of the step
    has_several_actions: Tensor  # () bool, of the step

    def __len__(self) -> int:
        """Return B."""
        return len(self.positions)

    def rows(self, part: slice) -> Self:
        """Return some of the tasks."""
        return replace(self, **{k: t[part] for k, t in self.tensors().items() if t.ndim})

    def losses(self, meta: MetaParameters, processes: Processes) -> Iterator[tuple[str, Tensor]]:
        """Yield the listwise loss of the adapted users, and that for their actions' targets."""
        gradients = GradientSums(self.gradient_sums, self.gradient_counts)
        linear, hidden = meta.scorer_loop(gradients, self.shares)
        given, padding = (self.inputs.float(), self.context), ~self.filled

        def loss_at(linear: Tensor, hidden: Tensor) -> Tensor:
            scores = meta.scorer(*given, linear_shift=linear, hidden_shift=hidden)
            scores = scores.masked_fill(padding, float("-inf"))
            losses = F.cross_entropy(scores, self.positions, reduction="none")
            return (self.weights * losses).sum() / self.weight

        yield "scorer", loss_at(linear, hidden)
        if self.has_several_actions:  # else there is nothing to tell apart
            # The scorer was stepped meanwhile.
            processes.broadcast_([p.data for p in moved(meta, "scorer")])
            towards = meta.targets(self.actions)
            yield "targets", loss_at(linear.detach() + towards[0], hidden.detach() + towards[1])


@dataclass(frozen=True, slots=True)
class EncoderBatch(Batch):
    """B tasks for the encoder and the user vector's inner loop, to be learned through its steps.

    What is to be predicted is the event after adaptation and, before it, a sample of the events in
    the histories: a causal encoder predicts them all in the same pass. A target is told by its
    column in a softmax over ``..._items``, each of which stands for e to the ``..._logs`` items.
    """

    needs: ClassVar = ("encoder", "user_loop", "negatives")

    items: Tensor  # (B, T) int64, newest first, -1 padded
    actions: Tensor  # (B, T) int64
    times_s: Tensor  # (B, T) int64
    features: Tensor  # (B, J) int64
    weights: Tensor  # (B,)
    event_columns: Tensor  # (B,) int64, -1 where there is nothing to learn from
    event_items: Tensor  # (M,) int64
    event_logs: Tensor  # (M,)
    event_weight: Tensor  # () of all those of the step that there is something to learn from
    history_tasks: Tensor  # (H,) int64, whose interaction, counted from the first task here
    history_steps: Tensor  # (H,) int64, the interaction before it, oldest first
    history_columns: Tensor  # (H,) int64
    history_items: Tensor  # (M,) int64
    history_logs: Tensor  # (M,)
    n_history: Tensor  # () H of the step

    def __len__(self) -> int:
        """Return B."""
        return len(self.items)

    def rows(self, part: slice) -> Self:
        """Return some of the tasks, and the predictions within their histories."""
        of_task = ("items", "actions", "times_s", "features", "weights", "event_columns")
        mine = (self.history_tasks >= part.start) & (self.history_tasks < part.stop)
        return replace(
            self,
            **{name: getattr(self, name)[part] for name in of_task},
            history_tasks=self.history_tasks[mine] - part.start,
            history_steps=self.history_steps[mine],
            history_columns=self.history_columns[mine],
        )

    def losses(self, meta: MetaParameters, processes: Processes) -> Iterator[tuple[str, Tensor]]:
        """Yield the loss of predicting the events and what was before them."""
        encoder: Encoder = meta.encoder
        encoded: Encoded = encoder(self.items, self.actions, self.times_s, self.features)
        user = encoded.latest + self._shift(meta, encoded, processes)
        known = self.event_columns >= 0
        losses = _item_loss(
            encoder, user[known], self.event_columns[known], self.event_items, self.event_logs
        )
        loss = (self.weights[known] * losses).sum() / self.event_weight
        if self.n_history:
            hidden = encoded.hidden[self.history_tasks, self.history_steps]
            losses = _item_loss(
                encoder, hidden, self.history_columns, self.history_items, self.history_logs
            )
            loss = loss + losses.sum() / self.n_history
        yield "encoder", loss

    def _shift(self, meta: MetaParameters, encoded: Encoded, processes: Processes) -> Tensor:
        """Return the (B, D) shifts of the user vectors, to be learned through."""
        kind, user_loop = meta.config.meta_learning, meta.user_loop
        with torch.set_grad_enabled(kind != "reptile"):
            shift: Tensor = user_loop(
                meta.encoder, encoded, meta.negatives, first_order=kind != "maml"
            )
        if kind == "reptile":
            # Where the steps end stands still; which cluster's start they begin at is learned.
            shares = user_loop.shares(encoded.latest)
            begun = shares @ user_loop.start.detach().clone()
            shift = shift + (begun - begun.detach())
            with torch.no_grad():
                total = shares.sum(0)
                processes.sum_([total])
                moves = mean_moves(user_loop.start, shift, shares, total)
                processes.sum_([moves])
                user_loop.start.add_(moves, alpha=REPTILE_STEP)
        return shift


def _item_loss(
    encoder: Encoder, user: Tensor, column: Tensor, items: Tensor, logs: Tensor
) -> Tensor:
    """Return the (B',) cross-entropies of (B', D) user vectors over (M,) items."""
    logits = torch.addmm(encoder.bias[items] + logs, user, encoder.items[items].T)
    return F.cross_entropy(logits, column, reduction="none")
