"""The protocol of ADER: a period is tested before anything of it is learned."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from click.testing import CliRunner, Result
from stream_samples import drawn, small

from headrace.streams.cli.main import main
from headrace.streams.errors import InputFileError
from headrace.streams.evaluation import ader
from headrace.streams.evaluation.ader import Continual, Round, evaluate, rounds_of, walk
from headrace.streams.evaluation.ader_baselines import Baselines
from headrace.streams.learn.transfer import write_model

Row = tuple[int, str, str]  # period, user, item

# Three periods of 200 events by other users, among twenty items.
DRAWN = [
    (at // 200, f"{event.user} in {at // 200}", event.item) for at, (_, _, event) in
    enumerate(drawn(600, n_users=40))
]  # fmt: skip


def stream(rows: Sequence[Row]) -> pl.DataFrame:
    """Return clicks, a minute apart."""
    return pl.DataFrame(
        [(user, item, "click", 60_000 * at, str(p)) for at, (p, user, item) in enumerate(rows)],
        schema=["user", "item", "action", "time_ms", "period"],
        orient="row",
    )


def rounds(*rows: Row) -> list[Round]:
    """Return the rounds of a stream."""
    return rounds_of(stream(rows), "a stream")


def taken(events: pl.DataFrame) -> list[tuple[str, str]]:
    """Return (user, item) of each event."""
    return events.select("user", "item").rows()


def learner_of(events: pl.DataFrame) -> Continual:
    """Return a model that learned a period."""
    model = Continual(small())
    model.learn(events)
    return model


# ------------------------------------------------------------------------------ what is tested


def test_new_items_are_left_out_of_a_test_and_then_sessions_of_one_event() -> None:
    first, second = rounds(
        *[(0, "ann", "tea"), (0, "ann", "milk")],
        *[(1, "bob", "tea"), (1, "bob", "new"), (1, "bob", "milk")],
        *[(1, "cat", "new"), (1, "cat", "tea"), (1, "dan", "tea")],
        *[(2, "eve", "new"), (2, "eve", "newer"), (2, "eve", "tea")],
    )
    assert (first.period, second.period) == (1, 2)
    assert taken(first.tests) == [("bob", "tea"), ("bob", "milk")]
    assert taken(second.tests) == [("eve", "new"), ("eve", "tea")]  # no longer new


def test_all_of_a_period_is_learned_and_the_last_one_only_tested() -> None:
    found = rounds((0, "ann", "tea"), (1, "bob", "new"), (2, "bob", "tea"))
    assert [taken(each.learned) for each in found] == [[("ann", "tea")], [("bob", "new")]]


def test_a_session_is_a_users_events_in_one_period() -> None:
    (_, second) = rounds((0, "ann", "tea"), (1, "bob", "tea"), (2, "bob", "tea"))
    assert taken(second.tests) == []


def test_every_event_of_a_session_but_the_first_is_tested_and_repeats_too() -> None:
    (only,) = rounds(
        *[(0, "ann", "tea"), (0, "ann", "tea"), (0, "ann", "milk")],
        *[(1, "bob", "tea"), (1, "bob", "tea"), (1, "cat", "milk"), (1, "bob", "milk")],
        (1, "cat", "milk"),
    )
    ranks = learner_of(only.learned).test(only.tests)
    for found in ranks.values():  # two items, and both are candidates: one is first
        assert len(found) == 3
        assert set(found.tolist()) <= {1, 2}


# --------------------------------------------------------------------------- what is known then


def test_a_test_changes_nothing_of_what_is_shared() -> None:
    (first, _) = rounds_of(stream(DRAWN), "drawn")
    model = learner_of(first.learned)
    learner = model.learner
    weights = {name: t.clone() for name, t in learner.recommender.meta.state_dict().items()}
    counted = learner.signals.snapshot(len(learner.vocabulary))
    users, n_tasks = list(learner.users), learner.outer_loop.n_tasks
    once, again = model.test(first.tests), model.test(first.tests)
    assert all((once[name] == again[name]).all() for name in once)
    assert (list(learner.users), learner.outer_loop.n_tasks) == (users, n_tasks)
    for name, tensor in learner.recommender.meta.state_dict().items():
        assert tensor.equal(weights[name])
    for name, values in learner.signals.snapshot(len(learner.vocabulary)).items():
        np.testing.assert_array_equal(values, counted[name])


def test_one_session_is_tested_as_if_there_were_no_other() -> None:
    (first, _) = rounds_of(stream(DRAWN), "drawn")
    model = learner_of(first.learned)
    together = model.test(first.tests)
    users = first.tests.select("user", at=pl.int_range(pl.len()).over("user"))
    owners = users.filter(pl.col("at") > 0)["user"].to_numpy()
    longest = first.tests["user"].mode().sort()[0]
    alone = model.test(first.tests.filter(pl.col("user") == longest))
    for name in together:
        assert alone[name].tolist() == together[name][owners == longest].tolist()


def test_a_session_is_tested_the_same_however_it_falls_into_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (first, _) = rounds_of(stream(DRAWN), "drawn")
    model = learner_of(first.learned)
    whole = model.test(first.tests)
    monkeypatch.setattr(ader, "EVENTS_PER_TEST", 7)
    cut = model.test(first.tests)
    assert all((whole[name] == cut[name]).all() for name in whole)


class Recorded(Continual):
    """Notes what it is given."""

    def __init__(self) -> None:
        super().__init__(small())
        self.steps: list[tuple[str, int]] = []

    def learn(self, events: pl.DataFrame, **more: object) -> None:
        self.steps.append(("learn", events["period"].unique().item()))
        super().learn(events, **more)

    def test(self, events: pl.DataFrame, **more: object) -> dict[str, np.ndarray]:
        self.steps.append(("test", events["period"].unique().item()))
        return super().test(events, **more)


def test_each_period_is_tested_before_it_is_learned() -> None:
    model = Recorded()
    tested = list(walk(rounds_of(stream(DRAWN), "drawn"), model))
    assert model.steps == [("learn", 0), ("test", 1), ("learn", 1), ("test", 2)]
    assert [each.period for each in tested] == [1, 2]


def test_the_frozen_users_lists_are_as_diverse_as_the_adapted_ones() -> None:
    (first, _) = rounds_of(stream(DRAWN), "drawn")
    model = Continual(small(inner_steps=0, diversity=1.0))  # nothing adapts
    model.learn(first.learned)
    ranks = model.test(first.tests)
    assert ranks["adapted"].tolist() == ranks["frozen"].tolist()


def test_the_model_starts_from_another_shops(tmp_path: Path) -> None:
    (first, _) = rounds_of(stream(DRAWN), "drawn")
    learner = learner_of(first.learned).learner
    write_model(learner, tmp_path / "model")
    begun = Continual(small(start_from=str(tmp_path / "model"))).learner
    assert torch.equal(begun.recommender.meta.scorer.linear, learner.recommender.meta.scorer.linear)


def test_a_period_is_known_once_it_is_learned() -> None:
    (first, second) = rounds_of(stream(DRAWN), "drawn")
    model = learner_of(first.learned)
    before = model.test(first.tests)
    model.learn(second.learned)  # what was tested
    after = model.test(first.tests)
    assert (before["frozen"] != after["frozen"]).any()
    assert (1 / after["frozen"]).mean() > (1 / before["frozen"]).mean()


def test_all_that_users_do_when_they_come_back_in_a_later_period_is_learned() -> None:
    rows = [(p, "ann", item) for p in range(3) for item in ("tea", "milk", f"only in {p}")]
    first, second = rounds(*rows)
    model = learner_of(first.learned)
    model.learn(second.learned)
    ann = model.learner.users["ann"]
    assert list(ann.items) == [item for _, _, item in rows[:6]]


# ---------------------------------------------------------------------------------- the report


def test_the_report_has_each_period_and_their_means_however_long_they_are() -> None:
    told = evaluate(rounds_of(stream(DRAWN[:500]), "drawn"), small(), stream="drawn")
    by_period = told["by_period"]
    assert [one["period"] for one in by_period] == [1, 2]
    assert (told["stream"], told["protocol"], told["events"]) == ("drawn", "ader", 400)
    assert told["tested"] == sum(one["tested"] for one in by_period)
    assert told["contenders"].keys() == {"adapted", "frozen", "covisitation", "session_knn"}
    for name, measures in told["contenders"].items():
        for measure, value in measures.items():
            mean = sum(one["contenders"][name][measure] for one in by_period) / 2
            assert value == pytest.approx(mean, abs=1e-5)
    assert told["candidate_recall"] == 1  # twenty items, candidates of everybody
    assert told["contenders"]["adapted"]["recall20"] == 1
    assert 1 / 20 < told["contenders"]["adapted"]["mrr20"] < 1


def test_a_period_without_a_test_has_no_part_in_the_means() -> None:
    rows = [
        *DRAWN[:400],
        (2, "once", "item-0"),
        *((3, user, item) for _, user, item in DRAWN[:200]),
    ]
    told = evaluate(rounds_of(stream(rows), "drawn"), small(), stream="drawn")
    one, none, other = told["by_period"]
    assert (none["tested"], none["candidate_recall"], none["contenders"]) == (0, None, {})
    for name, measures in told["contenders"].items():
        of = [period["contenders"][name]["mrr20"] for period in (one, other)]
        assert measures["mrr20"] == pytest.approx(sum(of) / 2, abs=1e-5)


def test_progress_of_each_pass_adds_up() -> None:
    cut = rounds_of(stream(DRAWN), "drawn")
    done: list[int] = []
    by_baselines: list[int] = []
    evaluate(
        cut,
        small(),
        stream="drawn",
        on_progress=done.append,
        on_baselines=by_baselines.append,
    )
    assert ader.n_steps(cut) == 400 + sum(len(each.tests) for each in cut)
    assert sum(done) == sum(by_baselines) == ader.n_steps(cut)


def test_all_contenders_are_judged_on_the_same_events() -> None:
    (first, _) = rounds_of(stream(DRAWN), "drawn")
    n = len(first.tests) - first.tests["user"].n_unique()
    baselines = Baselines(pl.concat([first.learned, first.tests]))
    ranks = learner_of(first.learned).test(first.tests) | baselines.test(first.tests)
    assert [len(found) for found in ranks.values()] == [n] * 4


# ---------------------------------------------------------------------------- wrong and command


@pytest.mark.parametrize(
    ("periods", "reason"),
    [
        (["0", "one"], "in 1 rows the period is no whole number"),
        ([0.0, 1.5], "in 1 rows the period is no whole number"),
        (["3", "3"], "one period to"),
    ],
)
def test_a_stream_that_does_not_fit_is_refused(periods: list[object], reason: str) -> None:
    events = stream([(0, "ann", "tea"), (0, "ann", "milk")])
    with pytest.raises(InputFileError, match=reason):
        rounds_of(events.with_columns(period=pl.Series(periods)), "a stream")


def test_a_stream_without_a_test_is_refused() -> None:
    cut = rounds((0, "ann", "tea"), (1, "ann", "milk"))
    with pytest.raises(InputFileError, match="no period after the first has a user with two"):
        evaluate(cut, small(), stream="a stream")


def command(path: Path, *more: str) -> Result:
    """Run the command."""
    arguments = ["evaluate", str(path), "--protocol", "ader", "-s", "encoder_width=8", *more]
    return CliRunner().invoke(main, arguments)


def test_the_command_prints_the_report(tmp_path: Path) -> None:
    path = tmp_path / "drawn.parquet"
    stream(DRAWN).rename({"action": "event"}).write_parquet(path)
    result = command(path)
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["stream"], len(told["by_period"])) == ("drawn", 2)


def test_the_command_names_what_it_cannot_do(tmp_path: Path) -> None:
    path = tmp_path / "drawn.parquet"
    stream(DRAWN).drop("period").rename({"action": "event"}).write_parquet(path)
    result = command(path)
    assert (result.exit_code, "missing column period" in result.stderr) == (2, True)
    refused = command(path, "--no-lag", "--events", "5")
    assert (refused.exit_code, "--events, --no-lag: not with" in refused.stderr) == (2, True)
