"""What 0.1.0 does not know stands apart in versions and deltas, so that it reads the rest of them.

Where it is missing, 0.1.0 was the writer: then it is as it starts. Once 0.1.0 is no longer read, it
belongs among the others, with the next version of their schemas.
"""

from collections.abc import Mapping

import numpy as np
import torch

from headrace.model.tenure import N_TENURES, TenureWeights
from headrace.streams.store import Arrays

_META = "meta.scorer.tenure."
_APART = "tenure."


def arrays_of(meta: Mapping[str, torch.Tensor]) -> Arrays:
    """Return meta-parameters as the arrays of a file."""
    arrays = {f"meta.{name}": tensor.detach().cpu().numpy() for name, tensor in meta.items()}
    return {name.replace(_META, _APART): array for name, array in arrays.items()}


def complete(arrays: Arrays) -> None:
    """Put what stands apart in its place.

    Raises:
        KeyError, TypeError: there are not even the meta-parameters that 0.1.0 knew.
    """
    hidden = arrays["meta.scorer.first.bias"].size  # not its length, which takes no bytes
    if "signals.items" in arrays:
        n_items = arrays["signals.items"].size
        arrays.setdefault("signals.tenures", np.zeros((n_items, N_TENURES), np.float32))
    for name, start in TenureWeights(hidden).state_dict().items():
        arrays[_META + name] = arrays.pop(_APART + name, start.numpy())
