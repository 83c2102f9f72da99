"""Sizes of the model, and how its outer loop learns."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

N_ACTIONS = 8  # known actions and one for all others
# H, interactions of each user that the model sees: so many, or more where one has more and the
# state keeps them.
REMEMBERED = 200
MOST_REMEMBERED = 1_000

MetaLearning = Literal["fomaml", "maml", "meta_sgd", "anil", "reptile"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """What fixes the shapes of the meta-parameters: checkpoints of unequal ones do not fit."""

    width: int = 32  # D
    blocks: int = 1
    heads: int = 2
    length: int = 32  # T, interactions the encoder sees, at most REMEMBERED
    hidden: int = 32  # width of the scoring network
    inner_steps: int = 2
    meta_learning: MetaLearning = "fomaml"  # see inner_loop
    clusters: int = 1  # G, kinds of users whose fast weights start apart
    negatives: int = 256  # M, items every support interaction is contrasted with

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, for a checkpoint."""
        return asdict(self)


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
