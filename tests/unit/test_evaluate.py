"""Evaluating a recorded stream: each event is ranked before anything learns from it."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from content_rig import contents
from stream_samples import drawn, small

from headrace.model.ranking_metrics import MISS, UNSCORED
from headrace.streams.cli.main import main
from headrace.streams.errors import InputFileError
from headrace.streams.evaluation.evaluate import Evaluation, evaluate
from headrace.streams.records import Item

NAMES = ("adapted", "frozen", "twin", "placebo")
STREAM = pl.DataFrame(
    [(e.user, e.item, e.action, e.time_ms) for _, _, e in drawn(400)],
    schema=["user", "item", "action", "time_ms"],
    orient="row",
)


def stream(*rows: tuple[str, str]) -> pl.DataFrame:
    """Return clicks of (user, item), a minute apart."""
    return pl.DataFrame(
        [(user, item, "click", 60_000 * at) for at, (user, item) in enumerate(rows)],
        schema=["user", "item", "action", "time_ms"],
        orient="row",
    )


def ranks_of(events: pl.DataFrame, *, has_lag: bool = True, **sizes: int) -> dict[str, np.ndarray]:
    """Return each contender's ranks."""
    return Evaluation(small(), has_lag=has_lag, **sizes).run(events)


@pytest.mark.parametrize("has_lag", [True, False])
def test_every_event_is_ranked_or_repeats_its_users_last(has_lag: bool) -> None:
    ranks = ranks_of(STREAM, has_lag=has_lag, events_per_delta=50, events_per_version=100)
    last: dict[str, str] = {}
    repeats = []
    for user, item in STREAM.select("user", "item").iter_rows():
        repeats.append(last.get(user) == item)
        last[user] = item
    for name in NAMES:
        assert (ranks[name] == UNSCORED).tolist() == repeats
        assert ((ranks[name] >= 0) & ((ranks[name] <= 20) | (ranks[name] == MISS))).all()


@pytest.mark.parametrize(
    ("has_lag", "events_per_delta", "rank"),
    [(True, 4, MISS), (True, 2, 1), (False, 4, 1)],
)
def test_what_others_did_is_known_from_the_next_delta_on_or_at_once(
    has_lag: bool, events_per_delta: int, rank: int
) -> None:
    # Ann took milk after tea; bob has just taken tea: milk is all there is for him.
    events = stream(("ann", "tea"), ("ann", "milk"), ("bob", "tea"), ("bob", "milk"))
    ranks = ranks_of(events, has_lag=has_lag, events_per_delta=events_per_delta)
    assert ranks["frozen"][3] == rank


def test_nothing_is_known_of_the_event_that_is_judged() -> None:
    # Ten items that nobody took before: none can have been ranked.
    events = stream(*[("ann", f"item-{i}") for i in range(10)])
    for has_lag in (True, False):
        assert (ranks_of(events, has_lag=has_lag, events_per_delta=1)["adapted"] == MISS).all()


def test_the_same_stream_gives_the_same_ranks() -> None:
    one, other = (ranks_of(STREAM, events_per_delta=50) for _ in range(2))
    assert all((one[name] == other[name]).all() for name in NAMES)


def report(events: pl.DataFrame, *, n_events: int = 1_000, **more: object) -> dict:
    """Return the report of a stream."""
    return evaluate(events, small(), stream="drawn", n_events=n_events, **more)


def test_the_report_counts_the_second_half_and_leaves_out_repeats() -> None:
    told = report(STREAM)
    users, items = STREAM["user"].to_list(), STREAM["item"].to_list()
    last: dict[str, str] = {}
    scored = 0
    for at, (user, item) in enumerate(zip(users, items, strict=True)):
        scored += at >= 200 and last.get(user) != item
        last[user] = item
    assert (told["stream"], told["events"], told["scored"]) == ("drawn", 400, scored)
    assert (told["items"], told["seed"], told["lag"]) == (20, 0, True)
    assert told["candidate_recall"] == 1  # all twenty items are candidates of everybody


def test_the_report_compares_the_model_with_itself_unadapted_and_with_counting() -> None:
    told = report(STREAM)["contenders"]
    assert {"adapted", "frozen", "popularity", "session_knn", "online_mix"} <= told.keys()
    for summary in told.values():
        assert 0 <= summary["mrr10"] <= summary["ndcg10"] <= summary["hr10"] <= 1
    assert told["adapted"]["hr10"] > 10 / 19  # better than ten of the other nineteen by chance


