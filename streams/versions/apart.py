"""Parts of versions and deltas that release 0.1.0 does not know, under names of their own.

So it can still read the rest. A file without them was written by 0.1.0: they start anew. Once 0.1.0
is no longer read, they belong among the others, with the next version of their schemas.
"""

from collections.abc import Mapping

import numpy as np
import torch

from headrace.model.counts.tenure import N_TENURES, TenureWeights
from headrace.streams.versions.blobs import Arrays

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
