"""Reading a role's metrics back: samples by name, quantiles by Prometheus' arithmetic."""

import socket
import threading
from contextlib import closing

import pytest
from prometheus_client import REGISTRY, Histogram

from headrace.streams import metrics
from headrace.streams.http import serve
from headrace.streams.tools.scrape import Scrape, scrape


def histogram(counts: dict[str, float]) -> Scrape:
    """Return a scrape of a histogram with these cumulative counts."""
    return Scrape({("headrace_wait_seconds_bucket", (le,)): n for le, n in counts.items()})


NOTHING = Scrape()
# Ten waits of up to 0.1 s, then ten of up to 0.5 s, then four longer ones.
WAITS = histogram({"0.1": 10, "0.5": 20, "1.0": 20, "+Inf": 24})


@pytest.mark.parametrize(
    ("q", "seconds"),
    [
        (5 / 24, 0.05),  # the 5th of 10 within 0 to 0.1
        (10 / 24, 0.1),
        (15 / 24, 0.3),  # the 5th of 10 within 0.1 to 0.5
        (20 / 24, 0.5),
        (22 / 24, 1.0),  # beyond the last bound nothing is known but that
    ],
)
def test_a_quantile_is_interpolated_within_its_bucket(q: float, seconds: float) -> None:
    assert WAITS.quantile("wait_seconds", q, since=NOTHING) == pytest.approx(seconds)


def test_a_quantile_is_of_what_was_observed_since_another_scrape() -> None:
    later = histogram({"0.1": 10, "0.5": 24, "1.0": 24, "+Inf": 28})
    # Since then: four within 0.1 to 0.5.
    assert later.quantile("wait_seconds", 0.5, since=WAITS) == pytest.approx(0.3)


def test_a_quantile_of_nothing_is_zero() -> None:
    assert NOTHING.quantile("wait_seconds", 0.5, since=NOTHING) == 0
    assert WAITS.quantile("wait_seconds", 0.5, since=WAITS) == 0


def test_a_quantile_is_of_all_values_of_the_other_labels() -> None:
    counts = {("read", "0.1"): 6, ("read", "+Inf"): 6, ("write", "0.1"): 2, ("write", "+Inf"): 4}
    both = Scrape({("headrace_wait_seconds_bucket", labels): n for labels, n in counts.items()})
    # Eight of ten within 0 to 0.1.
    assert both.quantile("wait_seconds", 0.4, since=NOTHING) == pytest.approx(0.05)


def test_a_metric_that_is_not_there_reads_as_zero() -> None:
    assert NOTHING.get("events_total") == 0
    assert WAITS.get("wait_seconds_bucket", "0.5") == 20


def test_samples_are_read_from_a_role_by_name_and_label() -> None:
    with closing(serve("127.0.0.1", 0, is_live=lambda: True, is_ready=lambda: True)) as server:
        before = scrape(server.port)
        metrics.DEAD_LETTERS.labels("empty").inc(3)
        metrics.MICRO_BATCH_USERS.observe(3)
        after = scrape(server.port)
    grown = after.get("dead_letters_total", "empty") - before.get("dead_letters_total", "empty")
    assert grown == 3
    assert after.quantile("micro_batch_users", 1.0, since=before) == 4  # the bucket of 3 and 4


def test_a_role_that_ends_while_it_answers_reads_as_one_that_does_not() -> None:
    def answer() -> None:
        asking, _ = listener.accept()
        with asking:
            asking.recv(1_000)
            asking.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\nheadrace_ready 1\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        role = threading.Thread(target=answer)
        role.start()
        assert scrape(listener.getsockname()[1]) == NOTHING
        role.join()


@pytest.mark.parametrize("label", ["action", "stage"])  # on either side of "le"
def test_a_quantile_is_read_from_a_role_whose_histogram_has_another_label(label: str) -> None:
    waits = Histogram("wait_seconds", "", [label], namespace="headrace", buckets=[1.0, 2.0])
    try:
        for value, seconds in [("a", 0.5), ("b", 1.5), ("b", 1.5)]:
            waits.labels(value).observe(seconds)
        with closing(serve("127.0.0.1", 0, is_live=lambda: True, is_ready=lambda: True)) as server:
            found = scrape(server.port)
    finally:
        REGISTRY.unregister(waits)
    assert found.get("wait_seconds_bucket", "b", "2.0") == 2
    # The first of two within 1 to 2.
    assert found.quantile("wait_seconds", 2 / 3, since=NOTHING) == pytest.approx(1.5)


def test_a_total_is_over_all_labels() -> None:
    lag = {("headrace_lag", ("0",)): 3.0, ("headrace_lag", ("1",)): 4.0, ("headrace_users", ()): 9}
    assert Scrape(lag).total("lag") == 7
    assert NOTHING.total("lag") == 0


def test_a_role_that_does_not_answer_has_no_samples() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert scrape(port).samples == {}