def test_the_report_says_what_adapting_adds_by_length_of_history() -> None:
    told = report(STREAM)
    contenders = told["contenders"]
    assert told["adapting"].keys() == {"versus_twin", "versus_placebo", "versus_frozen"}
    for name, parts in told["adapting"].items():
        other = contenders[name.removeprefix("versus_")]
        expected = contenders["adapted"]["ndcg10"] - other["ndcg10"]
        assert parts["all"]["difference"] == pytest.approx(expected, abs=2e-5)
        assert (parts["all"]["low"], parts["all"]["high"]) == (None, None)  # of seven users
        lengths = [parts[length]["events"] for length in ("under_5", "5_to_20", "over_20")]
        assert sum(lengths) == parts["all"]["events"] == told["scored"]
    assert told["seconds"] > 0


def test_the_report_is_json_that_any_reader_takes() -> None:
    told = report(STREAM.head(10))  # nobody has twenty events yet
    assert told["adapting"]["versus_twin"]["over_20"]["difference"] is None
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_only_interactions_count_and_only_so_many() -> None:
    shown = pl.DataFrame(
        [("ann", "tea", "impression", 0), ("ann", "tea", "return", 1)],
        schema=STREAM.schema,
        orient="row",
    )
    told = report(pl.concat([shown, STREAM]), n_events=100)
    assert told["events"] == 100
    assert told["contenders"] == report(STREAM.head(100))["contenders"]


def test_more_diversity_sets_the_lists_of_every_contender_further_apart() -> None:
    described = {}
    for diversity in (0.0, 0.5):
        evaluation = Evaluation(small(diversity=diversity), events_per_version=200)
        evaluation.run(STREAM)
        described[diversity] = evaluation.describe_lists()
    plain, diverse = described[0.0], described[0.5]
    assert 0 < plain["adapted"]["coverage"] <= 1
    for name in ("adapted", "frozen", "twin"):
        assert diverse[name]["distance"] > plain[name]["distance"]


def test_lists_for_each_action_are_as_diverse_as_those_of_the_shop() -> None:
    actions = pl.Series("action", ["view", "purchase"] * 200)
    settings = small(diversity=0.5, target_action="purchase")
    evaluation = Evaluation(settings, events_per_delta=50, events_per_version=100)
    ranks = evaluation.run(STREAM.with_columns(actions))
    assert ranks["for_purchase"].tolist() == ranks["adapted"].tolist()


def test_the_report_describes_the_lists_of_each_contender_that_has_any() -> None:
    lists = report(STREAM)["lists"]
    assert lists.keys() == {"adapted", "frozen", "twin"}
    # Before the first version nothing is known that items could be apart by.
    assert all(one.keys() == {"coverage", "novelty"} for one in lists.values())
    catalogue = [Item(item=f"item-{i}", title=f"tea {i}") for i in range(20)]
    described = report(STREAM, items=catalogue)["lists"]["adapted"]
    assert 0 < described["distance"] < 1


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        # Nothing in the second half is scored: it repeats.
        (("tea", "milk", "tea", "milk", "milk", "milk", "milk", "milk"), 0),
        # After milk, tea is all there is to show; milk was shown to the event before the half.
        (("tea", "milk", "tea", "milk", "milk", "tea", "tea", "tea"), 1 / 2),
    ],
)
def test_only_lists_of_scored_events_are_described(items: tuple[str, ...], expected: float) -> None:
    evaluation = Evaluation(small(), events_per_delta=3)  # the second block lies across the half
    evaluation.run(stream(*[("ann", item) for item in items]))
    assert evaluation.describe_lists()["adapted"]["coverage"] == expected


def test_progress_of_each_pass_adds_up_to_the_stream() -> None:
    done: list[int] = []
    by_baselines: list[int] = []
    report(STREAM, on_progress=done.append, on_baselines=by_baselines.append)
    assert sum(done) == sum(by_baselines) == 400


def test_the_catalogues_categories_reach_the_signals_that_rank() -> None:
    catalogue = [Item(item=f"item-{i}", categories=("drinks", f"kind-{i % 2}")) for i in range(20)]
    told = report(STREAM, items=catalogue)["contenders"]
    plain = report(STREAM)["contenders"]
    assert told["online_mix"] == plain["online_mix"]  # it knows of no categories
    assert told["frozen"] != plain["frozen"]


