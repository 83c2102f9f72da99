"""A running Prometheus and its answers."""

import json
import queue
import re
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from deployment import DEPLOY, TOKEN
from prometheus_tools import PrometheusTools

LIMIT_S = 60.0  # a scrape and an evaluation are due every 5 s
POLL_S = 0.2

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prometheus:
    """The HTTP API of one process."""

    address: str

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer."""
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=LIMIT_S) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series that an expression gives now."""
        series: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return series


def until(ask: Callable[[], T], is_enough: Callable[[T], bool]) -> T:
    """Ask until the answer is enough or the limit is over; return the last answer."""
    deadline_s = time.monotonic() + LIMIT_S
    while True:
        answer = ask()
        if is_enough(answer) or time.monotonic() > deadline_s:
            return answer
        time.sleep(POLL_S)


@contextmanager
def running(tools: PrometheusTools, ports: Mapping[str, int], folder: Path) -> Iterator[Prometheus]:
    """Run Prometheus on a free port with our configuration; only targets and token differ."""
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    config["rule_files"] = [str(DEPLOY / "prometheus" / name) for name in config["rule_files"]]
    for job in config["scrape_configs"]:
        job["authorization"]["credentials_file"] = str(folder / "token")
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{ports[job['job_name']]}"]}]
    (folder / "token").write_text(TOKEN)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [
        str(tools.prometheus),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield Prometheus(_address_in_log(process))
        finally:
            process.terminate()
            process.wait(timeout=LIMIT_S)


def _address_in_log(process: subprocess.Popen[str]) -> str:
    """Return where it listens once it answers; go on reading, or its log would fill the pipe."""
    assert process.stderr is not None
    log = process.stderr
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in log:
            lines.put(line)
        lines.put("")  # the end

    threading.Thread(target=read, daemon=True).start()
    seen = ""
    while line := lines.get(timeout=LIMIT_S):
        seen += line
        if "ready to receive web requests" in line:
            (address,) = re.findall(r"Listening on.*address=(\S+)", seen)
            return str(address)
    raise RuntimeError(f"Prometheus did not start:\n{seen}")
