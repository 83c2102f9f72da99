"""A GPU where there is none: nothing that is computed on one is mixed with what is not there."""

import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("pretend_gpu.py")
LIMIT_S = 300.0


def test_the_model_learns_adapts_and_ranks_on_a_gpu_as_do_the_other_ways() -> None:
    ran = subprocess.run(
        [sys.executable, PROGRAM], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "'users': '3'" in ran.stdout
    assert ran.stdout.endswith("gpu:0\n")
