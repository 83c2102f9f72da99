"""Inner loop: adapt all users of a micro-batch at once, each to their own support set.

Fast weights are one row per user, so that one set of batched products adapts B users:

- the user vector's shift takes ``inner_steps`` gradient steps on the support loss: each interaction
  of the history is predicted from those before it, against negatives that all users share;
- the scoring network's shift takes ``inner_steps`` preconditioned steps on a quadratic model of
  the user's listwise loss: its gradient is the mean of those summed as each of their events was
  judged, before it was applied, its curvature is learned.

Initial values, step sizes, the preconditioner, how fast old support fades and how much support it
takes before anything moves are meta-parameters. Gradients are written in closed form: they equal
autograd's (tests/unit/test_inner_loop.py) and serve without a graph.

``ModelConfig.meta_learning`` says how this is learned and what of it:

- ``fomaml``: through the steps, but not through the gradients that they take;
- ``maml``: through those too, second derivatives and all;
- ``meta_sgd``: as ``fomaml``, with a step size for each coordinate of the user vector;
- ``anil``: as ``fomaml``, but only last layers adapt: the user vector and the scorer's linear part;
- ``reptile``: the user vector's start moves towards where the steps end; nothing is learned through
  them. The scorer's loop is learned as ever: without its preconditioner there are no steps.

Sources: Finn et al. 2017, MAML (arXiv:1703.03400); Li et al. 2017, Meta-SGD (arXiv:1707.09835);
Raghu et al. 2019, ANIL (arXiv:1909.09157); Nichol et al. 2018, Reptile (arXiv:1803.02999).

Where fast weights start is mixed from those of the task clusters (``clusters``), G of them.

Letters: B tasks, T interactions, S of them support, D width, G clusters, M negatives, P fast
weights of the scorer: J of its linear part and W of its first layer.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headrace.model.config import ModelConfig
from headrace.model.networks.clusters import new_prototypes
from headrace.model.networks.encoder import Encoded, Encoder
from headrace.model.networks.scorer import N_ADAPTED

# Gradients of judged events are summed twice: over some five recent ones and some fifty.
GRADIENT_DECAYS = (0.8, 0.98)
N_DECAYS = len(GRADIENT_DECAYS)
GRADIENT_LIMIT = 4.0  # in standard deviations of an input: one odd event must not rule a user
_PRECONDITIONER_WIDTH = 32
_SHRINK = 3.0  # judged events that a mean is held against: one of few is mostly noise
LOGIT_LIMIT = 20.0  # what exceeds it is as sure as can be, and sums of exponentials stay finite


def n_scorer_weights(config: ModelConfig) -> int:
    """Return P: the shifts of the linear part and of the first layer."""
    return N_ADAPTED + config.hidden


class GradientSums(NamedTuple):
    """A user's judged events, as decayed sums."""

    sums: Tensor  # (B, decays, P)
    counts: Tensor  # (B, decays)


