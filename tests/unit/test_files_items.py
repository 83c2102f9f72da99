"""Catalogues from files: what a row may say of an item, and what is refused."""

import json
from pathlib import Path

import polars as pl
import pytest
from file_samples import EVENTS, write

from headrace.streams.errors import InputFileError
from headrace.streams.records import Item
from headrace.streams.tools.files_items import read_items


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "i.csv",
            "item,title,price,department,category,type\n7,Tea,1.5,Food,Drinks,Tea\n8,,,Food,,\n",
        ),
        ("i.tsv", "item\ttitle\tprice\tcategories\n7\tTea\t1.5\tFood|Drinks|Tea\n8\t\t\tFood\n"),
        (
            "i.tsv",
            "item\ttitle\tprice\tcategories\n7\tTea\t1.5\tFood | Drinks|Tea | \n8\t\t\tFood\n",
        ),
        (
            "i.jsonl",
            '{"item": 7, "title": "Tea", "price": 1.5, "categories": ["Food", "Drinks", "Tea"]}\n'
            '{"item": 8, "categories": ["Food"]}\n',
        ),
    ],
)
def test_catalogue_takes_categories_in_three_forms(tmp_path: Path, name: str, text: str) -> None:
    assert read_items(write(tmp_path, name, text)) == [
        Item(item="7", title="Tea", price=1.5, categories=("Food", "Drinks", "Tea")),
        Item(item="8", categories=("Food",)),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("i.csv", "item,active\na,FALSE\nb,0\nc,True\nd,1\ne,\n"),
        ("i.tsv", "item\tactive\na\tfalse\nb\t0\nc\ttrue\nd\t1\ne\t\n"),
        (
            "i.jsonl",
            '{"item": "a", "active": false}\n{"item": "b", "active": false}\n'
            '{"item": "c", "active": true}\n{"item": "d", "active": true}\n{"item": "e"}\n',
        ),
        (
            "n.jsonl",
            '{"item": "a", "active": 0}\n{"item": "b", "active": 0}\n'
            '{"item": "c", "active": 1}\n{"item": "d", "active": 1}\n{"item": "e"}\n',
        ),
    ],
)
def test_a_catalogue_says_which_items_are_active(tmp_path: Path, name: str, text: str) -> None:
    items = read_items(write(tmp_path, name, text))
    assert [item.item for item in items if not item.active] == ["a", "b"]
    assert len(items) == 5


def test_a_catalogue_of_json_lines_has_vectors(tmp_path: Path) -> None:
    text = (
        '{"item": "a", "vectors": {"image": [1, 0.5], "title": [2]}}\n'
        '{"item": "b", "vectors": {"image": [3, 4]}}\n{"item": "c"}\n{"item": "d", "vectors": {}}'
    )
    assert [item.vectors for item in read_items(write(tmp_path, "i.jsonl", text))] == [
        {"image": (1.0, 0.5), "title": (2.0,)},
        {"image": (3.0, 4.0)},
        {},
        {},
    ]
    (unknown,) = read_items(write(tmp_path, "j.jsonl", '{"item": "a", "vectors": null}'))
    assert unknown.vectors == {}


@pytest.mark.parametrize(
    ("vectors", "dtype"),
    [
        ({"image": [1.0, 0.5]}, pl.Struct({"image": pl.List(pl.Float32)})),
        ({"image": [1.0, 0.5]}, pl.Struct({"image": pl.Array(pl.Float32, 2)})),
        ({"image": [1.0, 0.5]}, pl.Map(pl.String, pl.List(pl.Float64))),
        (
            [{"key": "image", "value": [1.0, 0.5]}],  # as older polars read such a map
            pl.List(pl.Struct({"key": pl.String, "value": pl.List(pl.Float64)})),
        ),
    ],
)
def test_a_catalogue_in_parquet_has_vectors(
    tmp_path: Path, vectors: object, dtype: pl.DataType
) -> None:
    table = pl.DataFrame({"item": ["a", "b"]}).with_columns(
        pl.Series("vectors", [vectors, None], dtype=dtype)
    )
    table.write_parquet(tmp_path / "i.parquet")
    assert read_items(tmp_path / "i.parquet") == [
        Item(item="a", vectors={"image": (1.0, 0.5)}),
        Item(item="b"),
    ]


