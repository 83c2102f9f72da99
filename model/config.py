"""Sizes of the model. Everything else about it is learned."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

MetaLearning = Literal["fomaml", "maml", "meta_sgd", "anil", "reptile"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """What fixes the shapes of the meta-parameters: checkpoints of unequal ones do not fit."""

    width: int = 32  # D
    blocks: int = 1
    heads: int = 2
    length: int = 32  # T, interactions the encoder sees; at most candidates.HISTORY
    hidden: int = 32  # width of the scoring network
    inner_steps: int = 2
    meta_learning: MetaLearning = "fomaml"  # see inner_loop
    clusters: int = 1  # K, kinds of users whose fast weights start apart
    negatives: int = 256  # M, items every support interaction is contrasted with

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, for a checkpoint."""
        return asdict(self)
