"""Files that cannot be read: one error, which names the line if there is one."""

import gzip
from pathlib import Path

import pytest
from file_samples import PACKERS, write

from headrace.streams.errors import InputFileError
from headrace.streams.tools import tables
from headrace.streams.tools.files import read_events

HEAD = "user,item,event,timestamp\n"
ROW = '{"user": "u", "item": "i", "event": "view", "timestamp": 1}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("e.xlsx", b"", "its ending .xlsx is not known; known are .tsv,"),
        ("e", b"", "it has no ending; known are .tsv,"),
        ("e.gz", b"", "it has no ending; known are .tsv,"),
        ("e.csv", b"", "a line of names first"),
        ("e.csv", b"user,item,event,timestamp\n1,2,3,4,5\n", "no row longer than that"),
        ("e.csv", b'user,item,event,timestamp\n"1,2,3,4\n', "every quote closed$"),
        ("e.tsv", b"", "columns with tabs between them"),
        ("e.json", b'[{"user": 1}]', r"a map \({...}\) a line"),
        ("e.jsonl", b'{"user": 1}\n{oops\n', r"a map \({...}\) a line"),
        ("e.jsonl", b'{"user": 1}\n{"user": [1]}\n', "each name for one kind of values"),
        ("e.jsonl.gz", gzip.compress(b""), r"a map \({...}\) a line"),
        ("e.parquet", b"user", "a whole Parquet file$"),
        ("e.csv.gz", b"user,item", "cannot be decompressed"),
        ("e.csv.gz", gzip.compress(b"user,item" * 99)[:-9], "cannot be decompressed"),
        ("e.csv.xz", b"user,item", "cannot be decompressed"),
    ],
)
def test_damaged_file_is_one_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputFileError, match=message):
        read_events(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("e.csv", f"{HEAD}\nu,i,view,1\nu,i,view,1,5\n", "line 4 has 5 columns, the first 4"),
        ("e.csv", f'\r\n{HEAD}"u,\n""",i,view,1\nu,i,view,1,\n', "line 5 has 5 columns"),
        ("e.csv", f'{HEAD}u,"i\nu,"i",view,1\n', "line 2 opens a quote that is not closed"),
        ("e.csv", f'{HEAD}u,"i\nu,"a ""\nb",view,1\n', "line 2 opens a quote that is not closed"),
        ("e.csv", f'{HEAD}u,1" x 2",view,1\nu,1" i,view,1\nu,"a\nb",view,1\n', "line 3 opens a"),
        ("e.csv", f'{HEAD}u,"a\n""b"" ""\n",view,1\nu,i,view,1,2\n', "line 5 has 5 columns"),
        ("e.tsv", f'{HEAD}u,"i,view,1\nu,i,view,1,5\n', "line 3 has 5 columns, the first 4"),
        ("e.jsonl", f'{ROW}\n{ROW}{{"user": "u" "item": "i"}}\n', "line 4 is no map"),
        ("e.ndjson", f"{ROW}{ROW}[1]\n", "line 3 is no map"),
        ("e.json", f'{ROW}{{"user": "u", "price": NaN}}\n', "line 2 is no map"),
        ("e.jsonl", f"{ROW}{'[' * 100_000}\n", "line 2 is no map"),
    ],
)
@pytest.mark.parametrize("packing", PACKERS)
def test_a_malformed_line_is_named(
    tmp_path: Path, name: str, text: str, message: str, packing: str
) -> None:
    text = text.replace(",", "\t") if name == "e.tsv" else text
    path = tmp_path / f"{name}{packing}"
    path.write_bytes(PACKERS[packing](text.encode()))
    with pytest.raises(InputFileError, match=f": cannot be read: {message}.*; it must be "):
        read_events(path)


def test_a_malformed_line_is_not_named_behind_one_too_long_to_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "LONGEST_LINE_BYTES", len(ROW))
    path = write(tmp_path, "e.jsonl", f"{ROW}oops\n")
    with pytest.raises(InputFileError, match="cannot be read; it must be"):
        read_events(path)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("e.csv", "user,item,event,timestamp\nü,i,view,1\n"),
        ("e.tsv", "user\titem\tévent\ttimestamp\nu\ti\tview\t1\n"),
        ("e.jsonl", '{"user": "ü", "item": "i", "event": "view", "timestamp": 1}\n'),
    ],
)
def test_a_file_in_another_encoding_is_told_so(
    tmp_path: Path, name: str, text: str, encoding: str
) -> None:
    (tmp_path / name).write_bytes(text.encode(encoding))
    with pytest.raises(InputFileError, match=r"/e\.\w+: it is not UTF-8; save it in that"):
        read_events(tmp_path / name)


def test_a_file_that_inflates_beyond_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "INFLATED_LIMIT_BYTES", 100_000)
    path = tmp_path / "events.tsv.gz"
    path.write_bytes(gzip.compress(bytes(100_001)))
    with pytest.raises(InputFileError, match="over 100,000 bytes when decompressed: decompress"):
        read_events(path)