def test_a_price_as_text_is_a_number_or_missing(tmp_path: Path) -> None:
    path = write(tmp_path, "i.csv", 'item,price\na, 1.5\nb,\nc,""\n')
    assert [item.price for item in read_items(path)] == [1.5, None, None]
    with pytest.raises(InputFileError, match=r"row 2 has no usable price: it is '1,5'"):
        read_items(write(tmp_path, "j.tsv", "item\tprice\na\t1.5\nb\t1,5\n"))


def test_tab_separated_titles_may_hold_quotes(tmp_path: Path) -> None:
    path = write(tmp_path, "i.tsv", 'item\ttitle\n7\t12" VASE\n8\t"TEA\n')
    assert [item.title for item in read_items(path)] == ['12" VASE', '"TEA']


def test_catalogue_needs_an_item_only(tmp_path: Path) -> None:
    assert read_items(write(tmp_path, "i.csv", "item\na\n")) == [Item(item="a")]
    with pytest.raises(InputFileError, match="missing column item; found 'sku'"):
        read_items(write(tmp_path, "j.csv", "sku\na\n"))
    with pytest.raises(InputFileError, match="row 2 has no usable item"):
        read_items(write(tmp_path, "k.csv", "item,title\na,A\n,B\n"))


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"categories": ["c" * 300]}, "a category is over 256 bytes"),
        ({"text": "t" * 2_000_000}, "2000057 bytes, at most"),
    ],
)
def test_a_row_that_no_role_takes_is_refused_before_any_is_published(
    row: dict[str, object], why: str, tmp_path: Path
) -> None:
    rows = [{"item": "a"}, {"item": "b"} | row]
    path = write(tmp_path, "i.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(InputFileError, match=f"row 2 cannot be published: .*{why}"):
        read_items(path)


@pytest.mark.parametrize("column", ["item", "title", "text", "categories"])
def test_a_catalogue_of_bytes_that_are_no_text_is_refused_by_file(
    column: str, tmp_path: Path
) -> None:
    path = tmp_path / "i.parquet"
    pl.DataFrame({"item": ["i"]} | {column: [b"\xff"]}).write_parquet(path)
    with pytest.raises(InputFileError, match=r"i\.parquet: a column holds what cannot be used: "):
        read_items(path)


@pytest.mark.parametrize(
    ("column", "value"),
    [("item", ["i"]), ("title", {"en": "t"}), ("price", [1]), ("categories", [["a"]])],
)
def test_a_column_of_a_catalogue_has_no_lists_but_of_categories(
    tmp_path: Path, column: str, value: object
) -> None:
    row = {"item": "i", "categories": ["a"]} | {column: value}
    with pytest.raises(InputFileError, match=f"lists or maps, not text or numbers, in: {column}$"):
        read_items(write(tmp_path, "i.jsonl", json.dumps(row)))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("i.tsv", 'item\tvectors\na\t{"image": [1]}\n'),
        ("i.jsonl", '{"item": "a", "vectors": [1, 2]}\n'),
        ("i.jsonl", '{"item": "a", "vectors": {"image": [1]}}\n{"item": "b", "vectors": "x"}\n'),
    ],
)
def test_vectors_that_are_no_map_are_refused(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(InputFileError, match="vectors must be a map of names to lists of numbers"):
        read_items(write(tmp_path, name, text))


@pytest.mark.parametrize(
    ("column", "value", "usable"),
    [
        ("active", "yes", "it is 'yes', and must be true or false"),
        ("active", 0.5, "true or false"),
        ("price", "12,50", "it is '12,50', and must be a number such as 12.5"),
        ("price", True, "a number such as 12.5"),
        ("price", "nan", "a number such as 12.5"),
        ("price", "1e999", "a number such as 12.5"),
        ("vectors", {"image": [1, None]}, ""),
        ("vectors", {"image": "x"}, ""),
        ("vectors", {"image": [0] * 8193}, ""),
    ],
)
def test_a_row_with_a_wrong_value_is_named_with_its_column_and_what_is_usable(
    tmp_path: Path, column: str, value: object, usable: str
) -> None:
    rows: list[dict[str, object]] = [{"item": "a"}, {"item": "b", column: value}]
    text = "\n".join(map(json.dumps, rows))
    with pytest.raises(InputFileError, match=f"row 2 has no usable {column}: .*{usable}"):
        read_items(write(tmp_path, "i.jsonl", text))


def test_events_are_no_catalogue(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    EVENTS.write_parquet(path)
    with pytest.raises(InputFileError, match=r"these are events: .* without --items"):
        read_items(path)
