"""What adapting is measured against: a twin that never adapts, and a placebo.

The same model with its inner loop switched off flatters adaptation, for it was trained to be
adapted. The twin is trained separately without one. The placebo is the adapted model given another
user's support: what it gains is capacity, not the user.

Each is told as the judged tasks are, with users of its own, so that its lists are made as theirs.
"""

import dataclasses

import numpy as np
import torch

from headrace.model.arrays import Longs
from headrace.model.learning.outer_loop import OuterLoop
from headrace.model.networks.encoder import Encoded
from headrace.model.networks.meta_parameters import MetaParameters
from headrace.model.recommender import Recommender
from headrace.streams.learn.learner import Learner
from headrace.streams.prequential import Judged, to_tensors


class Twin:
    """A model without inner steps that learns from the same tasks, at the same cadence."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        torch.manual_seed(learner.settings.seed)  # starts as the other did
        config = dataclasses.replace(learner.recommender.meta.config, inner_steps=0)
        self.outer_loop = OuterLoop(
            Recommender(
                MetaParameters(config),
                learner.signals,
                coefficients=learner.recommender.coefficients,
                device=str(learner.recommender.device),
            ),
            learner.outer_loop.config,
            seed=learner.settings.seed,
        )
        learner.twins.append(self.outer_loop)

    def start_from(self, state: dict[str, torch.Tensor]) -> None:
        """Start from another shop's meta-parameters and items too, less the inner loop's."""
        self.outer_loop.start_from({k: v for k, v in state.items() if "loop." not in k})

    def serve_version(self) -> None:
        """Serve the meta-parameters of now."""
        self.outer_loop.serve_version(len(self._learner.vocabulary))

    @property
    def served(self) -> Recommender:
        """What ranks."""
        return self.outer_loop.served

    def judge(self, judged: Judged) -> Judged:
        """Return the tasks as they are for it, its users as all start."""
        capacity = self._learner.recommender.meta.capacity
        if self.outer_loop.meta.capacity < capacity:
            self.outer_loop.grow(capacity)
        tasks, recommender = judged.tasks, self.served
        with torch.no_grad():
            prepared = recommender.prepare(tasks.histories, judged.prepared.candidates)
            users = recommender.initial(prepared)
        judgement = recommender.judge(prepared, tasks.targets)
        own = dataclasses.replace(
            tasks,
            inputs=users.inputs.cpu().numpy(),
            probabilities=judgement.probabilities,
            shares=prepared.shares.cpu().numpy(),
        )
        return Judged(own, prepared, users, judgement)


def frozen(recommender: Recommender, judged: Judged) -> Judged:
    """Return the users as all start, before any inner step."""
    with torch.no_grad():
        return judged._replace(adapted=recommender.initial(judged.prepared))


def placebo(recommender: Recommender, judged: Judged, owners: Longs) -> Judged:
    """Return users each of whom is adapted to another user's support.

    ``owners`` is (B,): whose each task is. Alone in the micro-batch, a user is not adapted.
    """
    other = another(owners)
    tasks, encoded = judged.tasks, judged.prepared.encoded
    of = torch.from_numpy(np.maximum(other, 0)).to(recommender.device)
    counts = np.where(other[:, None] >= 0, tasks.gradient_counts[other], 0)
    sums = to_tensors(recommender, tasks.gradient_sums[other], counts)
    alone = torch.from_numpy(other < 0).to(recommender.device)
    support = Encoded(
        encoded.hidden[of],
        encoded.items[of].masked_fill(alone[:, None], -1),
        encoded.latest,  # where a user starts is known before any support
    )
    with torch.no_grad():
        adapted = recommender.adapt(judged.prepared, sums, support=support)
    return judged._replace(adapted=adapted)


def another(owners: Longs) -> Longs:
    """Return for each task the next one of another user, around the end; -1 if there is none."""
    n = len(owners)
    found = np.full(n, -1, np.int64)
    for step in range(1, n):
        open_ = np.flatnonzero(found < 0)
        if not len(open_):
            break
        candidates = (open_ + step) % n
        differs = owners[candidates] != owners[open_]
        found[open_[differs]] = candidates[differs]
    return found
