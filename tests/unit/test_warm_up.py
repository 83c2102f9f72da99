"""Nothing is compiled that a user would wait for once a worker serves."""

import os
import subprocess
import sys
from pathlib import Path

from serving_samples import Shop

from headrace.streams.versions.publication import Announcement

# Compiled for what, is seen in a process of its own: here, other tests have compiled everything.
WORKER = """
import sys
from numba.core.registry import CPUDispatcher
from serving_samples import work
from stream_samples import event, small
from headrace.streams.versions.publication import Announcement
from headrace.streams.adapt.serving import Serving

def compiled():
    modules = [one for name, one in sys.modules.items() if name.startswith("headrace")]
    loops = {x for one in modules for x in vars(one).values() if isinstance(x, CPUDispatcher)}
    return {(str(loop), str(form)) for loop in loops for form in loop.signatures}

serving = Serving(small(model_store=sys.argv[1]), device="cpu")
assert serving.serve(Announcement.decode(bytes.fromhex(sys.argv[2])))
before, states = compiled(), {}
for n_users in (1, 1, 3, 3):
    some = [work(f"u{u}", event(f"u{u}", f"item-{u}"), state=states.get(u)) for u in range(n_users)]
    states |= {u: result.state for u, result in enumerate(serving.process(some))}
print(*sorted(compiled() - before), sep="\\n", end="")
"""


def test_the_first_users_of_a_fresh_worker_wait_for_no_compiler(tmp_path: Path) -> None:
    announcement: Announcement = Shop(tmp_path).announce(1)
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(tmp_path), announcement.encode().hex()],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
