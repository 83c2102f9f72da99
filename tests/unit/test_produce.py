"""Publishing from the command line, and what is said of it."""

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from headrace.streams.cli.main import main
from headrace.streams.kafka.clients import Outbox
from headrace.streams.settings import Settings


class InterruptedProducer:
    """Takes so many records; at the next one, Ctrl-C comes."""

    def __init__(self, n_taken: int) -> None:
        self.n_left = n_taken
        self.is_flushed = False

    def send(self, *_: object, **__: object) -> "InterruptedProducer":
        """Take a record; return what its acknowledgement is asked of."""
        if not self.n_left:
            raise KeyboardInterrupt
        self.n_left -= 1
        return self

    def flush(self, _: float) -> None:
        """Wait for what was sent."""
        self.is_flushed = True

    def get(self, _: float) -> None:
        """Return at once: it is acknowledged."""
        assert self.is_flushed


@pytest.fixture
def events(tmp_path: Path) -> str:
    """Return a file of three events."""
    path = tmp_path / "e.csv"
    path.write_text(
        "user,item,event,timestamp\nu,a,view,1764238500\nu,b,view,1764238500\nu,c,PURCHASED,1764238500\n"
    )
    return str(path)


class SignalledProducer(InterruptedProducer):
    """Takes every record; while it takes one, Ctrl-C comes."""

    def send(self, *_: object, **__: object) -> "InterruptedProducer":
        """Take a record."""
        self.n_left -= 1
        if not self.n_left:
            signal.raise_signal(signal.SIGINT)
        return self


def run(
    monkeypatch: pytest.MonkeyPatch,
    n_taken: int,
    *arguments: str,
    kind: type[InterruptedProducer] = InterruptedProducer,
) -> tuple[int, list[str]]:
    """Run a command; return its exit code and the lines it says, less those of the bar."""

    @contextmanager
    def outbox(_: Settings, topic: str) -> Iterator[Outbox]:
        box = Outbox(kind(n_taken), topic)
        yield box
        box.drain()

    monkeypatch.setattr("headrace.streams.tools.produce.outbox", outbox)
    ran = CliRunner().invoke(main, arguments)
    return ran.exit_code, [
        line for line in ran.stderr.splitlines() if not re.search(r" \d/\d ", line)
    ]


NOTE = "note: 'PURCHASED' is no action that the model knows: did you mean 'purchase'?"


@pytest.mark.parametrize("command", [["produce"], ["replay", "--rate", "1000"]])
def test_what_was_published_is_said_also_when_it_is_stopped(
    monkeypatch: pytest.MonkeyPatch, events: str, command: list[str]
) -> None:
    assert run(monkeypatch, 3, *command, events) == (0, [NOTE, "3 events published"])
    assert run(monkeypatch, 2, *command, events) == (1, [NOTE, "stopped: 2 events published"])
    assert run(monkeypatch, 1, *command, events) == (1, [NOTE, "stopped: 1 event published"])


def test_times_of_another_unit_and_a_pace_of_days_are_noted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "e.csv"
    path.write_text("user,item,event,time_ms\nu,a,view,1764000000\nu,b,view,1764086400\n")
    note = "note: the times begin on 1970-01-21 and end on 1970-01-21: are they in another unit?"
    assert run(monkeypatch, 3, "produce", str(path)) == (0, [note, "2 events published"])
    path.write_text("user,item,event,timestamp\nu,a,view,2026-11-01\nu,b,view,2026-11-21\n")
    assert run(monkeypatch, 3, "replay", "--speed", "1e9", str(path)) == (0, ["2 events published"])
    monkeypatch.setattr("headrace.streams.tools.produce.publish_events", lambda *_: 0)
    code, told = run(monkeypatch, 3, "replay", "--speed", "2", str(path))
    assert (code, told) == (0, ["note: at this speed it takes 10.0 days", "0 events published"])


def test_what_is_being_sent_as_ctrl_c_comes_is_counted(
    monkeypatch: pytest.MonkeyPatch, events: str
) -> None:
    before = signal.getsignal(signal.SIGINT)
    told = run(monkeypatch, 2, "produce", events, kind=SignalledProducer)
    assert told == (1, [NOTE, "stopped: 2 events published"])
    assert signal.getsignal(signal.SIGINT) is before


class HungProducer(InterruptedProducer):
    """Takes no record; Ctrl-C comes, and comes again."""

    def send(self, *_: object, **__: object) -> "InterruptedProducer":
        """Wait for the broker."""
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return self

    def flush(self, _: float) -> None:
        """Wait for the broker, which nobody wants to."""
        raise AssertionError


def test_who_asks_again_waits_for_no_broker(monkeypatch: pytest.MonkeyPatch, events: str) -> None:
    told = run(monkeypatch, 3, "produce", events, kind=HungProducer)
    assert told == (1, [NOTE, "", "Aborted!"])


def test_events_of_days_to_come_are_refused_before_any_is_published(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "e.csv"
    path.write_text("user,item,event,timestamp\nu,a,view,1764238500\nu,b,view,20261127101500\n")
    told = run(monkeypatch, 2, "produce", str(path))
    assert told == (
        2,
        [
            f"headrace: {path}: 1 of 2 events are of more than a day ahead, the latest of"
            " 2612-01-19T18:51:41+00:00: roles set such events aside; timestamp must be seconds or"
            " milliseconds since 1970, ISO text such as 2026-11-29T10:15:00+02:00, or a day such as"
            " 20261129; nothing was published"
        ],
    )
    assert run(monkeypatch, 3, "replay", "--now", "--rate", "1000", str(path))[0] == 0
