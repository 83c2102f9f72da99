"""Features: what an event carries beside user, item and action, as hashed numbers.

Source: Weinberger et al. 2009, feature hashing (arXiv:0902.2206).
"""

import zlib
from collections.abc import Mapping
from typing import Any

N_FEATURES = 1024  # numbers that share embeddings by chance are few among so many
MAX_FEATURES = 8  # of an event, the first in the order of ``name=value``


def features_of(context: Mapping[str, Any]) -> list[int]:
    """Return the numbers of names and values: strings, integers and booleans; others are ignored.

    The same in every process.
    """
    if not context:
        return []
    told = [f"{name}={value}" for name, value in context.items() if isinstance(value, str | int)]
    return [
        zlib.crc32(one.encode(errors="replace")) % N_FEATURES for one in sorted(told)[:MAX_FEATURES]
    ]
