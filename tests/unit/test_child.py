"""A child process: its output, its status, and that it ends when it is told to, or is made to."""

import subprocess
import sys
import time

import pytest

from headrace.streams.child import LOG_TAIL_BYTES, Child

LIMIT_S = 30.0
STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
while True:
    signal.pause()
"""


def python(program: str) -> Child:
    """Start a Python program."""
    return Child([sys.executable, "-c", program])


def wait_for_output(child: Child, text: str) -> None:
    """Return once the child has written ``text``."""
    deadline = time.monotonic() + LIMIT_S
    while text not in child.log_tail():
        assert time.monotonic() < deadline, child.log_tail()


def test_status_and_output_are_kept() -> None:
    child = python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)")
    assert child.wait(LIMIT_S) == 7
    assert sorted(child.log_tail().split()) == ["err", "out"]
    assert child.stop(limit_s=LIMIT_S) == 7
    assert sorted(child.log_tail().split()) == ["err", "out"]


def test_only_the_last_output_is_shown() -> None:
    child = python(f"print('first'); print('x' * {LOG_TAIL_BYTES}); print('last')")
    child.wait(LIMIT_S)
    assert "first" not in child.log_tail()
    assert child.log_tail().endswith("last")
    child.stop(limit_s=LIMIT_S)


def test_running_child_has_no_status_until_it_is_stopped() -> None:
    child = python("import signal; print('ready', flush=True); signal.pause()")
    wait_for_output(child, "ready")
    assert child.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0)
    assert child.stop(limit_s=LIMIT_S) == -15  # SIGTERM


def test_child_that_will_not_end_is_made_to() -> None:
    child = python(STUBBORN)
    wait_for_output(child, "ready")
    assert child.stop(limit_s=0) == -9  # SIGKILL


def test_stopping_twice_is_harmless() -> None:
    child = python("pass")
    assert child.stop(limit_s=LIMIT_S) == child.stop(limit_s=LIMIT_S)
