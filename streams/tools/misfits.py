"""The first line of a text that is not of its format, for one that could not be read."""

import json
from collections.abc import Iterable, Sequence


def misfit_of_rows(lines: Iterable[bytes], separator: bytes, quote: bytes | None) -> str | None:
    """Return which row has more columns than the first, or a quote that nothing closes."""
    allowed = first = columns = 0
    is_open = False
    for number, line in enumerate(lines, start=1):
        if not is_open:
            if not line.strip(b"\r\n"):
                continue
            first, columns = number, 1
        parts = line.split(quote) if quote else [line]  # in turn outside and inside of quotes
        was_open, is_open = is_open, is_open ^ (len(parts) % 2 == 0)
        if (was_open or is_open) and _is_astray(parts, was_open, separator):
            is_open = True  # what seems to close the quote opens the next one
            break
        columns += sum(part.count(separator) for part in parts[was_open::2])
        if is_open:
            continue
        allowed = allowed or columns
        if columns > allowed:
            return f"line {first} has {columns} columns, the first {allowed}"
    return f"line {first} opens a quote that is not closed" if is_open else None


def _is_astray(parts: Sequence[bytes], was_open: bool, separator: bytes) -> bool:
    """Return whether a quote stands elsewhere than at an end of a field, or beside another."""
    for place in range(was_open, len(parts), 2):
        part = parts[place].strip(b" \r\n")
        is_first, is_last = place == 0, place + 1 == len(parts)
        fits_after_one = is_first or part.startswith(separator)
        fits_before_one = is_last or part.endswith(separator)
        if part and not (fits_after_one and fits_before_one):
            return True
    return False


def misfit_of_json_lines(lines: Iterable[bytes]) -> str | None:
    """Return which line is no map in JSON."""
    for number, line in enumerate(lines, start=1):
        if line.strip() and not _is_map(line):
            return f"line {number} is no map in JSON"
    return None


def _is_map(line: bytes) -> bool:
    try:
        value = json.loads(line.decode(), parse_constant=int)  # which NaN and Infinity are not
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict)