def test_lists_for_each_action_are_judged_by_the_events_of_each() -> None:
    # Everyone views anything new, and purchases what they had before the last.
    random = np.random.default_rng(0)
    had: dict[str, list[int]] = {f"user-{u}": [0, 1] for u in range(10)}
    rows = []
    for at in range(5_000):
        user = f"user-{random.integers(10)}"
        action = ("view", "purchase")[random.integers(2)]
        others = [item for item in range(20) if item not in had[user][-2:]]
        item = had[user][-2] if action == "purchase" else int(random.choice(others))
        had[user].append(item)
        rows.append((user, f"item-{item}", action, 60_000 * at))
    events = pl.DataFrame(rows, schema=STREAM.schema, orient="row")
    told = evaluate(events, small(replay_batches=16), stream="drawn", n_events=5_000)
    found = told["by_action"]
    assert found.keys() == {"view", "purchase"}
    assert sum(one["events"] for one in found.values()) == told["scored"]
    for action, other in (("view", "purchase"), ("purchase", "view")):
        own = found[action][f"for_{action}"]["ndcg10"]
        assert own > found[action]["adapted"]["ndcg10"] - 0.001  # of purchases it misses none
        assert own > found[action][f"for_{other}"]["ndcg10"] + 0.02
        assert found[action][f"for_{other}"]["gain"]["low"] > 0


def test_of_one_action_nothing_is_told_apart() -> None:
    assert report(STREAM)["by_action"] == {}


def test_a_file_without_interactions_is_told() -> None:
    shown = STREAM.with_columns(action=pl.lit("impression"))
    with pytest.raises(InputFileError, match="shown has no interactions"):
        evaluate(shown, small(), stream="shown", n_events=100)


def test_the_command_counts_the_events_that_are_ranked_in_each_pass(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    rows = ["ann,tea,click,1", "ann,milk,impression,2", "ann,milk,click,3", "bob,tea,click,4"]
    path.write_text("\n".join(["user,item,event,time_ms", *rows]))
    ran = CliRunner().invoke(main, ["evaluate", str(path), "-s", "encoder_width=8"])
    assert json.loads(ran.stdout)["events"] == 3
    bars = [line.split() for line in ran.stderr.splitlines() if "/" in line]
    assert [(label, count) for label, _, count, *_ in bars] == [
        ("model", "3/3"),
        ("baselines", "3/3"),
    ]


@pytest.mark.parametrize(
    ("options", "notes"),
    [
        ([], ["too few events for a version"]),
        (["--no-lag"], []),
        (["-s", 'leave_out={"view":-1}'], ["too few events for a version", "leave_out"]),
    ],
)
def test_the_command_notes_what_its_figures_do_not_show(
    tmp_path: Path, options: list[str], notes: list[str]
) -> None:
    path = tmp_path / "e.parquet"
    STREAM.head(60).rename({"action": "event"}).write_parquet(path)
    ran = CliRunner().invoke(main, ["evaluate", str(path), "-s", "encoder_width=8", *options])
    assert ran.exit_code == 0, ran.stderr
    assert json.loads(ran.stdout)["versions"] == 0
    told = [line for line in ran.stderr.splitlines() if line.startswith("note: ")]
    assert len(told) == len(notes)
    assert all(note in line for note, line in zip(notes, told, strict=True))


def test_versions_are_counted_as_they_are_due() -> None:
    evaluation = Evaluation(small(), events_per_delta=50, events_per_version=100)
    evaluation.run(STREAM)
    assert evaluation.n_versions == 4


def test_where_users_make_room_for_others_all_contenders_are_judged_by_the_same_events() -> None:
    # Each comes back for the same item: to a model that has forgotten them that is a first time.
    rows = [(f"user-{at % 40}", f"item-{at % 40 % 7}") for at in range(400)]
    told = evaluate(stream(*rows), small(learn_users=4), stream="drawn", n_events=400)
    json.dumps(told, allow_nan=False)
    assert told["scored"] == 0


def test_a_catalogue_of_today_describes_what_was_on_offer_then() -> None:
    def known(*, active: bool) -> dict[str, bytes]:
        evaluation = Evaluation(small())
        evaluation.know([Item(item="item-1", title="green tea", active=active)])
        return contents(evaluation.learner)

    assert known(active=False) == known(active=True)
    assert known(active=True)
