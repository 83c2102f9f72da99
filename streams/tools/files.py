"""Events from files of any of the known formats.

They come back as a table (user, item, action, time_ms) in event-time order. A file that does not
fit is refused as a whole, with the columns or the row to fix: better before the first record is
published than after.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl

from headrace.streams.actions import KNOWN, NOT_ENGAGED, WITHOUT_ITEM, meant_by
from headrace.streams.errors import InputFileError
from headrace.streams.fields import (
    MAX_ACTION_LETTERS,
    MAX_AHEAD_MS,
    MAX_ID_BYTES,
    MAX_REC_ID_BYTES,
    MAX_TIME_MS,
    MS_FROM,
)
from headrace.streams.records import Event
from headrace.streams.tools.purchases import SAMPLE, completejourney
from headrace.streams.tools.tables import (
    SHOWN_LETTERS,
    STDIN,
    collect,
    converting,
    ids_of,
    names_of,
    refuse_nested,
    require,
    scan,
    whole_numbers,
)

FIELDS = ("user", "item", "action", "time_ms")
ALIASES = {"event": "action", "timestamp": "time_ms"}  # as files in the field name them
ITEMS_ALONE = ("title", "categories", "price", "vectors")  # columns that no events have
DAYS = (19_700_101, 99_991_231)  # as seconds, August 1970 to March 1973: no shop's events
MOST_ACTIONS = 100  # that are looked at for misspelt ones: where there are more, they are ids
NAMES = {"event_id": MAX_ID_BYTES, "rec_id": MAX_REC_ID_BYTES}  # that events may have, in bytes
# What a value must be, by the name that the file has for its column.
USABLE = dict.fromkeys(("user", "item"), f"text or a whole number, up to {MAX_ID_BYTES} bytes")
USABLE |= {name: f"text or a whole number, up to {limit} bytes" for name, limit in NAMES.items()}
USABLE |= dict.fromkeys(("event", "action"), f"a word of up to {MAX_ACTION_LETTERS} letters")
_ISO = "ISO text such as 2026-11-29T10:15:00+02:00"
USABLE["time_ms"] = f"milliseconds since 1970 or {_ISO}"
USABLE["timestamp"] = f"seconds or milliseconds since 1970, {_ISO}, or a day such as 20261129"


def read_events(
    path: str | Path,
    *,
    now_ms: int | None = None,
    also: Sequence[str] = (),
    context: Sequence[str] = (),
    is_named: bool = False,
) -> pl.DataFrame:
    """Read interactions: columns user, item, event (or action), timestamp (or time_ms).

    A timestamp is in Unix seconds or milliseconds, or ISO text (UTC where it names no zone), or a
    day such as 20261129, which is never seconds; ``time_ms`` is in milliseconds. With ``now_ms``,
    as for events typed by hand, a missing time means now and a missing action means click. ``-``
    reads standard input, as JSON lines or TSV. Columns named in ``also`` come along as they are;
    those named in ``context`` as one, a struct, which a file of JSON lines may also have of that
    name. With ``is_named`` there are the columns event_id and rec_id where the file has them, with
    nulls where a row has none.

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
    told = [name for name in ITEMS_ALONE if name in names]
    if told and not columns.keys() & {"user", "action", "time_ms"}:
        raise InputFileError(
            f"{path}: the column {told[0]}, and none for users, says that these are items:"
            " `headrace produce --items` takes them"
        )
    require(
        [shown for name, shown in expected.items() if name not in columns.keys() | stand_ins.keys()]
        + [name for name in (*also, *context) if name not in names],
        names,
        path,
    )
    given = {name: pl.col(columns[name]) for name in expected if name in columns}
    schema = frame.collect_schema()
    if {"action", "event"} <= set(names) and schema["event"] == pl.String:  # as on the wire
        action = pl.when(pl.col("action").cast(pl.String) != "").then(pl.col("action"))
        given["action"] = action.fill_null(pl.col("event"))
    given |= {name: pl.col(name) for name in also}
    if context:
        given["context"] = pl.struct(context)
    elif isinstance(schema.get("context"), pl.Struct):
        given["context"] = pl.col("context")
    ids = [name for name in NAMES if is_named and name in names]
    given |= {name: pl.col(name) for name in ids}
    also = [name for name in given if name not in expected]
    table = collect(frame.select(**(stand_ins | given)).select([*expected, *also]), path)
    if "context" in given:
        table = _with_usable_context(table, asked=context, path=path)
    as_written = {
        name: table[name].alias(columns.get(name, name))
        for name in expected
        if name in columns or name == "item"
    } | {name: table[name] for name in ids}
    nested = [name for name in as_written if table[name].dtype.is_nested()]
    refuse_nested([as_written[name].name for name in nested], path)
    with converting(path):
        times = _times_ms(table["time_ms"], is_ms=is_ms)
        if now_ms is not None:
            times = times.zip_with(table["time_ms"].is_not_null(), pl.Series([now_ms]))
            table = table.with_columns(pl.col("action").fill_null("click"))
        table = table.with_columns(
            *(ids_of(table[name]) for name in ("user", "item")),
            *(_given_ids(table[name]) for name in ids),
            _spelt(table["action"].cast(pl.String)),
            times.alias("time_ms"),
        )
        needs_item = ~pl.col("action").is_in(WITHOUT_ITEM).fill_null(value=False)
        table = table.with_columns(pl.when(needs_item).then("item").otherwise(pl.lit("")))
    _refuse_bad_rows(table, as_written, path)
    return table.sort("time_ms", maintain_order=True)


