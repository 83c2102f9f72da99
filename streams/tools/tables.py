"""Tables from TSV, CSV, JSON lines and Parquet, each also as .gz and .xz, or standard input."""

import gzip
import io
import lzma
import signal
import sys
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

import polars as pl
from polars.exceptions import PanicException, PolarsError

from headrace.streams.errors import InputFileError
from headrace.streams.tools.misfits import misfit_of_json_lines, misfit_of_rows

STDIN = "-"
SHOWN_LETTERS = 300  # of a bad row
LARGEST_WHOLE = 2**63 - 1
# Of whole numbers as floats; beyond, several ids would become one.
LARGEST_EXACT = {"Float64": 2**53 - 1, "Float32": 2**24 - 1, "Float16": 2**11 - 1}
INFLATED_LIMIT_BYTES = 2**32  # it is held in memory; a few MB of zeros can stand for more

LONGEST_LINE_BYTES = 2**24  # that is looked at for what is wrong with it; no record is as long

_OPENERS: dict[str, Callable[[Path], BinaryIO]] = {
    ".gz": lambda path: io.BufferedReader(gzip.GzipFile(path)),
    ".xz": lambda path: io.BufferedReader(lzma.LZMAFile(path)),  # noqa: SIM115 - closed by the caller
}


def _separated(source: Path | io.BytesIO, separator: str, quote: str | None) -> pl.LazyFrame:
    """Return text as a table, without its blank lines, which Polars takes for rows of nulls."""
    rows = pl.scan_csv(source, separator=separator, quote_char=quote, infer_schema=False)
    return rows.filter(~pl.all_horizontal(pl.all().is_null()))


_SCANNERS: dict[str, Callable[[Path | io.BytesIO], pl.LazyFrame]] = {
    # Tab-separated text knows no quoting: a title may hold a lone inch sign.
    ".tsv": lambda source: _separated(source, "\t", None),
    ".csv": lambda source: _separated(source, ",", '"'),
    ".jsonl": lambda source: pl.scan_ndjson(source, infer_schema_length=None),
    ".parquet": pl.scan_parquet,
}
_SCANNERS |= {".ndjson": _SCANNERS[".jsonl"], ".json": _SCANNERS[".jsonl"]}

# What a file must be, said where Polars would speak of its own options.
_ROWS = "in UTF-8, a line of names first, no row longer than that"
_FORMS = {
    ".tsv": f"columns with tabs between them, {_ROWS}",
    ".csv": f"columns with commas between them, {_ROWS}, every quote closed",
    ".jsonl": "a map ({...}) a line, in UTF-8, each name for one kind of values in all of them",
    ".parquet": "a whole Parquet file",
}
_FORMS |= {".ndjson": _FORMS[".jsonl"], ".json": _FORMS[".jsonl"]}
_TYPED_FORM = f"{_FORMS['.jsonl']}; or {_FORMS['.tsv']}"
_MISFITS: dict[str, Callable[[Iterable[bytes]], str | None]] = {
    ".tsv": partial(misfit_of_rows, separator=b"\t", quote=None),
    ".csv": partial(misfit_of_rows, separator=b",", quote=b'"'),
    ".jsonl": misfit_of_json_lines,
}
_MISFITS |= {".ndjson": _MISFITS[".jsonl"], ".json": _MISFITS[".jsonl"]}


def scan(path: str | Path) -> pl.LazyFrame:
    """Return the file as a table to select from; the format is in its name.

    Raises:
        InputFileError: there is no such file, its ending is not known, or it does not inflate.
    """
    if str(path) == STDIN:
        data = _typed()
        kind = ".jsonl" if data.lstrip()[:1] == b"{" else ".tsv"
        return _SCANNERS[kind](io.BytesIO(data))
    path = Path(path)
    if path.is_dir():
        raise InputFileError(f"{path}: it is a folder; name a file")
    if not path.exists():
        raise InputFileError(f"{path}: there is no such file")
    opener, kind = _OPENERS.get(path.suffix), _kind(path)
    if kind not in _SCANNERS:
        why = f"its ending {kind} is not known" if kind else "it has no ending"
        raise InputFileError(
            f"{path}: {why}; known are {', '.join(_SCANNERS)},"
            f" each also with {' or '.join(_OPENERS)}"
        )
    if opener is None:
        return _SCANNERS[kind](path)
    try:
        with opener(path) as file:
            data = file.read(INFLATED_LIMIT_BYTES + 1)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as exc:
        raise InputFileError(f"{path}: cannot be decompressed: {exc}") from exc
    if len(data) > INFLATED_LIMIT_BYTES:
        raise InputFileError(
            f"{path}: over {INFLATED_LIMIT_BYTES:,} bytes when decompressed: decompress it first,"
            " and name the decompressed file"
        )
    return _SCANNERS[kind](io.BytesIO(data))


def _kind(path: Path) -> str:
    return (path.with_suffix("") if path.suffix in _OPENERS else path).suffix


