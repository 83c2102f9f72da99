"""Follower: what it says of records that are of no use."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from headrace.streams.errors import MalformedRecordError
from headrace.streams.kafka.follower import TOLD, TOLD_OF, Follower
from headrace.streams.settings import Settings


def told_of(n: int, caplog: pytest.LogCaptureFixture, **options: Any) -> list[str]:
    """Return what is logged of so many records that are refused."""

    def refuse(_: object) -> None:
        raise MalformedRecordError("undecodable", "junk")

    follower = Follower(Settings(), {"items": refuse}, **options)
    with caplog.at_level(logging.ERROR):
        for offset in range(n):
            assert not follower._take(SimpleNamespace(topic="items", offset=offset, key=b"k"))
    return [record.getMessage() for record in caplog.records]


def test_a_catalogue_that_is_refused_whole_is_told_in_few_lines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = told_of(2 * TOLD_OF, caplog)
    assert len(told) == TOLD + 2
    assert told[0] == "passed over items offset=0 key=b'k': undecodable: junk (1 so far)"
    assert told[-1] == "passed over items offset=1999 key=b'k': undecodable: junk (2000 so far)"


def test_each_version_that_is_refused_is_told(caplog: pytest.LogCaptureFixture) -> None:
    assert len(told_of(2 * TOLD, caplog, latest_only=["items"])) == 2 * TOLD
