"""Baselines against slow plain Python, written from their definitions, on 1,500 events."""

import math
from collections import Counter, defaultdict

import numpy as np
import numpy.typing as npt
import pytest

from headrace.model.baselines.counting import baseline_ranks
from headrace.model.ranking_metrics import MISS, UNSCORED

Ranks = dict[str, npt.NDArray[np.int64]]


def slow_popularity(users: list[int], items: list[int], *, fade: float) -> list[int]:
    counts: dict[int, float] = {}
    order: list[int] = []
    last: dict[int, int] = {}
    ranks = []
    for t, (user, item) in enumerate(zip(users, items, strict=True)):
        if t % 200 == 0:
            order = sorted(counts, key=lambda y: -counts[y])
            counts = {y: count * fade for y, count in counts.items()}
        place = order.index(item) + 1 if item in order else MISS
        ranks.append(UNSCORED if last.get(user) == item else place)
        counts[item] = counts.get(item, 0) + 1
        last[user] = item
    return ranks


def slow_covisitation(users: list[int], items: list[int]) -> list[int]:
    followers: defaultdict[int, Counter[int]] = defaultdict(Counter)
    last: dict[int, int] = {}
    ranks = []
    popularity = slow_popularity(users, items, fade=1.0)
    for user, item, popular in zip(users, items, popularity, strict=True):
        before = last.get(user)
        if before == item:
            ranks.append(UNSCORED)
            continue
        if before is None:
            ranks.append(popular)
        else:
            order = [other for other, _ in followers[before].most_common()]
            ranks.append(order.index(item) + 1 if item in order else MISS)
            followers[before][item] += 1
        last[user] = item
    return ranks


def slow_repeat(users: list[int], items: list[int]) -> list[int]:
    histories: defaultdict[int, list[int]] = defaultdict(list)
    ranks = []
    for user, item in zip(users, items, strict=True):
        own = histories[user]
        if own and own[-1] == item:
            ranks.append(UNSCORED)
        else:
            weights: defaultdict[int, float] = defaultdict(float)
            for step, other in enumerate(reversed(own[-50:])):
                weights[other] += 0.9**step
            if own:
                del weights[own[-1]]
            mine = weights.get(item)
            ranks.append(
                MISS if mine is None else 1 + sum(w > mine + 1e-12 for w in weights.values())
            )
        own.append(item)
    return ranks


class SlowMix:
    """The mix in the words of its definition: candidates, four features, one step of learning."""

    def __init__(self) -> None:
        self.weights = [1.0, 1.0, 1.0, 0.3]
        self.squares = [0.01] * 4
        self.histories: defaultdict[int, list[int]] = defaultdict(list)
        self.followers: defaultdict[int, Counter[int]] = defaultdict(Counter)
        self.popularity: Counter[int] = Counter()
        self.order: list[int] = []

    def ranks(self, users: list[int], items: list[int]) -> list[int]:
        ranks = []
        for t, (user, item) in enumerate(zip(users, items, strict=True)):
            if t % 200 == 0:
                self.order = [y for y, _ in self.popularity.most_common()]
            own = self.histories[user]
            if own and own[-1] == item:
                ranks.append(UNSCORED)
            else:
                ranks.append(self.rank_and_learn(own, item))
                if own:
                    self.followers[own[-1]][item] += 1
            own.append(item)
            self.popularity[item] += 1
        return ranks

    def rank_and_learn(self, own: list[int], item: int) -> int:
        features = self.features(own[::-1])
        if own:
            del features[own[-1]]
        if item not in features:
            return MISS
        scores = {
            y: sum(w * x for w, x in zip(self.weights, row, strict=True))
            for y, row in features.items()
        }
        total = sum(math.exp(score) for score in scores.values())
        for f in range(4):
            expected = sum(math.exp(scores[y]) / total * row[f] for y, row in features.items())
            gradient = expected - features[item][f]
            self.squares[f] += gradient**2
            self.weights[f] -= 0.3 * gradient / math.sqrt(self.squares[f])
        return 1 + sum(score > scores[item] + 1e-12 for score in scores.values())

    def features(self, latest: list[int]) -> dict[int, list[float]]:
        shares: defaultdict[int, float] = defaultdict(float)
        for k, y in enumerate(latest[:3]):
            for follower, count in self.followers[y].most_common(60):
                shares[follower] += 0.6**k * count / self.followers[y].total()
        candidates = [*latest[:50], *shares, *self.order[:100]]
        return {
            y: [
                math.log(1 + 10 * sum(0.9**k for k, x in enumerate(latest[:50]) if x == y)),
                1 / (latest.index(y) + 1) if y in latest[:50] else 0.0,
                math.log(1 + 100 * shares.get(y, 0.0)),
                math.log(1 + self.popularity[y]),
            ]
            for y in candidates
        }


@pytest.fixture(scope="module")
def stream() -> tuple[list[int], list[int]]:
    # 200 items and some 80 followers of the frequent ones: more than the mix takes as candidates.
    random = np.random.default_rng(0)
    users = random.integers(0, 12, 1_500)
    items = (random.pareto(0.7, 1_500) * 8).astype(int) % 200
    return users.tolist(), items.tolist()


@pytest.fixture(scope="module")
def compiled(stream: tuple[list[int], list[int]]) -> Ranks:
    users, items = (np.array(column, np.int32) for column in stream)
    return baseline_ranks(users, items, np.zeros(len(users), np.int64))


def test_compiled_popularity_equals_plain_python(
    stream: tuple[list[int], list[int]], compiled: Ranks
) -> None:
    assert compiled["popularity"].tolist() == slow_popularity(*stream, fade=1.0)
    assert compiled["recent_popularity"].tolist() == slow_popularity(*stream, fade=0.9)


def test_compiled_repeat_equals_plain_python(
    stream: tuple[list[int], list[int]], compiled: Ranks
) -> None:
    assert compiled["repeat"].tolist() == slow_repeat(*stream)


def test_compiled_covisitation_equals_plain_python(
    stream: tuple[list[int], list[int]], compiled: Ranks
) -> None:
    assert compiled["covisitation"].tolist() == slow_covisitation(*stream)


def test_compiled_mix_equals_plain_python(
    stream: tuple[list[int], list[int]], compiled: Ranks
) -> None:
    assert compiled["online_mix"].tolist() == SlowMix().ranks(*stream)
