"""Users a second that are adapted and ranked, by the size of the micro-batch, beside its floors.

Two parts, each against what the machine needs for the part's unavoidable work, in the same run:

- *counted*: candidates and counted signals, against reading the rows of the tables that they are
  made from;
- *tensor*: encoder, inner loop and scoring, against their matrix products alone.

And two other ways of the tensor part: one user at a time, with autograd on a copy of the module;
and ``torch.func.vmap`` over users.

Letters: B users, C candidates, D width, I inputs, M negatives, S support, T interactions, W hidden.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.nn import functional as F

from headrace.model.arrays import Floats, Ints
from headrace.model.config import ModelConfig
from headrace.model.counts.candidates import Candidates
from headrace.model.counts.walk import HISTORY
from headrace.model.histories import Histories
from headrace.model.networks.inner_loop import GradientSums, Support
from headrace.model.networks.meta_parameters import MetaParameters
from headrace.model.networks.scorer import N_INPUTS
from headrace.model.recommender import Adapted, Prepared, Recommender
from headrace.streams.bench.measuring import Figure, Row, seconds_of
from headrace.streams.bench.shop import open_shop, states_of
from headrace.streams.prequential import gradient_sums, histories_of
from headrace.streams.settings import Settings

SIZES = (1, 4, 16, 64, 256, 512, 1024, 2048, 4096)  # of a micro-batch
N_USERS = 4_096  # of the shop
LIST_LENGTH = 20
BATCH_USER_BYTES = 500_000  # of a user in a micro-batch: candidates, and what is made of them
ALONE = 32  # users that are adapted one at a time: enough to time them
MOST_MAPPED = 1_024  # users at once for vmap, which keeps all that lies between for all of them


class Batch(NamedTuple):
    """One micro-batch, ready for either part."""

    histories: Histories
    candidates: Candidates
    prepared: Prepared
    gradients: GradientSums


def measure(
    settings: Settings,
    *,
    n_items: int,
    sizes: list[int],
    repeats: int,
    n_users: int = N_USERS,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[Row]:
    """Return a row for each size of a micro-batch; ``on_progress`` is called once for each."""
    shop = open_shop(settings, n_items=n_items, n_users=n_users, n_events=0)
    model = shop.learner.served
    states = list(states_of(shop.learner).values())
    rows: list[Row] = []
    for size in sizes:
        taken = (states * -(-size // len(states)))[:size]
        histories = histories_of(taken, shop.learner.vocabulary)
        rows.append(_row(model, batch_of(model, histories, taken), repeats))
        on_progress(1)
    return rows


def batch_of(model: Recommender, histories: Histories, states: list[Any]) -> Batch:
    """Return users as both parts take them."""
    candidates = model.gather(histories)
    with torch.no_grad():
        prepared = model.prepare(histories, candidates)
    return Batch(histories, candidates, prepared, gradient_sums(model, states))


def _row(model: Recommender, batch: Batch, repeats: int) -> Row:
    """Measure everything in turn, once for each repeat and once before that."""
    n = len(batch.histories.items)
    products = list(_products(model, n, batch.candidates.items.shape[1]))
    few = Batch(*(part_of(part, slice(0, min(n, ALONE))) for part in batch))
    many = Batch(*(part_of(part, slice(0, min(n, MOST_MAPPED))) for part in batch))
    jobs: dict[str, tuple[int, Callable[[], object]]] = {
        "counted": (n, lambda: counted(model, batch)),
        "rows read": (n, lambda: _read_rows(model, batch)),
        "tensor": (n, lambda: adapt_and_rank(model, batch)),
        "products": (n, lambda: [torch.matmul(a, b, out=out) for a, b, out in products]),
        "vmap": (len(many.histories.items), lambda: mapped(model, many)),
        "one at a time": (len(few.histories.items), lambda: one_at_a_time(model, few)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for repeat in range(repeats + 1):
        for name, (n_of_job, job) in jobs.items():
            per_user = seconds_of(_synchronised(model, job)) / n_of_job
            if repeat:  # the first compiles and fills caches
                seconds[name].append(per_user)
    per_second = {name: Figure.of([1 / s for s in found]) for name, found in seconds.items()}
    both = [c + t for c, t in zip(seconds["counted"], seconds["tensor"], strict=True)]
    return {
        "users": str(n),
        "users/s": Figure.of([1 / s for s in both]),
        "counted/s": per_second["counted"],
        "of rows read": per_second["counted"].median / per_second["rows read"].median,
        "tensor/s": per_second["tensor"],
        "of products": per_second["tensor"].median / per_second["products"].median,
        "vmap/s": per_second["vmap"],
        "one at a time/s": per_second["one at a time"],
        "kB read": _read_rows(model, few) / len(few.histories.items) / 1000,
        "Mflop": sum(2 * a.numel() * b.shape[-1] for a, b, _ in products) / n / 1e6,
    }


def _synchronised(model: Recommender, job: Callable[[], object]) -> Callable[[], object]:
    """Return a call that ends when a GPU is done."""
    if model.device.type != "cuda":
        return job

    def call() -> None:
        job()
        torch.cuda.synchronize(model.device)

    return call


def part_of(value: Any, rows: slice) -> Any:
    """Return some users' rows of anything that a batch is made of."""
    if hasattr(value, "rows"):
        return value.rows(rows)
    if isinstance(value, tuple):
        return type(value)(*(part_of(each, rows) for each in value))
    return value[rows]


