"""Events and items from files of any of the known formats.

Events come back as a table (user, item, action, time_ms) in event-time order, items as the wire's
``Item``. A file that does not fit is refused as a whole, with the columns or the row to fix:
better before the first record is published than after.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from headrace.streams.errors import InputFileError, MalformedRecordError
from headrace.streams.purchases import completejourney
from headrace.streams.state import NOT_ENGAGED
from headrace.streams.tables import STDIN, collect, converting, names_of, require, scan
from headrace.streams.wire import (
    MAX_ACTION_LETTERS,
    MAX_ID_BYTES,
    MAX_REC_ID_BYTES,
    MAX_TIME_MS,
    WITHOUT_ITEM,
    Event,
    Item,
    decode_item,
    encode,
    vectors_of,
)

__all__ = ["completejourney", "load_events", "load_items", "read_events", "read_items"]

SAMPLE = "completejourney"  # stands for a file: a year of real purchases

FIELDS = ("user", "item", "action", "time_ms")
ALIASES = {"event": "action", "timestamp": "time_ms"}  # as files in the field name them
NAMES = {"event_id": MAX_ID_BYTES, "rec_id": MAX_REC_ID_BYTES}  # that events may have, in bytes
CATEGORY_COLUMNS = ("department", "category", "type")  # from the widest to the finest
ITEM_COLUMNS = ("item", "title", "price", "text", "active", "vectors", "categories")
FLAGS = {"true": True, "1": True, "false": False, "0": False}  # as text in any case
MS_FROM = 1e11  # as seconds this is the year 5138, as milliseconds March 1973: seconds lie below
# Of whole numbers as floats; beyond, several ids would become one.
LARGEST_EXACT = {"Float64": 2**53 - 1, "Float32": 2**24 - 1, "Float16": 2**11 - 1}
SHOWN_LETTERS = 300  # of a bad row


# ---------------------------------------------------------------------------------------- events


def read_events(
    path: str | Path,
    *,
    now_ms: int | None = None,
    also: Sequence[str] = (),
    context: Sequence[str] = (),
    is_named: bool = False,
) -> pl.DataFrame:
    """Read interactions: columns user, item, event (or action), timestamp (or time_ms).

    A timestamp is in Unix seconds or milliseconds, or ISO text (UTC where it names no zone);
    ``time_ms`` is in milliseconds. With ``now_ms``, as for events typed by hand, a missing time
    means now and a missing action means click. ``-`` reads standard input, as JSON lines or TSV.
    Columns named in ``also`` come along as they are; those named in ``context`` as one, a struct,
    which a file of JSON lines may also have of that name. With ``is_named`` there are the columns
    event_id and rec_id where the file has them, with nulls where a row has none.

    Raises:
        InputFileError: a column is missing, or a row has no usable value in one.
    """
    frame = scan(path)
    names = names_of(frame, path)
    is_ms = "time_ms" in names
    columns = {ALIASES.get(name, name): name for name in names if ALIASES.get(name) not in names}
    expected = {"user": "user", "item": "item", "action": "event", "time_ms": "timestamp"}
    typed = () if now_ms is None else ("item", "action", "time_ms")
    stand_ins = {name: pl.lit(None) for name in typed}
    require(
        [shown for name, shown in expected.items() if name not in columns.keys() | stand_ins.keys()]
        + [name for name in (*also, *context) if name not in names],
        names,
        path,
    )
    given = {name: pl.col(columns[name]) for name in expected if name in columns}
    given |= {name: pl.col(name) for name in also}
    if context:
        given["context"] = pl.struct(context)
    elif isinstance(frame.collect_schema().get("context"), pl.Struct):
        given["context"] = pl.col("context")
    ids = [name for name in NAMES if is_named and name in names]
    given |= {name: pl.col(name) for name in ids}
    also = [name for name in given if name not in expected]
    table = collect(frame.select(**(stand_ins | given)).select([*expected, *also]), path)
    as_written = {
        name: table[name].alias(columns.get(name, name))
        for name in expected
        if name in columns or name == "item"
    } | {name: table[name] for name in ids}
    nested = [name for name in as_written if table[name].dtype.is_nested()]
    _refuse_nested([as_written[name].name for name in nested], path)
    with converting(path):
        times = _times_ms(table["time_ms"], is_ms=is_ms)
        if now_ms is not None:
            times = times.zip_with(table["time_ms"].is_not_null(), pl.Series([now_ms]))
            table = table.with_columns(pl.col("action").fill_null("click"))
        table = table.with_columns(
            *(_ids(table[name]) for name in ("user", "item")),
            *(_given_ids(table[name]) for name in ids),
            pl.col("action").cast(pl.String),
            times.alias("time_ms"),
        )
        needs_item = ~pl.col("action").is_in(WITHOUT_ITEM).fill_null(value=False)
        table = table.with_columns(pl.when(needs_item).then("item").otherwise(pl.lit("")))
    _refuse_bad_rows(table, as_written, path)
    return table.sort("time_ms", maintain_order=True)


def interactions(events: pl.DataFrame) -> pl.DataFrame:
    """Return what users did with items, without what they were shown, undid or asked for."""
    return events.filter(~pl.col("action").is_in(list(NOT_ENGAGED)))


def events_of(table: pl.DataFrame) -> Iterator[Event]:
    """Yield the rows of a table of events."""
    columns = [name for name in (*FIELDS, *NAMES, "context") if name in table.columns]
    for row in table.select(columns).iter_rows(named=True):
        context = row.pop("context", None) or {}
        told = {name: value for name, value in context.items() if value is not None}
        yield Event(**row, context=told)


def _ids(values: pl.Series) -> pl.Series:
    """Return ids as text; null where there is none to be made out: a fraction, a truth."""
    if values.dtype == pl.Boolean:
        return pl.repeat(None, len(values), dtype=pl.String, eager=True).alias(values.name)
    if values.dtype.is_float():  # one fraction, or one gap of a data frame, makes all numbers so
        whole = values.cast(pl.Int64, strict=False)
        largest = LARGEST_EXACT[str(values.dtype)]
        values = whole.set((whole != values) | (whole.abs() > largest), None)
    return values.cast(pl.String)


def _given_ids(values: pl.Series) -> pl.Series:
    """Return ids as text, null where none is given; empty, and so refused, where it is unusable."""
    ids = _ids(values)
    return ids.set(ids.is_null() & values.is_not_null(), "")


def _times_ms(times: pl.Series, *, is_ms: bool) -> pl.Series:
    """Return milliseconds; null where there is no time to be made out."""
    if times.dtype in (pl.Time, pl.Duration):  # as numbers they could pass for milliseconds
        return pl.repeat(None, len(times), dtype=pl.Int64, eager=True)
    if times.dtype.is_temporal():
        return times.cast(pl.Datetime("ms")).cast(pl.Int64)
    numbers = times.cast(pl.Float64, strict=False)
    if not is_ms:
        numbers = numbers.to_frame("t").select(
            pl.when(pl.col("t").abs() < MS_FROM).then(pl.col("t") * 1000).otherwise(pl.col("t"))
        )["t"]
    whole = numbers.round().cast(pl.Int64, strict=False)
    if times.dtype != pl.String:
        return whole
    return whole.zip_with(whole.is_not_null(), times.map_elements(_iso_ms, return_dtype=pl.Int64))


def _iso_ms(text: str) -> int | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def _refuse_nested(nested: Sequence[str], path: str | Path) -> None:
    if nested:
        raise InputFileError(f"{path}: lists or maps, not text or numbers, in: {', '.join(nested)}")


def _refuse_bad_rows(
    table: pl.DataFrame, as_written: Mapping[str, pl.Series], path: str | Path
) -> None:
    """Refuse events with an unusable value, showing the first; each value has the file's name."""
    is_good = table.select(
        pl.col("user").str.len_bytes().is_between(1, MAX_ID_BYTES),
        pl.col("item").str.len_bytes().is_between(1, MAX_ID_BYTES)
        | pl.col("action").is_in(WITHOUT_ITEM),
        pl.col("action").str.len_chars().is_between(1, MAX_ACTION_LETTERS),
        pl.col("time_ms").is_between(0, MAX_TIME_MS),
        *(
            pl.col(name).is_null() | pl.col(name).str.len_bytes().is_between(1, NAMES[name])
            for name in as_written.keys() & NAMES.keys()
        ),
    ).fill_null(value=False)
    bad = is_good.select(pl.all_horizontal(pl.all()).not_().arg_true()).to_series()
    if len(bad):
        row = int(bad[0])
        first = {values.name: values[row] for values in as_written.values()}
        lacking = [values.name for name, values in as_written.items() if not is_good[name][row]]
        raise InputFileError(
            f"{path}: {len(bad)} of {len(table)} rows lack a usable value;"
            f" the first is row {row + 1}, in {', '.join(lacking)}: {str(first)[:SHOWN_LETTERS]}"
        )