def _typed() -> bytes:
    """Return standard input, read up to its end."""
    # Polars has reads go on after a signal: Ctrl-C would wait for the end of what is typed.
    if threading.current_thread() is threading.main_thread():
        signal.siginterrupt(signal.SIGINT, True)
    return sys.stdin.buffer.read()


def names_of(frame: pl.LazyFrame, path: str | Path) -> list[str]:
    """Return the column names.

    Raises:
        InputFileError: the file is not of the format its name says.
    """
    with _in_our_words(path):
        names = frame.collect_schema().names()
    # What is no UTF-8 is replaced in names, and refused in rows; UTF-16 is zeros for half of it.
    if any("\N{REPLACEMENT CHARACTER}" in name or "\0" in name for name in names):
        raise _not_utf8(path)
    return names


def collect(frame: pl.LazyFrame, path: str | Path) -> pl.DataFrame:
    """Read what has been selected.

    Raises:
        InputFileError: a row is not of the file's format.
    """
    with _in_our_words(path):
        return frame.collect()


@contextmanager
def _in_our_words(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise InputFileError(f"{path}: cannot be read: {exc}") from exc
    except (PolarsError, PanicException) as exc:
        if "utf-8" in str(exc).lower():
            raise _not_utf8(path) from exc
        form = _FORMS.get(_kind(Path(path)), _TYPED_FORM)
        misfit = _misfit(Path(path))
        why = f": {misfit}" if misfit else ""
        raise InputFileError(f"{path}: cannot be read{why}; it must be {form}") from exc


def _misfit(path: Path) -> str | None:
    """Return which line of a file is malformed, if it can be told by reading it once more."""
    find = _MISFITS.get(_kind(path))
    if find is None or not path.is_file():  # what was typed, or came by a pipe, is gone
        return None
    opener = _OPENERS.get(path.suffix)
    with opener(path) if opener else path.open("rb") as file:
        lines = iter(partial(file.readline, LONGEST_LINE_BYTES), b"")
        return find(takewhile(lambda line: len(line) < LONGEST_LINE_BYTES, lines))


def _not_utf8(path: str | Path) -> InputFileError:
    return InputFileError(f"{path}: it is not UTF-8; save it in that encoding")


@contextmanager
def converting(path: str | Path) -> Iterator[None]:
    """Say of which file it is that a column's values cannot be made what they are asked to be.

    Raises:
        InputFileError: they cannot, such as bytes that are no text.
    """
    try:
        yield
    except PolarsError as exc:
        why = str(exc).partition("\n")[0]
        raise InputFileError(f"{path}: a column holds what cannot be used: {why}") from exc


def require(missing: list[str], found: list[str], path: str | Path) -> None:
    """Refuse a file with missing columns, naming them and those found.

    Raises:
        InputFileError: ``missing`` is not empty.
    """
    if missing:
        cased = {name.lower(): name for name in found}
        misspelt = [f"{name}, not {cased[name]!r}" for name in missing if name in cased]
        hint = f"; write {', '.join(misspelt)}, in lower case" if misspelt else ""
        if len(found) == 1 and any(separator in found[0] for separator in ",;\t|"):
            hint = "; columns must have commas between them in a .csv, tabs in a .tsv or typed text"
        raise InputFileError(
            f"{path}: missing column{'s' * (len(missing) > 1)} {', '.join(missing)};"
            f" found {', '.join(map(repr, found))}{hint}"
        )


def refuse_nested(nested: Sequence[str], path: str | Path) -> None:
    """Refuse a file in which these columns, if any, hold lists or maps.

    Raises:
        InputFileError: ``nested`` is not empty.
    """
    if nested:
        raise InputFileError(f"{path}: lists or maps, not text or numbers, in: {', '.join(nested)}")


def ids_of(values: pl.Series) -> pl.Series:
    """Return ids as text; null where there is none to be made out: a fraction, a truth.

    One gap in a data frame makes whole numbers fractions, 6 becomes 6.0: such ids are 6 again,
    whatever kind of file they come in.
    """
    if values.dtype == pl.Boolean:
        return pl.repeat(None, len(values), dtype=pl.String, eager=True).alias(values.name)
    if values.dtype.is_float() or values.dtype.is_decimal():
        whole = whole_numbers(values)
        largest = LARGEST_EXACT.get(str(values.dtype), LARGEST_WHOLE)
        values = whole.set(~whole.is_between(-largest, largest), None)
    elif values.dtype == pl.String:
        whole = values.str.extract(r"^(-?\d+)\.0+$")
        values = whole if whole.null_count() == values.null_count() < len(values) else values
    return values.cast(pl.String)


def whole_numbers(values: pl.Series) -> pl.Series:
    """Return fractions as whole numbers, null where they are none."""
    whole = values.cast(pl.Int64, strict=False)
    return whole.set((whole != values).fill_null(value=True), None)
