"""The first seconds of the command, in which it imports: a signal ends it, without a traceback."""

import os
import signal
import subprocess
import sys

import pytest

# Stands for the imports: they begin, are said to have, and do not end.
SLOW = """
import signal, sys
class Slow:
    def find_spec(self, name, *_):
        if name == "headrace.streams.cli.main":
            print("importing", flush=True)
            signal.pause()
sys.meta_path.insert(0, Slow())
from headrace.streams.cli.start import main
main()
"""
# Stands for a command that cleans up.
WORKING = """
import signal, sys
from headrace.streams.cli import main, start
def command(prog_name):
    try:
        print("working", flush=True)
        signal.pause()
    finally:
        print("cleaned up", flush=True)
main.main = command
start.main()
"""
LIMIT_S = 30.0


def ended_by(number: signal.Signals, program: str, *, is_ignored: bool = False) -> tuple[int, str]:
    """Start a program, send it a signal once it prints a line; return its status and the rest."""
    before = signal.SIG_IGN if is_ignored else signal.SIG_DFL
    running = subprocess.Popen(
        [sys.executable, "-c", f"import signal; signal.signal({number:d}, {before:d}){program}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with running:
        assert running.stdout
        running.stdout.readline()
        os.kill(running.pid, number)
        if is_ignored:
            with pytest.raises(subprocess.TimeoutExpired):
                running.wait(0.5)
            running.kill()
        return running.wait(LIMIT_S), running.stdout.read()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_imports_ends_it_at_once_and_in_silence(number: signal.Signals) -> None:
    assert ended_by(number, SLOW) == (128 + number, "")


def test_a_command_that_is_ended_cleans_up() -> None:
    assert ended_by(signal.SIGTERM, WORKING) == (143, "cleaned up\n")
    status, told = ended_by(signal.SIGINT, WORKING)
    assert (status, told.splitlines()[0]) == (-signal.SIGINT, "cleaned up")


def test_in_the_background_of_a_shell_ctrl_c_is_for_others() -> None:
    assert ended_by(signal.SIGINT, SLOW, is_ignored=True) == (-signal.SIGKILL, "")


# What is opened next must not get the number of a standard file: prints would go there.
CLOSED = """
import os, sys
from headrace.streams.cli import main, start
def command(prog_name):
    assert os.open(os.devnull, os.O_RDONLY) > 2
    assert sys.stdin.read() == ""
    print("to nobody")
    print("to nobody", file=sys.stderr)
main.main = command
start.main()
"""


def test_standard_files_that_are_closed_are_as_good_as_empty() -> None:
    run = ["sh", "-c", '"$0" -c "$1" <&- >&- 2>&-', sys.executable, CLOSED]
    assert subprocess.run(run, check=False, timeout=LIMIT_S).returncode == 0