# ----------------------------------------------------------------------------------------- items


def read_items(path: str | Path) -> list[Item]:
    """Read a catalogue: column item; optional title, price, text, active, vectors, and categories.

    Categories are a list, text separated by ``|``, or the columns department, category and type.
    ``active`` is true or false, as text also 1 or 0; missing means true. ``vectors`` are a map of
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
        items = _ids(table["item"])
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
    _refuse_nested([name for name in nested if name not in fits], path)


def _is_map(dtype: pl.DataType) -> bool:
    if not isinstance(dtype, pl.List | pl.Array):
        return dtype.is_nested() or dtype == pl.Null
    pairs = dtype.inner  # before version 2, polars reads a map of Parquet's as a list of them
    return isinstance(pairs, pl.Struct) and [f.name for f in pairs.fields] == ["key", "value"]


def _refuse_bad_value(given: pl.Series, is_bad: pl.Series, path: str | Path) -> None:
    if (row := is_bad.arg_max()) is not None and is_bad[row]:
        shown = repr(given[row])[:SHOWN_LETTERS]
        raise InputFileError(f"{path}: row {row + 1} has no usable {given.name}: it is {shown}")


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
    if values.dtype != pl.String:
        return pl.repeat(None, len(values), dtype=pl.Boolean, eager=True).alias(values.name)
    lower = values.str.to_lowercase()
    return lower.replace_strict(FLAGS, default=None, return_dtype=pl.Boolean)


def _categories(table: pl.DataFrame) -> pl.Expr:
    if "categories" not in table.columns:
        parts = [pl.col(name).cast(pl.String) for name in CATEGORY_COLUMNS if name in table.columns]
        listed = pl.concat_list(parts) if parts else pl.lit([], dtype=pl.List(pl.String))
    elif isinstance(table.schema["categories"], pl.List):
        listed = pl.col("categories").cast(pl.List(pl.String))
    else:
        listed = pl.col("categories").cast(pl.String).str.split("|")
    return listed.list.eval(
        pl.element().filter(pl.element().is_not_null() & (pl.element() != ""))
    ).alias("categories")


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


# ------------------------------------------------------------------------------ the command line


def load_events(
    name: str,
    *,
    also: Sequence[str] = (),
    context: Sequence[str] = (),
    is_named: bool = False,
) -> pl.DataFrame:
    """Read the events a person names: a file, ``-``, or the sample; see ``read_events``.

    Raises:
        InputFileError: they cannot be read, or there are none.
    """
    if name == SAMPLE:
        events = completejourney()[0]
        asked = [*also, *context]
        require([column for column in asked if column not in events.columns], events.columns, name)
        return events
    now_ms = int(time.time() * 1000) if name == STDIN else None
    events = read_events(name, now_ms=now_ms, also=also, context=context, is_named=is_named)
    if events.is_empty():
        raise InputFileError(f"{name}: there are no events in it")
    return events


def load_items(name: str) -> list[Item]:
    """Read the catalogue a person names: a file, or the sample's.

    Raises:
        InputFileError: it cannot be read.
    """
    return completejourney()[1] if name == SAMPLE else read_items(name)
