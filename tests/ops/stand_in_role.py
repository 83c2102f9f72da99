"""A process that looks to Prometheus like a role at work: every metric, every label.

Run as ``python stand_in_role.py {0|1} CONTENDER ...``, 1 for ready: prints its port and serves
until its standard input closes.
"""

import sys
import time
from contextlib import closing

from deployment import TOKEN

from headrace.streams import metrics
from headrace.streams.http import serve


def main(contenders: list[str], *, is_ready: bool) -> None:
    """Set what has labels or no sensible zero; the rest is there from the start."""
    metrics.READY.set(is_ready)
    metrics.MODEL_VERSION.set(1)
    metrics.MODEL_PUBLISHED.set(time.time())
    metrics.LAG.labels("0").set(3)
    metrics.DEAD_LETTERS.labels("undecodable").inc()
    metrics.CONTENT_REFUSED.labels("width").inc()
    metrics.STAGE_SECONDS.labels("compute").observe(0.01)
    metrics.CPU_SECONDS.labels("model").inc(0.01)
    for contender in contenders:
        metrics.HIT_RATIO.labels(contender).set(0.1)
        metrics.NDCG.labels(contender).set(0.05)
    server = serve("127.0.0.1", 0, is_live=lambda: True, is_ready=lambda: is_ready, token=TOKEN)
    with closing(server) as handle:
        print(handle.port, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[2:], is_ready=sys.argv[1] == "1")