def _spelt(actions: pl.Series) -> pl.Series:
    """Return them as the wire does: known ones in our letters."""
    folded = actions.str.to_lowercase()
    return folded.zip_with(folded.is_in(list(KNOWN)).fill_null(value=False), actions)


def interactions(events: pl.DataFrame) -> pl.DataFrame:
    """Return what users did with items, without what they were shown, undid or asked for."""
    return events.filter(~pl.col("action").is_in(list(NOT_ENGAGED)))


def counted_once(events: pl.DataFrame) -> pl.DataFrame:
    """Return events less those that came before under the same ``event_id``, and without ids."""
    if "event_id" in events.columns:
        is_first = pl.struct("user", "event_id", "action", "item").is_first_distinct()
        events = events.filter(pl.col("event_id").is_null() | is_first)
    return events.drop(NAMES, strict=False)


def misspelt(events: pl.DataFrame) -> dict[str, str]:
    """Return the actions that are close to known ones, and those."""
    actions = events["action"].unique(maintain_order=True).head(MOST_ACTIONS)
    meant = {action: meant_by(action, NOT_ENGAGED) for action in actions}
    return {action: known for action, known in meant.items() if known}


def days_before_1973(events: pl.DataFrame) -> tuple[date, date] | None:
    """Return the first day and the last where some are too early for a shop, as in another unit."""
    if events.is_empty() or events["time_ms"][0] >= MS_FROM:  # in order of time
        return None
    first, last = events["time_ms"].gather([0, -1]).cast(pl.Datetime("ms")).dt.date()
    return first, last


def events_of(table: pl.DataFrame) -> Iterator[Event]:
    """Yield the rows of a table of events."""
    columns = [name for name in (*FIELDS, *NAMES, "context") if name in table.columns]
    for row in table.select(columns).iter_rows(named=True):
        context = row.pop("context", None) or {}
        told = {name: value for name, value in context.items() if value is not None}
        yield Event(**row, context=told)


