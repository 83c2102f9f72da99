"""Asking to forget: who can be asked for, and how long is said in words."""

import os

import pytest

from headrace.streams.errors import BrokerUnreachableError, MalformedRecordError
from headrace.streams.kafka.broker import free_port
from headrace.streams.settings import Settings
from headrace.streams.tools.forget import _in_words, ask_to_forget


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("604800000", "7 days"),
        ("86400000", "24 hours"),
        ("5400000", "90 minutes"),
        ("1000", "1 seconds"),
        ("0", "0 seconds"),
        ("-1", "without limit"),
        (str(2**63 - 1), "without limit"),
        (None, "as its broker is set"),
    ],
)
def test_limits_are_said_in_words(value: str | None, words: str) -> None:
    assert _in_words(value) == words


@pytest.mark.parametrize("user", ["", "u" * 257, os.fsdecode(b"\xff")])
def test_what_can_be_no_user_is_refused_before_anything_is_sent(user: str) -> None:
    silent = Settings(bootstrap=f"127.0.0.1:{free_port()}")
    with pytest.raises(MalformedRecordError, match="user"):
        ask_to_forget(silent, ["ann", user])
    with pytest.raises(BrokerUnreachableError):
        ask_to_forget(silent, ["ann"])
