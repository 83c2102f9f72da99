"""Data parallelism: several processes compute the gradients of a batch, each those of its part.

The first rank has the outer loop. The others keep nothing from one batch to the next: with its part
of a batch, each is given the meta-parameters that the losses need. So nothing that happens to the
first (items come and go, versions, restarts) has to be repeated by the others.

What travels is tensors, as safetensors: nothing that carries code.
"""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from safetensors.torch import load, save
from torch import Tensor
from torch import distributed as dist

from headrace.model.learning.losses import (
    Batch,
    EncoderBatch,
    Processes,
    ScorerBatch,
    backward,
    moved,
)
from headrace.model.networks.meta_parameters import MetaParameters

FIRST = 0
_KINDS: tuple[type[Batch], ...] = (ScorerBatch, EncoderBatch)
_META = "meta."


class RankLostError(RuntimeError):
    """Another rank has ended, or does not answer. Operator action: see its log, start all again."""


class SeveralProcesses(Processes):
    """The processes of torch's default group; all methods raise ``RankLostError``."""

    def share(self, batch: Batch, meta: MetaParameters) -> Batch:
        """Give each rank its part of a batch, and what it needs of ``meta``; return ours."""
        n = dist.get_world_size()
        bounds = [len(batch) * rank // n for rank in range(n + 1)]
        parts = [batch.rows(slice(*bounds[rank : rank + 2])) for rank in range(n)]
        needed = {
            _META + name: value.contiguous()
            for name, value in meta.state_dict().items()
            if name.startswith(batch.needs)
        }
        for rank in range(FIRST + 1, n):
            packed = save(needed | parts[rank].tensors())
            blob = torch.frombuffer(bytearray(packed), dtype=torch.uint8)
            _call(dist.send, torch.tensor([_KINDS.index(type(batch)), len(blob)]), rank)
            _call(dist.send, blob, rank)
        return parts[FIRST]

    def receive(self, meta: MetaParameters) -> Batch:
        """Return our part of the batch that the first rank shares next, and update ``meta``."""
        head = torch.empty(2, dtype=torch.int64)
        _call(dist.recv, head, FIRST)
        kind, size = head.tolist()
        blob = torch.empty(size, dtype=torch.uint8)
        _call(dist.recv, blob, FIRST)
        tensors = load(blob.numpy().tobytes())
        needed = {k.removeprefix(_META): v for k, v in tensors.items() if k.startswith(_META)}
        if len(needed.get("encoder.bias", ())) > meta.capacity:
            meta.grow(len(needed["encoder.bias"]))
        meta.load_state_dict(needed, strict=False)
        part = {name: value for name, value in tensors.items() if not name.startswith(_META)}
        batch: Batch = _KINDS[kind](**part)
        return batch

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all ranks."""
        self._at_once(dist.all_reduce, tensors)

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by those of the first rank."""
        self._at_once(dist.broadcast, tensors, FIRST)

    @staticmethod
    def _at_once(call: Callable[..., object], tensors: Sequence[Tensor], *of: int) -> None:
        flat = torch.cat([tensor.flatten() for tensor in tensors]).cpu()  # all that gloo can do
        _call(call, flat, *of)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def _call(call: Callable[..., object], *arguments: Any) -> None:
    try:
        call(*arguments)
    except RuntimeError as exc:  # of gloo; it has no class of its own
        raise RankLostError(
            "a process that computes a part of the gradients has ended or does not answer:"
            " its own lines say why; start the role again"
        ) from exc


def compute_forever(
    meta: MetaParameters, processes: SeveralProcesses, device: torch.device
) -> NoReturn:
    """Compute the gradients of our parts of what the first rank shares.

    Raises:
        RankLostError: the first rank has ended.
    """
    meta.to(device)
    while True:
        batch = processes.receive(meta).to(device)
        for part, loss in batch.losses(meta, processes):
            backward(loss, moved(meta, part), processes)
