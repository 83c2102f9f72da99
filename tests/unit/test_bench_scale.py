"""What several workers carry, and what an event costs, from counts at two moments."""

import os
import time

import pytest

from headrace.streams.bench import scale
from headrace.streams.bench.measuring import Figure
from headrace.streams.bench.scale import Counts, Run


def test_an_event_costs_what_grew_between_two_moments() -> None:
    before = Counts(10.0, 100, 2.0, 1.0, 0.25, 0.5, 0.1)
    after = Counts(14.0, 1_100, 2.5, 3.0, 0.5, 1.5, 0.4)
    run = scale.between(before, after)
    assert run.events_per_s == pytest.approx(250)
    assert run.worker_us == pytest.approx(2_000)
    assert run.fold_us == pytest.approx(250)
    assert run.model_us == pytest.approx(1_000)
    assert run.states_us == pytest.approx(300)
    assert run.client_us == pytest.approx(450)  # what is left of the worker's
    assert run.broker_us == pytest.approx(500)


def test_a_row_stands_beside_one_worker() -> None:
    one, two = [Run(100, 1, 1, 1, 1, 1, 1)] * 3, [Run(150, 2, 9, 1, 5, 3, 1)] * 3
    row = scale.row_of(2, two, alone=one)
    assert (row["workers"], row["of one"]) == ("2", 1.5)
    assert row["model us"] == Figure(5, 5, 5)


@pytest.mark.parametrize(("most", "sizes"), [(2, [1, 2]), (4, [1, 2, 4]), (7, [1, 2, 4])])
def test_workers_double(most: int, sizes: list[int]) -> None:
    assert scale.sizes(most) == sizes
    assert scale.sizes(None)[:2] == [1, 2]


def test_cpu_time_is_what_the_process_says_of_itself() -> None:
    started_s = time.process_time()
    while time.process_time() < started_s + 0.2:
        pass
    assert scale.cpu_s(os.getpid()) == pytest.approx(time.process_time(), abs=0.1)