def refuse_future(events: pl.DataFrame, name: str) -> None:
    """Refuse events, in the order of their times, that every role would set aside for these.

    Raises:
        InputFileError: some are of more than a day ahead, as dates read as milliseconds are.
    """
    n_ahead = int((events["time_ms"] > int(time.time() * 1000) + MAX_AHEAD_MS).sum())
    if n_ahead:
        latest = pl.Series([events["time_ms"][-1]]).cast(pl.Datetime("ms", "UTC"))[0]
        raise InputFileError(
            f"{name}: {n_ahead} of {len(events)} events are of more than a day ahead, the latest of"
            f" {latest.isoformat(timespec='seconds')}: roles set such events aside; timestamp must"
            f" be {USABLE['timestamp']}"
        )


def _with_usable_context(
    table: pl.DataFrame, *, asked: Sequence[str], path: str | Path
) -> pl.DataFrame:
    """Return the table with those fields of the context that hold words or whole numbers.

    Roles pass over all others.

    Raises:
        InputFileError: one of the others was asked for.
    """
    fields = {field.name: _told(field) for field in table["context"].struct.unnest()}
    if lost := [name for name in asked if fields[name] is None]:
        raise InputFileError(
            f"{path}: neither words nor whole numbers, and so no context, in: {', '.join(lost)}"
        )
    usable = [field for field in fields.values() if field is not None]
    table = table.drop("context")
    return table.with_columns(pl.DataFrame(usable).to_struct("context")) if usable else table


def _told(values: pl.Series) -> pl.Series | None:
    """Return words or whole numbers; None where the values are of another kind."""
    if values.dtype in (pl.Categorical, pl.Enum):
        return values.cast(pl.String)
    if values.dtype.is_float():
        values = values.fill_nan(None)
    if values.dtype.is_float() or values.dtype.is_decimal():
        whole = whole_numbers(values)
        return whole if whole.null_count() == values.null_count() else None
    # No record holds 128 bits.
    is_number = values.dtype.is_integer() and "128" not in str(values.dtype)
    return values if is_number or values.dtype in (pl.String, pl.Boolean, pl.Null) else None


def _given_ids(values: pl.Series) -> pl.Series:
    """Return ids as text, null where none is given; empty, and so refused, where it is unusable."""
    values = values.fill_nan(None) if values.dtype.is_float() else values
    ids = ids_of(values)
    return ids.set(ids.is_null() & values.is_not_null(), "")


def _times_ms(times: pl.Series, *, is_ms: bool) -> pl.Series:
    """Return milliseconds; null where there is no time to be made out."""
    if times.dtype in (pl.Time, pl.Duration):  # as numbers they could pass for milliseconds
        return pl.repeat(None, len(times), dtype=pl.Int64, eager=True)
    if times.dtype.is_temporal():
        return times.cast(pl.Datetime("ms")).cast(pl.Int64)
    numbers = times.cast(pl.Float64, strict=False)
    if not is_ms:
        numbers = _told_apart(numbers)
    whole = numbers.round().cast(pl.Int64, strict=False)
    if times.dtype != pl.String:
        return whole
    return whole.zip_with(whole.is_not_null(), times.map_elements(_iso_ms, return_dtype=pl.Int64))


def _told_apart(numbers: pl.Series) -> pl.Series:
    """Return milliseconds of seconds, milliseconds and days; null for a day that no month has."""
    number = pl.col("number")
    is_day = number.is_between(*DAYS) & (number == number.floor())
    shown = pl.when(is_day).then(number).cast(pl.Int64).cast(pl.String)
    day = shown.str.to_datetime("%Y%m%d", time_unit="ms", strict=False).cast(pl.Int64)
    is_s = number.abs() < MS_FROM
    in_ms = pl.when(is_day).then(day).when(is_s).then(number * 1000).otherwise(number)
    return numbers.to_frame("number").select(in_ms).to_series()


def _iso_ms(text: str) -> int | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


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
        usable = "; ".join(f"{name} must be {USABLE[name]}" for name in lacking)
        raise InputFileError(
            f"{path}: {len(bad)} of {len(table)} rows lack a usable value;"
            f" the first is row {row + 1}, in {', '.join(lacking)}: {str(first)[:SHOWN_LETTERS]};"
            f" {usable}"
        )


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
