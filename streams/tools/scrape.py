"""Read a role's own metrics over HTTP: what the demo shows is what Prometheus would see."""

import http.client
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

SCRAPE_LIMIT_S = 2.0
# Settings of a role that this process scrapes: loopback, no token.
FOR_THIS_MACHINE = {"http_host": "127.0.0.1", "http_token": SecretStr(""), "http_token_file": ""}


@dataclass(slots=True)
class Scrape:
    """Samples of one moment; a metric that is not there yet reads as zero."""

    samples: dict[tuple[str, tuple[str, ...]], float] = field(default_factory=dict)

    def get(self, name: str, *labels: str) -> float:
        """Return a sample by name, without the namespace, and label values."""
        return self.samples.get((f"headrace_{name}", labels), 0.0)

    def total(self, name: str) -> float:
        """Return the sum of a metric's samples, whatever their labels."""
        return sum(value for (key, _), value in self.samples.items() if key == f"headrace_{name}")

    def quantile(self, name: str, q: float, *, since: "Scrape") -> float:
        """Return a quantile of a histogram's growth since another scrape, as Prometheus would.

        Sums over all labels but ``le``, the upper bound of a bucket. Interpolates within the
        bucket; zero if nothing was observed between the two.
        """
        counts: defaultdict[float, float] = defaultdict(float)
        for (key, labels), count in self.samples.items():
            if key == f"headrace_{name}_bucket":
                counts[float(labels[-1])] += count - since.samples.get((key, labels), 0.0)
        buckets = sorted(counts.items())
        if not buckets or buckets[-1][1] <= 0:
            return 0.0
        wanted = q * buckets[-1][1]
        below_s, below_n = 0.0, 0.0
        for upper_s, n in buckets:
            if n >= wanted:
                if upper_s == float("inf"):
                    return below_s
                return below_s + (upper_s - below_s) * (wanted - below_n) / (n - below_n)
            below_s, below_n = upper_s, n
        return below_s


def summed(scrapes: Iterable[Scrape]) -> Scrape:
    """Return the sums of each sample over several roles."""
    total: defaultdict[tuple[str, tuple[str, ...]], float] = defaultdict(float)
    for one in scrapes:
        for key, value in one.samples.items():
            total[key] += value
    return Scrape(dict(total))


def scrape(port: int) -> Scrape:
    """Return the metrics of the role at a port of this machine; empty while it does not answer."""
    try:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{port}/metrics", timeout=SCRAPE_LIMIT_S
        ) as answer:
            text = answer.read().decode()
    except (OSError, http.client.HTTPException):  # the latter where it ends in mid-answer
        return Scrape()
    return Scrape(
        {
            (sample.name, _values_of(sample.labels)): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    )


def _values_of(labels: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values in the order of the text, but a bucket's bound last."""
    return tuple(labels[name] for name in sorted(labels, key=lambda name: name == "le"))