# ------------------------------------------------------------------------------------ ours


def counted(model: Recommender, batch: Batch) -> None:
    """Gather the candidates and all their counted signals."""
    candidates = model.gather(batch.histories)
    model.coefficients.inputs(candidates.items, batch.histories.items)


@torch.no_grad()
def adapt_and_rank(model: Recommender, batch: Batch) -> tuple[Tensor, Tensor]:
    """Encode, adapt, score and rank: (B, C) scores and (B, K) candidates, first place first."""
    h = batch.histories
    prepared = batch.prepared._replace(
        encoded=model.encode(h.items, h.actions, h.times_s, h.features)
    )
    scores = model.score(prepared, model.adapt(prepared, batch.gradients))
    length = min(LIST_LENGTH, scores.shape[1])
    return scores, model.lists(prepared, scores, length=length)


# -------------------------------------------------------------------------------- other ways


def one_at_a_time(model: Recommender, batch: Batch) -> Tensor:
    """Adapt a copy of the module for each user, with autograd; return the (B, C) scores."""
    scores = []
    for b in range(len(batch.histories.items)):
        h = batch.histories.rows(slice(b, b + 1))
        module = _of_modules(copy.deepcopy(model.meta), model)
        with torch.no_grad():
            encoded = module.encode(h.items, h.actions, h.times_s, h.features)
        prepared = batch.prepared.rows(slice(b, b + 1))._replace(encoded=encoded)
        shift = _descend(module.meta, prepared, _gradient_by_autograd)
        with torch.no_grad():
            adapted = _adapted(module, prepared, part_of(batch.gradients, slice(b, b + 1)), shift)
            scores.append(module.score(prepared, adapted))
    return torch.cat(scores)


def _gradient_by_autograd(support: Support, shift: Tensor) -> Tensor:
    shift = shift.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(support.loss(shift).sum(), shift)
    return gradient


def mapped(model: Recommender, batch: Batch) -> Tensor:
    """Adapt all users by ``vmap`` over what is written for one; return the (B, C) scores."""
    h = batch.histories
    with torch.no_grad():
        encoded = model.encode(h.items, h.actions, h.times_s, h.features)
    prepared, plain = batch.prepared, _of_modules(model.meta, model)

    def of_one(*given: Tensor) -> Tensor:
        items, is_padding, signals, context, shares, hidden, support, latest, sums, counts = (
            tensor[None] for tensor in given
        )
        own = prepared._replace(
            items=items,
            signals=signals,
            context=context,
            encoded=type(encoded)(hidden, support, latest),
            shares=shares,
        )
        shift = _descend(model.meta, own, _gradient_by_functional)
        adapted = _adapted(plain, own, GradientSums(sums, counts), shift)
        scores: Tensor = model.meta.scorer(
            adapted.inputs, context, linear_shift=adapted.linear, hidden_shift=adapted.hidden
        )
        return scores.masked_fill(is_padding, float("-inf"))[0]

    with torch.no_grad():
        scores: Tensor = torch.func.vmap(of_one)(
            prepared.items,
            torch.from_numpy(prepared.candidates.items < 0).to(model.device),
            prepared.signals,
            prepared.context,
            prepared.shares,
            *encoded,
            *batch.gradients,
        )
    return scores


