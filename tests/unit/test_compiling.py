"""That loops are compiled is said while they are, and only then."""

import runpy
from pathlib import Path

from headrace.streams.compiling import TOLD, told_of_compiling

LOOPS = """
from numba import njit

@njit(cache=True)
def one(x):
    return x + 1

@njit(cache=True)
def other(x):
    return one(x) + 1
"""


def test_compiling_is_told_once_and_not_of_loops_that_have_been_kept(tmp_path: Path) -> None:
    path = tmp_path / "loops.py"
    path.write_text(LOOPS)
    for expected in ([TOLD], []):
        loops, told = runpy.run_path(str(path)), list[str]()  # as a process that starts
        with told_of_compiling(told.append):
            assert loops["other"](1) == 3
            assert told == expected
            loops["one"](1)
        assert told == expected
