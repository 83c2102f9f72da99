"""Read lists back: whose, when, and which items with their titles and reasons."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from headrace.streams.errors import MalformedRecordError
from headrace.streams.kafka.clients import Reader, reader
from headrace.streams.records import Recommendation
from headrace.streams.settings import Settings
from headrace.streams.tools.reasons import phrase
from headrace.streams.tools.set_aside import coordinates, printable
from headrace.streams.wire import decode_item, decode_recommendation

logger = logging.getLogger(__name__)

SHOWN_LETTERS = 200  # of a title: a catalogue may hold whole books

Titles = Mapping[str, str]


def read_titles(settings: Settings) -> dict[str, str]:
    """Return the title of every item in the catalogue that has one."""
    titles = {}
    with reader(settings, settings.topic("items")) as items:
        for record in items.to_end():
            try:
                item = decode_item(record.value, key=record.key)
            except MalformedRecordError as exc:
                logger.warning("skipped %s: %s", coordinates(record), exc)
                continue
            if item.title:
                titles[item.item] = item.title
    return titles


def current_lists(settings: Settings, *, user: str | None = None) -> Iterator[Recommendation]:
    """Yield the latest list of each user, or of one, the most recently refreshed last.

    Meanwhile they are kept as they were written: of a million users, a seventh of the memory.
    """
    latest: dict[Any, tuple[int, Any]] = {}  # when it was made, and its record
    with reader(settings, settings.topic("recommendations")) as lists:
        for record in lists.to_end():
            whose = record.partition, record.key  # a tombstone has nothing else to tell it by
            if record.value is None:
                latest.pop(whose, None)
            for found in _decoded([record], user):
                latest[whose] = found.generated_ms, record
    for _, record in sorted(latest.values(), key=itemgetter(0)):
        yield from _decoded([record], user)


def all_lists(settings: Settings, *, user: str | None = None) -> Iterator[Recommendation]:
    """Yield every list still on the topic, replaced ones too."""
    with reader(settings, settings.topic("recommendations")) as lists:
        yield from _decoded(lists.to_end(), user)


def follow_lists(
    settings: Settings,
    *,
    user: str | None = None,
    from_beginning: bool = False,
    on_start: Callable[[], None] = lambda: None,
) -> Iterator[Recommendation]:
    """Yield lists as they come, for ever; ``on_start`` is called once none can be missed."""
    with reader(settings, settings.topic("recommendations")) as lists:
        if not from_beginning:
            lists.skip_to_end()
        on_start()
        yield from _decoded(_for_ever(lists), user)


def _for_ever(source: Reader) -> Iterator[Any]:
    while True:
        yield from source.wait()


def _decoded(records: Iterable[Any], user: str | None) -> Iterator[Recommendation]:
    for record in records:
        if record.value is None:  # a tombstone: the user's list has been withdrawn
            continue
        try:
            found = decode_recommendation(record.value)
        except MalformedRecordError as exc:
            logger.warning("skipped %s: %s", coordinates(record), exc)
            continue
        if user is None or found.user == user:
            yield found


def as_text(found: Recommendation, titles: Titles, *, width: int | None = None) -> str:
    """Return a list for people: a head line, then an item a line with its score and reason.

    Items' lines are no wider than a terminal of ``width`` cells: titles take two fifths of what
    there is for words, or what the reasons leave, and what does not fit is cut.
    """
    when = datetime.fromtimestamp(found.generated_ms / 1000, UTC)
    head = (
        f"{printable(found.user)}  {when:%Y-%m-%d %H:%M:%S} UTC  model {found.model_version}"
        f"  after {coordinates(found.source)}"
    )
    names = [_name(item, titles) for item in found.items]
    reasons = [_why(found, position, titles) for position in range(len(names))]
    widest, longest = (max(map(cell_len, texts), default=0) for texts in (names, reasons))
    if width is not None:
        for_words = width - len(_line(1, "", 0.0, ""))
        widest = min(widest, max(for_words - longest, 2 * for_words // 5))
    rows = zip(names, found.scores, reasons, strict=False)
    lines = [
        _line(rank, _fitted(name, widest), score, why)
        for rank, (name, score, why) in enumerate(rows, start=1)
    ]
    if width is not None:
        lines = [_fitted(line, width) for line in lines]
    shown = [line.rstrip() for line in lines] or [
        "   (nothing to list yet; their next event, or a refresh, makes a new list)"
    ]
    return "\n".join([head, *shown])


def _line(rank: int, name: str, score: float, why: str) -> str:
    return f"  {rank:2}. {name}  {score:8.3f}  {why}"


def _fitted(text: str, width: int) -> str:
    """Return text that takes so many cells of a terminal: wide letters take two."""
    cells = Text(text)
    cells.truncate(max(width, 1), overflow="ellipsis", pad=True)
    return cells.plain


def as_json(found: Recommendation) -> str:
    """Return a list for programs: one JSON object on one line."""
    return json.dumps(asdict(found), ensure_ascii=False)


def _name(item: str, titles: Titles) -> str:
    return printable(titles.get(item, item)[:SHOWN_LETTERS])


def _why(found: Recommendation, position: int, titles: Titles) -> str:
    if position >= len(found.reasons):
        return ""
    reason = found.reasons[position]
    return f"{reason['share']:.0%} {printable(phrase(reason, titles)[:SHOWN_LETTERS])}"
