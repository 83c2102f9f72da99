"""Events that are typed, or piped in: what is not said is a click, now."""

import io
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from time import sleep
from types import SimpleNamespace

import pytest

from headrace.streams.errors import InputFileError
from headrace.streams.tools.files import read_events


def type_in(monkeypatch: pytest.MonkeyPatch, typed: bytes) -> None:
    """Let a text be what standard input has."""
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(typed)))


@pytest.mark.parametrize(
    "typed",
    [b'{"user": "u", "item": "i"}\n{"user": "u", "item": "j"}\n', b"user\titem\nu\ti\nu\tj\n"],
)
def test_typed_events_mean_a_click_now(monkeypatch: pytest.MonkeyPatch, typed: bytes) -> None:
    type_in(monkeypatch, typed)
    assert read_events("-", now_ms=1000).rows() == [
        ("u", "i", "click", 1000),
        ("u", "j", "click", 1000),
    ]


@pytest.mark.parametrize(
    ("typed", "items"),
    [
        (b'{"user": "u", "action": "refresh"}', [""]),
        (b'{"user": "u", "item": "i"}\n{"user": "u", "action": "forget"}', ["i", ""]),
    ],
)
def test_typed_events_that_need_no_item_need_none(
    monkeypatch: pytest.MonkeyPatch, typed: bytes, items: list[str]
) -> None:
    type_in(monkeypatch, typed)
    assert read_events("-", now_ms=1000)["item"].to_list() == items


def test_an_event_without_an_item_is_told_whatever_else_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    typed = b'{"user": "u", "action": "refresh"}\n{"user": "u", "action": "view"}'
    type_in(monkeypatch, typed)
    with pytest.raises(InputFileError, match=r"1 of 2 rows lack.*the first is row 2, in item"):
        read_events("-", now_ms=1000)


def test_typed_events_keep_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = (
        b'{"user": "u", "item": "i", "action": "view", "time_ms": 500}\n{"user": "u", "item": "j"}'
    )
    type_in(monkeypatch, typed)
    assert read_events("-", now_ms=1000).rows() == [
        ("u", "i", "view", 500),
        ("u", "j", "click", 1000),
    ]


def test_typed_text_that_is_neither_is_told_both(monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(monkeypatch, b"")
    with pytest.raises(InputFileError, match=r"-: .* a map .* a line.*; or columns with tabs"):
        read_events("-", now_ms=1000)


def test_typing_is_stopped_with_ctrl_c() -> None:
    code = "from headrace.streams.tools import tables; print(flush=True); tables.scan('-')"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as typing:
        try:
            assert typing.stdout
            assert typing.stdout.readline() == b"\n"
            sleep(0.5)  # it reads by then; sooner, even a read that goes on would be stopped
            typing.send_signal(signal.SIGINT)
            assert typing.wait(30) == -signal.SIGINT
        finally:
            typing.kill()


def test_typed_events_are_read_in_any_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(monkeypatch, b"user\titem\nu\ti\n")
    with ThreadPoolExecutor(1) as threads:
        events = threads.submit(read_events, "-", now_ms=1000).result()
    assert events.rows() == [("u", "i", "click", 1000)]


def test_typed_time_that_cannot_be_read_is_not_taken_for_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    typed = b'{"user": "u", "item": "i", "timestamp": "soon"}'
    type_in(monkeypatch, typed)
    with pytest.raises(InputFileError, match="the first is row 1"):
        read_events("-", now_ms=1000)


def test_a_missing_timestamp_makes_no_seconds_of_days(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = b"user\titem\ttimestamp\nu\ti\t20170714\nu\tj\t\n"
    type_in(monkeypatch, typed)
    events = read_events("-", now_ms=1_500_000_000_000)
    assert events["time_ms"].to_list() == [1_499_990_400_000, 1_500_000_000_000]
