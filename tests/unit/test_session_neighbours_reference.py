"""Session neighbours against slow plain Python, written from their definition."""

import math
from collections import defaultdict

import numpy as np
import pytest

from headrace.model.baselines.counting import baseline_ranks
from headrace.model.ranking_metrics import MISS, UNSCORED

Sequence = tuple[int, int]  # (user, number of the sequence)


class SlowNeighbours:
    """Everything is a list that is looked through from its end."""

    def __init__(self, n_own: int) -> None:
        self.n_own = n_own
        self.had: defaultdict[int, list[int]] = defaultdict(list)
        self.taken: list[tuple[int, Sequence, int]] = []  # (item, sequence, position in it)
        self.sequences: defaultdict[Sequence, list[int]] = defaultdict(list)
        self.times: dict[Sequence, int] = {}
        self.own_log = 0.0

    def ranks(self, users: list[int], items: list[int], times: list[int]) -> list[int]:
        ranks = []
        for user, item, time in zip(users, items, times, strict=True):
            had = self.had[user]
            if had and had[-1] == item:
                ranks.append(UNSCORED)
                self.times[user, (len(had) - 1) // 30] = time
                continue
            # A user without history gets the recently popular: another baseline's rule.
            ranks.append(self.rank(had, item, time) if had else -1)
            key = (user, len(had) // 30)
            self.taken.append((item, key, len(self.sequences[key])))
            self.sequences[key].append(item)
            self.times[key] = time
            had.append(item)
        return ranks

    def rank(self, had: list[int], item: int, time: int) -> int:
        scores = self.scores(had, time)
        scores.pop(had[-1], None)
        own = set(had[-self.n_own :])
        for other in own & scores.keys():
            scores[other] *= math.exp(self.own_log)
        if item not in scores:
            return MISS
        shares = {other: score**1.5 for other, score in scores.items()}
        own_share = sum(share for other, share in shares.items() if other in own)
        self.own_log += 0.05 * ((item in own) - own_share / sum(shares.values()))
        return 1 + sum(score > scores[item] * (1 + 1e-12) for score in scores.values())

    def scores(self, had: list[int], time: int) -> dict[int, float]:
        similarity: defaultdict[Sequence, float] = defaultdict(float)
        common: dict[Sequence, int] = {}
        latest = had[-20:][::-1]
        for step, query in enumerate(latest):
            if query in latest[:step]:
                continue
            places = [(key, at) for taken, key, at in reversed(self.taken) if taken == query]
            for key, at in places[:500]:
                common.setdefault(key, at)
            for key in dict.fromkeys(key for key, _ in places[:500]):
                similarity[key] += (1 + step) ** -1.5
        for key in similarity:
            similarity[key] *= (1 + (time - self.times[key]) / 86_400) ** -0.15
        least = sorted(similarity.values(), reverse=True)[:200][-1]
        scores: defaultdict[int, float] = defaultdict(float)
        for key, value in similarity.items():
            if value >= least:
                for at, other in enumerate(self.sequences[key]):
                    distance = at - common[key]
                    if distance:
                        weight = value * abs(distance) ** -0.8
                        scores[other] += weight if distance > 0 else weight / 2
        return scores


@pytest.mark.parametrize(
    ("seed", "n_users", "n_items", "n_own"),
    # A few long histories; many short ones, with more neighbours than are taken and more places
    # of the frequent items than are looked at.
    [(0, 12, 200, 200), (1, 400, 12, 200), (2, 60, 60, 200), (0, 12, 200, 20)],
)
def test_compiled_neighbours_equal_plain_python(
    seed: int, n_users: int, n_items: int, n_own: int
) -> None:
    random = np.random.default_rng(seed)
    n = 2_500
    users = random.integers(0, n_users, n)
    items = (random.pareto(0.9, n) * 6).astype(int) % n_items
    times = np.sort(random.integers(0, 300, n)) * 43_200
    compiled = baseline_ranks(users.astype(np.int32), items.astype(np.int32), times, n_own=n_own)[
        "session_knn"
    ]
    slow = SlowNeighbours(n_own).ranks(users.tolist(), items.tolist(), times.tolist())
    is_newcomer = np.array(slow) == -1
    assert is_newcomer.sum() == len(set(users.tolist()))
    assert compiled[~is_newcomer].tolist() == [rank for rank in slow if rank != -1]
    assert 0 < (compiled[~is_newcomer] == MISS).sum() < n / 2
