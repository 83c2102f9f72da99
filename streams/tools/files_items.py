"""Items from files of any of the known formats: a catalogue, as the wire's ``Item``.

A file that does not fit is refused as a whole, as one of events is.
"""

from pathlib import Path
from typing import Any

import polars as pl

from headrace.streams.errors import InputFileError, MalformedRecordError
from headrace.streams.fields import MAX_ID_BYTES, vectors_of
from headrace.streams.records import Item
from headrace.streams.tools.purchases import SAMPLE, completejourney
from headrace.streams.tools.tables import (
    SHOWN_LETTERS,
    collect,
    converting,
    ids_of,
    names_of,
    refuse_nested,
    require,
    scan,
)
from headrace.streams.wire import decode_item, encode

CATEGORY_COLUMNS = ("department", "category", "type")  # from the widest to the finest
ITEM_COLUMNS = ("item", "title", "price", "text", "active", "vectors", "categories")
USABLE = {
    "item": f"text or a whole number, up to {MAX_ID_BYTES} bytes",
    "price": "a number such as 12.5",
    "active": "true or false",
}
FLAGS = {"true": True, "1": True, "false": False, "0": False}  # in any case


def read_items(path: str | Path) -> list[Item]:
    """Read a catalogue: column item; optional title, price, text, active, vectors, and categories.

    Categories are a list, text separated by ``|``, or the columns department, category and type.
    ``active`` is true or false, 1 or 0; missing means true. ``vectors`` are a map of
    names to lists of numbers, which JSON lines and Parquet can hold.

    Raises:
        InputFileError: the column is missing, a column is of a wrong kind, a row has no usable
            value in one, or these are events.
    """
    frame = scan(path)
    names = names_of(frame, path)
    require([] if "item" in names else ["item"], names, path)
    if "user" in names:  # every title would be replaced by none
        raise InputFileError(
            f"{path}: the column user says that these are events: a catalogue has a row for each"
            " item, and no user (`headrace produce` takes events without --items)"
        )
    wanted = [name for name in (*ITEM_COLUMNS, *CATEGORY_COLUMNS) if name in names]
    table = collect(frame.select(wanted), path)
    _refuse_misfits(table.schema, path)
    with converting(path):
        items = ids_of(table["item"])
        texts = (pl.col(name).cast(pl.String) for name in ("title", "text") if name in wanted)
        table = table.with_columns(_categories(table), *texts)
    is_good = items.str.len_bytes().is_between(1, MAX_ID_BYTES).fill_null(value=False)
    _refuse_bad_value(table["item"], ~is_good, path)
    table = table.with_columns(items)
    for name, read in (("price", _numbers), ("active", _flags)):
        if name in wanted:
            given = _without_blanks(table[name])
            table = table.with_columns(read(given))
            _refuse_bad_value(given, given.is_not_null() & table[name].is_null(), path)
    rows = enumerate(table.iter_rows(named=True), start=1)
    return [_item(row, f"{path}: row {number}") for number, row in rows]


def _refuse_misfits(schema: pl.Schema, path: str | Path) -> None:
    if not _is_map(schema.get("vectors", pl.Null())):
        raise InputFileError(
            f"{path}: vectors must be a map of names to lists of numbers in every row, which JSON"
            " lines and Parquet can hold"
        )
    listed = schema.get("categories")
    fits = {"vectors"}
    if isinstance(listed, pl.List) and not listed.inner.is_nested():
        fits.add("categories")
    nested = [name for name, dtype in schema.items() if dtype.is_nested()]
    refuse_nested([name for name in nested if name not in fits], path)


def _is_map(dtype: pl.DataType) -> bool:
    if not isinstance(dtype, pl.List | pl.Array):
        return dtype.is_nested() or dtype == pl.Null
    pairs = dtype.inner  # before version 2, polars reads a map of Parquet's as a list of them
    return isinstance(pairs, pl.Struct) and [f.name for f in pairs.fields] == ["key", "value"]


def _refuse_bad_value(given: pl.Series, is_bad: pl.Series, path: str | Path) -> None:
    if (row := is_bad.arg_max()) is not None and is_bad[row]:
        shown = repr(given[row])[:SHOWN_LETTERS]
        raise InputFileError(
            f"{path}: row {row + 1} has no usable {given.name}: it is {shown}, and must be"
            f" {USABLE[given.name]}"
        )


def _without_blanks(values: pl.Series) -> pl.Series:
    """Return values of a text column without the space around; null where there is no more."""
    if values.dtype != pl.String:
        return values
    stripped = values.str.strip_chars()
    return stripped.set(stripped == "", None)


def _numbers(values: pl.Series) -> pl.Series:
    """Return finite numbers; null where there is none to be made out."""
    if not (values.dtype.is_numeric() or values.dtype == pl.String):  # a date is no price
        return pl.repeat(None, len(values), dtype=pl.Float64, eager=True).alias(values.name)
    numbers = values.cast(pl.Float64, strict=False)
    return numbers.set(~numbers.is_finite(), None)


def _flags(values: pl.Series) -> pl.Series:
    """Return true or false; null where neither is to be made out."""
    if values.dtype == pl.Boolean:
        return values
    if not (values.dtype.is_integer() or values.dtype == pl.String):
        return pl.repeat(None, len(values), dtype=pl.Boolean, eager=True).alias(values.name)
    lower = values.cast(pl.String).str.to_lowercase()
    return lower.replace_strict(FLAGS, default=None, return_dtype=pl.Boolean)


def _categories(table: pl.DataFrame) -> pl.Expr:
    if "categories" not in table.columns:
        parts = [pl.col(name).cast(pl.String) for name in CATEGORY_COLUMNS if name in table.columns]
        listed = pl.concat_list(parts) if parts else pl.lit([], dtype=pl.List(pl.String))
    elif isinstance(table.schema["categories"], pl.List):
        listed = pl.col("categories").cast(pl.List(pl.String))
    else:
        listed = pl.col("categories").cast(pl.String).str.split("|")
    word = pl.element().str.strip_chars()
    return listed.list.eval(word.filter(word.is_not_null() & (word != ""))).alias("categories")


def _item(row: dict[str, Any], where: str) -> Item:
    try:
        vectors = vectors_of(_named(row.get("vectors")))
    except MalformedRecordError as exc:
        raise InputFileError(f"{where} has no usable vectors: {exc}") from exc
    item = Item(
        item=row["item"],
        title=row.get("title") or "",
        categories=tuple(row["categories"] or ()),
        price=row.get("price"),
        text=row.get("text") or "",
        vectors=vectors,
        active=row.get("active") is not False,
    )
    try:
        decode_item(encode(item), key=None)  # later, a part of the catalogue would be published
    except MalformedRecordError as exc:
        raise InputFileError(f"{where} cannot be published: {exc}") from exc
    return item


def _named(vectors: Any) -> dict[str, Any]:
    """Return a row's vectors by name, without the names that only other rows have."""
    if isinstance(vectors, list):
        vectors = {pair["key"]: pair["value"] for pair in vectors if pair}
    return {name: numbers for name, numbers in (vectors or {}).items() if numbers is not None}


def load_items(name: str) -> list[Item]:
    """Read the catalogue that a person names: a file, or that of the purchases.

    Raises:
        InputFileError: it cannot be read.
    """
    return completejourney()[1] if name == SAMPLE else read_items(name)
