"""Drift: streams whose world changes, and what the report says of it, by arithmetic."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from stream_samples import drawn, small

from headrace.model.ranking_metrics import MISS, UNSCORED, ndcg_at
from headrace.streams.cli.main import main
from headrace.streams.errors import InputFileError
from headrace.streams.evaluation import drift
from headrace.streams.evaluation.drift import Change, Drift, followed, permuted, tell
from headrace.streams.evaluation.evaluate import Evaluation, evaluate


def stream(n: int, *, seed: int = 0) -> pl.DataFrame:
    """Return a drawn stream, its first time not 0."""
    return pl.DataFrame(
        [(e.user, e.item, e.action, e.time_ms) for _, _, e in drawn(n, seed=seed)],
        schema=["user", "item", "action", "time_ms"],
        orient="row",
    )


A, B = stream(60), stream(40, seed=1)


# ----------------------------------------------------------------------------------- the streams


def test_items_are_permuted_among_themselves_from_the_change_on() -> None:
    made = permuted(A, share=0.5, seed=0, n_events=1_000)
    assert made.events[:30].equals(A[:30])
    assert made.events.drop("item").equals(A.drop("item"))
    pairs = set(zip(A["item"][30:], made.events["item"][30:], strict=True))
    assert len(pairs) == A["item"][30:].n_unique() == made.events["item"][30:].n_unique()
    assert sum(old == new for old, new in pairs) < len(pairs) / 2
    assert set(made.events["item"]) <= set(A["item"])
    assert made.changes == [Change("permuted", 30, 60)]


def test_a_permutation_is_that_of_its_seed() -> None:
    one, same, other = (permuted(A, share=0.5, seed=s, n_events=60).events for s in (1, 1, 2))
    assert one.equals(same)
    assert not one.equals(other)


def test_what_follows_has_other_users_and_items_and_later_times() -> None:
    made = followed([("a.tsv", A), ("b.tsv", B)], n_events=50)
    assert made.events[:50].equals(A[:50])
    after = made.events[50:]
    for column in ("user", "item"):
        assert after[column].to_list() == [f"1/{one}" for one in B[column]]
    assert made.events["time_ms"].is_sorted()
    assert after["time_ms"].diff().equals(B["time_ms"].diff())
    (change,) = made.changes
    assert (change.what, change.start, change.end) == ("b", 50, 90)
    assert change.undisturbed is None
    assert made.n_more == 40


def test_a_file_that_comes_back_goes_on_where_it_was_left() -> None:
    made = followed([("a.tsv", A), ("b.tsv", B), ("a.tsv", A)], n_events=35)
    back = made.changes[1]
    assert (back.start, back.end) == (70, 95)  # 35 of each, and the 25 that are left of the first
    assert made.events["item"][70:].to_list() == A["item"][35:].to_list()
    assert back.alone is not None
    assert back.alone.equals(A[35:])
    assert back.undisturbed is not None
    assert back.undisturbed.equals(A)
    assert made.n_more == 35 + 25 + 60


def test_a_file_without_events_left_cannot_follow() -> None:
    with pytest.raises(InputFileError, match=r"a\.tsv: there are no events left"):
        followed([("a.tsv", A), ("b.tsv", B), ("a.tsv", A)], n_events=60)


def test_files_whose_events_have_other_contexts_are_named() -> None:
    one, other = (
        table.with_columns(context=pl.struct(pl.lit("x").alias(name)))
        for table, name in ((A, "country"), (B, "device"))
    )
    for first in (one, A):
        with pytest.raises(InputFileError, match=r"a\.tsv, b\.tsv: the context of events has"):
            followed([("a.tsv", first), ("b.tsv", other)], n_events=10)


# ------------------------------------------------------------------------------------ the report


@pytest.fixture(autouse=True)
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let windows be of 10 events."""
    for name, n in {"LEVEL": 20, "WINDOW": 10, "MOVING": 20}.items():
        monkeypatch.setattr(drift, name, n)


def ranks(*windows: int) -> np.ndarray:
    """Return ten events of each rank."""
    return np.repeat(windows, 10)


def never(_: pl.DataFrame) -> dict[str, np.ndarray]:
    """Stand for the evaluation of other events where none is asked for."""
    raise AssertionError("nothing is to be evaluated")


