"""Transfer: what a new shop takes over from another's model, and what it does not."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from click.testing import CliRunner
from stream_samples import drawn, learned, small

from headrace.streams import schema
from headrace.streams.cli.main import main
from headrace.streams.errors import CheckpointError, UnreadableError
from headrace.streams.evaluation.evaluate import evaluate
from headrace.streams.learn.learner import Learner
from headrace.streams.learn.transfer import TIED_TO_ITEMS, inherit, start_from, write_model
from headrace.streams.versions.blobs import pack, unpack
from headrace.streams.versions.publication import pack_model, pack_weights

STREAM = drawn(200)
EVENTS = pl.DataFrame(
    [(e.user, e.item, e.action, e.time_ms) for _, _, e in drawn(900)],
    schema=["user", "item", "action", "time_ms"],
    orient="row",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the model file of a shop that has learned for a while."""
    path = tmp_path_factory.mktemp("other") / "model.safetensors"
    learner = learned(STREAM)
    path.write_bytes(pack_model(learner.recommender, learner.vocabulary))
    return path


def test_how_to_rank_is_taken_over_and_items_are_left_behind(model: Path) -> None:
    old, new = learned(STREAM).recommender.meta.state_dict(), Learner(small())
    before = {k: v.clone() for k, v in new.recommender.meta.state_dict().items()}
    start_from(new, str(model))
    for name, value in new.recommender.meta.state_dict().items():
        expected = before[name] if name in TIED_TO_ITEMS else old[name]
        torch.testing.assert_close(value, expected, rtol=0, atol=0, msg=name)
    assert not torch.equal(old["scorer.linear"], before["scorer.linear"])
    assert len(new.vocabulary) == 0
    torch.testing.assert_close(
        new.served.meta.state_dict(), new.recommender.meta.state_dict(), rtol=0, atol=0
    )


def test_the_scale_of_the_inputs_stays_that_of_the_weights(model: Path) -> None:
    new, fresh = Learner(small()), Learner(small())
    start_from(new, str(model))
    mean = new.recommender.meta.scorer.mean.clone()
    again = Learner(small())
    again.outer_loop.load_state(new.outer_loop.state())
    again.recommender.meta.load_state_dict(new.recommender.meta.state_dict())
    for learner in (new, again, fresh):
        learner.outer_loop.config = Learner(small()).outer_loop.config
        for at in range(0, len(STREAM), 50):
            learner.learn(STREAM[at : at + 50])
        learner.serve_version()
    for learner in (new, again):
        torch.testing.assert_close(learner.recommender.meta.scorer.mean, mean, rtol=0, atol=0)
    assert not torch.equal(fresh.recommender.meta.scorer.mean, torch.zeros_like(mean))


def test_a_model_that_no_worker_would_serve_is_nothing_to_start_from(
    model: Path, tmp_path: Path
) -> None:
    arrays, fields = unpack(model.read_bytes(), schema.MODEL)
    linear = np.full_like(arrays["meta.scorer.linear"], np.nan)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(pack(arrays | {"meta.scorer.linear": linear}, fields))
    new = Learner(small())
    before = {k: v.clone() for k, v in new.recommender.meta.state_dict().items()}
    for take in (start_from, inherit):
        with pytest.raises(CheckpointError, match="linear is not finite"):
            take(new, str(damaged))
    torch.testing.assert_close(new.recommender.meta.state_dict(), before, rtol=0, atol=0)


def test_content_of_an_item_that_nothing_was_counted_of_is_refused_in_words(
    model: Path, tmp_path: Path
) -> None:
    arrays, fields = unpack(model.read_bytes(), schema.MODEL)
    n = len(fields["ids"])
    one = {name: array[:0] for name, array in arrays.items() if name.startswith("content.")}
    one = {name: np.ones((1, *array.shape[1:]), array.dtype) for name, array in one.items()}
    one |= {"content.items": np.array([n], one["content.items"].dtype)}
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(pack(arrays | one, fields | {"ids": [*fields["ids"], "new"]}))
    for take in (start_from, inherit):
        with pytest.raises(CheckpointError, match="does not fit"):
            take(Learner(small()), str(damaged))


def test_a_model_of_another_shape_is_refused_by_what_differs(model: Path) -> None:
    with pytest.raises(CheckpointError, match="width is 8, the settings ask for 16"):
        start_from(Learner(small(encoder_width=16)), str(model))


def test_a_store_that_is_away_says_nothing_of_the_model(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise ConnectionError("no route to it")

    monkeypatch.setattr("headrace.streams.learn.transfer.fsspec.open", away)
    with pytest.raises(UnreadableError, match="cannot be read: no route to it"):
        start_from(Learner(small()), str(model))


def test_a_file_that_is_none_of_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        start_from(Learner(small()), str(path))
    path.write_bytes(b"user\titem\n" * 100)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a checkpoint .* as one$"):
        start_from(Learner(small()), str(path))


@pytest.mark.parametrize("kind", ["weights", "learner"])
def test_another_file_of_a_version_is_named_for_what_it_is(kind: str) -> None:
    url = f"s3://shop/models/v00000042.{kind}.safetensors"
    with pytest.raises(
        CheckpointError, match=rf"{url} holds a version's {kind}: name a model file"
    ):
        start_from(Learner(small()), url)


def test_weights_of_another_name_are_no_model_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(pack_weights(learned(STREAM).recommender.meta))
    with pytest.raises(CheckpointError, match="is not a version's model file: it lacks"):
        start_from(Learner(small()), str(path))


def test_a_model_that_cannot_be_saved_costs_no_report(tmp_path: Path) -> None:
    path = tmp_path / "drawn.parquet"
    EVENTS.head(30).write_parquet(path)
    sizes = ["-s", "encoder_width=8", "-s", "encoder_length=8", "-s", "replay_tasks=256"]
    ran = CliRunner().invoke(main, ["evaluate", str(path), *sizes, "--save", "/dev/full"])
    assert (ran.exit_code, json.loads(ran.stdout)["events"]) == (2, 30)
    assert ran.stderr.endswith("headrace: no space left for the output\n")


def test_an_evaluation_starts_where_another_ended(tmp_path: Path) -> None:
    path = str(tmp_path / "model.safetensors")
    write = partial(write_model, path=path)
    first = evaluate(EVENTS, small(), stream="first", n_events=900, on_learned=write)
    second = evaluate(EVENTS, small(start_from=path), stream="second", n_events=900)
    ndcg = [sum(told["over_stream"]["adapted"][1:5]) for told in (first, second)]
    assert ndcg[1] > ndcg[0]  # it knows how to weigh what is counted before it has learned here