class UserLoop(nn.Module):
    """The inner loop of the user vector."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.inner_steps = config.inner_steps
        self.prototypes = new_prototypes(config.clusters, config.width)
        self.start = nn.Parameter(torch.zeros(config.clusters, config.width))
        sizes = (config.width,) if config.meta_learning == "meta_sgd" else ()
        self.raw_step = nn.Parameter(torch.zeros(max(1, config.inner_steps), *sizes))
        self.raw_fade = nn.Parameter(torch.tensor(-2.5))  # softplus: 8 % an interaction
        self.raw_patience = nn.Parameter(torch.tensor(1.5))  # softplus: 1.7 interactions

    def shares(self, latest: Tensor) -> Tensor:
        """Return the (B, G) shares of users whose latest hidden vectors are (B, D)."""
        return torch.softmax(latest @ self.prototypes.T, 1)

    def initial(self, shares: Tensor) -> Tensor:
        """Return the (B, D) shifts before any step, of users with (B, G) shares."""
        return shares @ self.start

    def forward(
        self, encoder: Encoder, encoded: Encoded, negatives: Tensor, *, first_order: bool
    ) -> Tensor:
        """Return the (B, D) shift after ``inner_steps`` steps; the start itself without support.

        ``negatives`` is (M,) int64. With ``first_order`` no derivative is taken of a gradient.
        """
        shift = self.initial(self.shares(encoded.latest))
        support = Support.of(encoder, encoded, negatives, fade=F.softplus(self.raw_fade))
        weight = support.weights.sum(1, keepdim=True)  # (B, 1)
        trust = weight / (weight + F.softplus(self.raw_patience))
        for step in range(self.inner_steps):
            gradient = support.gradient(shift)
            if first_order:
                gradient = gradient.detach()
            shift = shift - F.softplus(self.raw_step[step]) * trust * gradient
        return shift


class Support(NamedTuple):
    """What the user vector's inner loop learns from: each interaction given those before it.

    A shift of the user adds to an item's logit what it adds wherever the item is a negative, so the
    exponentials are taken once: each step is two products of them with a vector.
    """

    targets: Tensor  # (B, S, D) embedding of what came next, S = T - 1
    negatives: Tensor  # (M, D)
    target_logits: Tensor  # (B, S) without a shift
    negative_exps: Tensor  # (B, S, M) of the logits without a shift; zero for what came next
    weights: Tensor  # (B, S) fading with age, zero where there is no interaction

    @classmethod
    def of(
        cls, encoder: Encoder, encoded: Encoded, negatives: Tensor, *, fade: Tensor
    ) -> "Support":
        """Take the support set out of encoded histories."""
        given, asked = encoded.items[:, :-1], encoded.items[:, 1:]  # (B, S)
        age = torch.arange(asked.shape[1] - 1, -1, -1, device=asked.device)
        known = ((given >= 0) & (asked >= 0)).float()
        index, hidden = asked.clamp(min=0), encoded.hidden[:, :-1]  # (B, S, D)
        targets = encoder.items[index]
        target = (hidden * targets).sum(-1) + encoder.bias[index]  # (B, S)
        negative = F.linear(hidden, encoder.items[negatives], encoder.bias[negatives])  # (B, S, M)
        is_target = asked[:, :, None] == negatives
        return cls(
            targets=targets,
            negatives=encoder.items[negatives],
            target_logits=target.clamp(-LOGIT_LIMIT, LOGIT_LIMIT),
            negative_exps=negative.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
            .masked_fill_(is_target, float("-inf"))
            .exp_(),
            weights=known * torch.exp(-fade * age),
        )

    def loss(self, shift: Tensor) -> Tensor:
        """Return the (B,) weighted mean cross-entropy; zero without support."""
        target, negatives = self._exps(shift)
        total = target + self._sums(negatives)
        loss = torch.log(total) - torch.log(target)  # (B, S)
        return (self.weights * loss).sum(1) / self.weights.sum(1).clamp(min=1e-6)

    def gradient(self, shift: Tensor) -> Tensor:
        """Return the (B, D) gradient of ``loss``, in closed form: expected minus observed."""
        target, negatives = self._exps(shift)
        sums = self._sums(negatives)
        share = self.weights / self.weights.sum(1, keepdim=True).clamp(min=1e-6) / (target + sums)
        pull = torch.einsum("bs,bsd->bd", share * sums, self.targets)
        push = torch.einsum("bs,bsm->bm", share, self.negative_exps) * negatives
        return push @ self.negatives - pull

    def _exps(self, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Return exponentials for users shifted by (B, D): the (B, S) targets' logits, and what
        the (B, M) negatives' are multiplied by."""
        added = torch.einsum("bd,bsd->bs", shift, self.targets)
        target = self.target_logits + added.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
        negatives = (shift @ self.negatives.T).clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
        return torch.exp(target), torch.exp(negatives)

    def _sums(self, negatives: Tensor) -> Tensor:
        """Return the (B, S) sums over the shifted negatives."""
        return torch.einsum("bsm,bm->bs", self.negative_exps, negatives)


class ScorerLoop(nn.Module):
    """The inner loop of the scoring network."""

    adapts: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.inner_steps = config.inner_steps
        self.n_weights = n_scorer_weights(config)
        self.read = nn.Linear(N_DECAYS * self.n_weights + 1, _PRECONDITIONER_WIDTH)
        self.write = nn.Linear(_PRECONDITIONER_WIDTH, self.n_weights, bias=False)
        nn.init.zeros_(self.write.weight)  # nothing moves until the outer loop learned how
        self.raw_curvature = nn.Parameter(torch.zeros(self.n_weights))  # softplus: 0.7
        self.raw_patience = nn.Parameter(torch.tensor(3.0))  # softplus: 3 judged events
        adapts = torch.ones(self.n_weights)
        adapts[N_ADAPTED:] = config.meta_learning != "anil"
        self.register_buffer("adapts", adapts, persistent=False)  # (P,) 1 or 0
        # A single cluster starts at the scorer itself, which is learned.
        self.start = nn.Parameter(
            torch.zeros(config.clusters, self.n_weights), requires_grad=config.clusters > 1
        )

    def initial(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (B, J) and (B, W) shifts before any step, of users with (B, G) shares."""
        return _split(shares @ self.start)

    def forward(self, gradients: GradientSums, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (B, J) and (B, W) shifts; the start for users without judged events.

        ``shares`` is (B, G).
        """
        counts = gradients.counts
        share = (counts / (counts + _SHRINK))[..., None]  # (B, decays, 1)
        mean = gradients.sums / (counts + _SHRINK)[..., None]  # (B, decays, P)
        curvature = F.softplus(self.raw_curvature)
        seen = counts[:, -1:]
        trust = seen / (seen + F.softplus(self.raw_patience))
        log_seen = torch.log1p(seen)
        shift = torch.zeros_like(mean[:, 0])  # (B, P)
        for _ in range(self.inner_steps):
            ascent = mean - share * curvature * shift[:, None]  # of the likelihood, at the shift
            read = self.read(torch.cat([ascent.flatten(1), log_seen], 1))
            shift = shift + self.write(torch.tanh(read)) * trust * self.adapts
        return _split(shares @ self.start + shift)


def _split(shift: Tensor) -> tuple[Tensor, Tensor]:
    """Return the linear part's and the first layer's share of the scorer's (B, P) fast weights."""
    return shift[:, :N_ADAPTED], shift[:, N_ADAPTED:]