def test_recovery_is_to_nearly_the_level_before() -> None:
    # NDCG@10 of ranks 1 and 3: 1 and 1/2. Before: the last 20, not the miss at the start. After it
    # the means of 20 are 0, 0.25, 0.5, 0.75, 1: the last is the first with 0.9.
    its = ranks(MISS, 1, 1, MISS, MISS, 3, 3, 1, 1)
    its[35] = UNSCORED
    (told,) = tell(Drift(A, [Change("permuted", 30, 90)]), {"adapted": its}, never)
    found = told["contenders"]["adapted"]
    assert found["before"] == 1
    assert found["after"] == [0, 0, 0.5, 0.5, 1, 1]
    assert found["recovered"] == 60
    assert told["start"] == 30
    assert "kept" not in told


def test_what_does_not_come_back_has_not_recovered() -> None:
    for its in (ranks(1, 1, 3, 3, 3), ranks(MISS, MISS, MISS, MISS, MISS)):
        (told,) = tell(Drift(A, [Change("permuted", 20, 50)]), {"adapted": its}, never)
        assert told["contenders"]["adapted"]["recovered"] is None


def test_another_file_is_compared_with_a_start_from_nothing() -> None:
    alone = B[:30]
    changes = [Change("b", 20, 50, alone)]
    fresh = {"adapted": ranks(MISS, 3, 3), "mix": ranks(1, 1, 1)}
    its = {"adapted": ranks(1, 1, MISS, MISS, 3), "mix": ranks(1, 1, 3, 3, 3)}
    (told,) = tell(Drift(A, changes), its, lambda part: fresh if part is alone else never(part))
    found = told["contenders"]
    assert found["fresh"]["after"] == [0, 0.5, 0.5]
    # Means of 20: 0 and 0.25, against 0.25 and 0.5: never. The level before, 1, does not count.
    assert found["adapted"]["recovered"] is None
    assert found["mix"]["recovered"] is None
    its["adapted"][20:40] = 3
    (told,) = tell(Drift(A, changes), its, lambda _: fresh)
    assert told["contenders"]["adapted"]["recovered"] == 20


def test_what_is_kept_is_told_beside_never_having_left_and_never_having_been_there() -> None:
    alone, whole = A[30:], A
    found = {
        id(alone): {"adapted": ranks(MISS, MISS, 1)},
        id(whole): {"adapted": ranks(MISS, MISS, MISS, 1, 1, MISS)},
    }
    its = {"adapted": ranks(1, 1, 1, 3, 3, 1)}
    (told,) = tell(Drift(A, [Change("a", 30, 60, alone, whole)]), its, lambda part: found[id(part)])
    assert told["kept"]["adapted"] == {"returned": 0.5, "undisturbed": 1, "fresh": 0}


def test_an_evaluation_tells_of_each_change_and_of_every_contender() -> None:
    a, b = stream(600), stream(300, seed=1)
    made = followed([("a", a), ("b", b), ("a", a)], n_events=300)
    done: list[int] = []
    by_baselines: list[int] = []
    told = evaluate(
        made.events,
        small(),
        stream="a",
        n_events=900,
        drift=made,
        on_progress=done.append,
        on_baselines=by_baselines.append,
    )
    assert [one["what"] for one in told["drift"]] == ["b", "a"]
    names = set(told["contenders"])
    for one in told["drift"]:
        assert set(one["contenders"]) == names | {"fresh"}
    assert set(told["drift"][1]["kept"]) == names
    assert sum(done) == sum(by_baselines) == 900 + made.n_more
    # Fresh is what the file gives as a stream of its own.
    own = Evaluation(small()).run(b)["adapted"]
    expected = [ndcg_at(r[r != UNSCORED], 10) for r in np.split(own, 30)]
    assert max(expected) > 0
    assert told["drift"][0]["contenders"]["fresh"]["after"] == pytest.approx(expected, abs=1e-5)


def test_the_command_takes_one_change_of_the_world(tmp_path: Path) -> None:
    path = str(tmp_path / "a.tsv")
    A.rename({"action": "event", "time_ms": "timestamp"}).write_csv(path, separator="\t")
    small_model = ["-s", "encoder_width=8", "-s", "encoder_length=8", "-s", "replay_tasks=256"]
    command = ["evaluate", path, "--events", "30", *small_model]
    for flags, what in ((["--then", path], "a"), (["--permute-items", "0.5"], "permuted")):
        result = CliRunner().invoke(main, [*command, *flags])
        assert result.exit_code == 0, result.output
        assert [one["what"] for one in json.loads(result.stdout)["drift"]] == [what]
    both = CliRunner().invoke(main, [*command, "--then", path, "--permute-items", "0.5"])
    assert both.exit_code == 2
    assert "not both" in both.stderr
