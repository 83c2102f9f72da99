"""The schedules are drawn from their seeds alone, and meet everything there is."""

from itertools import pairwise

from schedule import BROKERS, KINDS, NODES, draw

SECONDS = 60.0
SEEDS = range(50)


def test_a_seed_draws_the_same_schedule_again() -> None:
    assert draw(7, seconds=SECONDS) == draw(7, seconds=SECONDS) != draw(8, seconds=SECONDS)


def test_no_target_meets_two_faults_at_a_time_and_two_brokers_stay() -> None:
    for seed in SEEDS:
        spans: dict[str, list[tuple[float, float]]] = {}
        for fault in draw(seed, seconds=SECONDS):
            resource = BROKERS if fault.target in NODES else fault.target
            spans.setdefault(resource, []).append((fault.at_s, fault.at_s + fault.lasts_s))
        for of_one in spans.values():
            assert all(end - next_begin <= 0.1 for (_, end), (next_begin, _) in pairwise(of_one))
            assert all(end <= SECONDS + 0.1 for _, end in of_one)  # both are rounded to 0.1 s


def test_fifty_seeds_bring_every_fault_to_every_target() -> None:
    drawn = {(fault.kind, fault.target) for seed in SEEDS for fault in draw(seed, seconds=SECONDS)}
    assert drawn == {(kind.name, target) for kind in KINDS for target in kind.targets}