def _of_modules(meta: MetaParameters, model: Recommender) -> Recommender:
    """Return a recommender without fused loops, which no transformation sees through."""
    return Recommender(meta, model.signals, device=str(model.device), use_fused=False)


def _gradient_by_functional(support: Support, shift: Tensor) -> Tensor:
    gradient: Tensor = torch.func.grad(lambda at: support.loss(at).sum())(shift)
    return gradient


def _descend(
    meta: MetaParameters, prepared: Prepared, gradient_of: Callable[[Support, Tensor], Tensor]
) -> Tensor:
    """Take the user loop's steps with a gradient taken in another way."""
    loop, encoded = meta.user_loop, prepared.encoded
    shift = loop.initial(prepared.shares).detach()
    support = Support.of(meta.encoder, encoded, meta.negatives, fade=F.softplus(loop.raw_fade))
    weight = support.weights.sum(1, keepdim=True)
    trust = weight / (weight + F.softplus(loop.raw_patience))
    for step in range(loop.inner_steps):
        gradient = gradient_of(Support(*(part.detach() for part in support)), shift)
        shift = shift - F.softplus(loop.raw_step[step]).detach() * trust.detach() * gradient
    return shift.detach()


def _adapted(
    model: Recommender, prepared: Prepared, gradients: GradientSums, shift: Tensor
) -> Adapted:
    linear, hidden = model.meta.scorer_loop(gradients, prepared.shares)
    return Adapted(model.inputs(prepared, shift), linear, hidden)


# ------------------------------------------------------------------------------------ floors


def _products(model: Recommender, b: int, c: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the operands and the result of every matrix product that B users take."""
    config: ModelConfig = model.meta.config
    d, t, m, w = config.width, config.length, config.negatives, config.hidden
    s, h = t - 1, config.heads
    encoder = [
        ((b * t, d), (d, 3 * d)),
        ((b * h, t, d // h), (b * h, d // h, t)),
        ((b * h, t, t), (b * h, t, d // h)),
        ((b * t, d), (d, d)),
        ((b * t, d), (d, 4 * d)),
        ((b * t, 4 * d), (4 * d, d)),
        ((b * t, d), (d, d)),
    ]
    support = [((b * s, d), (d, m))]
    step = [((b, d), (d, m)), ((b, 1, s), (b, s, m)), ((b, m), (m, d))]
    scorer = [
        ((b, c, d), (b, d, 1)),  # affinity
        ((b, d), (d, m)),
        ((b * c, N_INPUTS), (N_INPUTS, w)),
        ((b * c, w), (w, w)),
        ((b * c, w), (w, 1)),
        ((b * c, N_INPUTS), (N_INPUTS, 1)),
        ((b, c, N_INPUTS), (b, N_INPUTS, 1)),
    ]
    for one, other in [*encoder, *support, *step * config.inner_steps, *scorer]:
        left = torch.randn(one, device=model.device)
        right = torch.randn(other, device=model.device)
        yield left, right, left @ right


def _read_rows(model: Recommender, batch: Batch) -> int:
    """Read every row of the tables that B users need; return how many bytes that is."""
    a = model.signals.arrays
    weights = a.weights.reshape(len(a.weights), -1)
    return int(
        _read(
            *(a.ids, weights, model.coefficients.items),
            *(batch.histories.items[:, :HISTORY], batch.candidates.items),
        )[0]
    )


@njit(cache=True, nogil=True, fastmath=True)
def _read(
    ids: Ints, weights: Floats, regressors: Ints, had: Ints, candidates: Ints
) -> tuple[int, float]:
    n_bytes, total = 0, np.float32(0.0)
    for b in range(len(had)):
        for k in range(had.shape[1]):
            y = had[b, k]
            if y < 0 or (had[b, :k] == y).any():
                continue
            for j in range(ids.shape[1]):
                total += np.float32(ids[y, j])
            for j in range(weights.shape[1]):
                total += weights[y, j]
            n_bytes += 4 * (ids.shape[1] + weights.shape[1])
        for z in candidates[b]:
            if z < 0:
                continue
            for j in range(ids.shape[1]):  # whether it leads to the user's last item
                total += np.float32(ids[z, j])
            n_bytes += 4 * ids.shape[1]
            if z < len(regressors):
                for j in range(regressors.shape[1]):
                    total += np.float32(regressors[z, j])
                n_bytes += 4 * regressors.shape[1]
    return n_bytes, float(total)
