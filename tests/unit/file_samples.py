"""Files for the tests that read them."""

import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import polars as pl

# The second row is older than the first; rows 1 and 3 share a time and keep their order.
EVENTS = pl.DataFrame(
    {
        "extra": [1, 2, 3],
        "user": ["u1", "u2", "u1"],
        "item": ["a", "b", "c"],
        "event": ["view", "purchase", "click"],
        "timestamp": [1_500_000_000, 1_400_000_000, 1_500_000_000],
    }
)
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
}


def write(folder: Path, name: str, text: str) -> Path:
    """Write a small text file and return its path."""
    path = folder / name
    path.write_text(text)
    return path
