"""What a learn role that starts again goes on from, and what it tells where it cannot."""

import asyncio
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from publisher_rig import GUARD, Sent, publishing
from serving_samples import metric
from stream_samples import drawn, learned, small

from headrace.streams.errors import (
    SettingsError,
    TopicMismatchError,
    UnreadableError,
)
from headrace.streams.learn import publisher as publisher_module
from headrace.streams.learn.learner import Learner
from headrace.streams.learn.learner_state import Positions
from headrace.streams.learn.publisher import Publisher
from headrace.streams.learn.transfer import write_model
from headrace.streams.settings import Settings
from headrace.streams.versions.publication import Announcement, Fragment
from headrace.streams.versions.store import ModelStore, StoredFile


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """Return a broker whose announcements publishers read as they restore."""
    made = Sent()
    monkeypatch.setattr(publisher_module, "announcements", lambda _: made.announced[::-1])
    return made


def publish_one(settings: Settings, thread: Executor, sent: Sent) -> None:
    """Let a role that has learned 60 events publish a version."""
    publisher = Publisher(settings, learned(drawn(60)), thread, {0: 60})
    asyncio.run(publisher.publish_version(sent.send, GUARD))


def test_with_new_topics_a_version_has_a_higher_number_than_those_of_an_old_store(
    tmp_path: Path, sent: Sent
) -> None:
    settings = small(model_store=str(tmp_path), versions_kept=2)
    announced = sent.announced

    with ThreadPoolExecutor(1) as thread:
        for n_versions in (3, 1):
            announced.clear()  # the topics are new
            publisher = Publisher(settings, learned(drawn(60)), thread, {})
            publisher.restore()
            assert not publisher.is_announced
            for _ in range(n_versions):
                asyncio.run(publisher.publish_version(sent.send, GUARD))
            assert publisher.is_announced
        last = announced[-1]
        assert last.version == 4
        store = ModelStore(settings.store_url, keep=settings.versions_kept)
        store.read(last.model)
        store.read(last.learner)
        again = Publisher(settings, learned([]), thread, {})
        again.restore()  # a role that is started again
        assert (again.version, again.is_announced) == (4, True)


@pytest.mark.parametrize("ahead", [0, 10**12])  # of this machine's clock
def test_what_a_role_publishes_that_is_stopped_before_it_serves_is_of_an_epoch_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    settings = small(model_store=str(tmp_path))
    epochs: list[int] = []
    announced: list[Announcement] = []
    monkeypatch.setattr(publisher_module, "announcements", lambda _: announced[::-1])

    async def send(topic: str, _: bytes | None, value: bytes) -> int:
        if topic == settings.topic("models"):
            made = Announcement.decode(value)
            announced.append(replace(made, epoch=made.epoch + ahead))
        else:
            epochs.append(Fragment.decode(value).epoch)
        return 0

    with ThreadPoolExecutor(1) as thread:
        for learner in (learned(drawn(60)), learned([]), learned([])):
            n_announced, before = len(announced), [one.epoch for one in announced]
            publisher = Publisher(settings, learner, thread, {})
            publisher.restore()
            asyncio.run(publisher.publish_version(send, GUARD))  # as a role does that stops
            assert len(announced) == n_announced + 1
            assert epochs[-1] == announced[-1].epoch - ahead > max([0, *before])


def test_settings_that_do_not_fit_are_told_though_older_versions_are_gone(
    tmp_path: Path, sent: Sent
) -> None:
    settings = small(model_store=str(tmp_path), versions_kept=2)
    with ThreadPoolExecutor(1) as thread:
        publisher = Publisher(settings, learned(drawn(60)), thread, {0: 60})
        for _ in range(settings.versions_kept + 2):
            asyncio.run(publisher.publish_version(sent.send, GUARD))
        wider = small(model_store=str(tmp_path), encoder_width=16)
        again = Publisher(wider, Learner(wider), thread, {})
        with pytest.raises(SettingsError, match=r"width is .* the settings ask for 16"):
            again.restore()


def test_settings_that_fit_an_older_version_do_not_lose_what_was_learned_since(
    tmp_path: Path, sent: Sent
) -> None:
    settings = small(model_store=str(tmp_path), max_items=16)
    more = small(model_store=str(tmp_path), max_items=100)
    with ThreadPoolExecutor(1) as thread:
        for asked, n_items in ((settings, 10), (more, 20)):
            learner = learned(drawn(90, n_items=n_items), max_items=asked.max_items)
            publisher = Publisher(asked, learner, thread, {0: 90})
            publisher.version = len(sent.announced)
            asyncio.run(publisher.publish_version(sent.send, GUARD))
        again = Publisher(settings, Learner(settings), thread, {})
        with pytest.raises(SettingsError, match=r"items are 18, max_items is 16.* `headrace learn"):
            again.restore()


def test_a_role_that_goes_on_lets_new_items_start_from_the_other_shop_as_before(
    tmp_path: Path, sent: Sent, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "other.safetensors"
    write_model(learned(drawn(60)), other)
    settings = small(model_store=str(tmp_path / "models"), start_from=str(other))
    with ThreadPoolExecutor(1) as thread:
        publish_one(settings, thread, sent)
        again, without = Learner(settings), Learner(settings)
        Publisher(settings, again, thread, {}).restore()
        other.unlink()
        Publisher(settings, without, thread, {}).restore()
    assert again.assortment.inheritance
    # What it has learned itself does not wait for another's file.
    assert not without.assortment.inheritance
    assert "start from nothing" in caplog.text


def test_versions_of_another_group_are_refused_until_it_is_told_to_begin_anew(
    tmp_path: Path, sent: Sent
) -> None:
    settings = small(model_store=str(tmp_path))
    with ThreadPoolExecutor(1) as thread:
        publish_one(settings, thread, sent)
        test = settings.model_copy(update={"group": "b"})
        again = Publisher(test, Learner(test), thread, {})
        with pytest.raises(TopicMismatchError, match="by the group headrace, not b"):
            again.restore()
        again.restore(anew=True)
        asyncio.run(again.publish_version(sent.send, GUARD))
    assert [one.group for one in sent.announced] == ["headrace", "b"]


@pytest.mark.parametrize("anew", [False, True])
def test_a_role_does_not_write_to_the_store_of_another_shop(
    tmp_path: Path, sent: Sent, anew: bool
) -> None:
    settings = small(model_store=str(tmp_path))
    other = settings.model_copy(update={"topic_prefix": "b", "group": "b"})
    with ThreadPoolExecutor(1) as thread:
        first = Publisher(settings, learned(drawn(60)), thread, {0: 60})
        first.restore()
        asyncio.run(first.publish_version(sent.send, GUARD))
        files = {path: path.read_bytes() for path in tmp_path.iterdir()}
        sent.announced.clear()  # they have topics of their own
        with pytest.raises(
            SettingsError, match=f"{tmp_path} is that of topic_prefix=headrace, not b"
        ):
            Publisher(other, learned(drawn(60)), thread, {0: 60}).restore(anew=anew)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_a_role_whose_files_are_lost_begins_anew_where_it_is_told_to(
    tmp_path: Path, sent: Sent
) -> None:
    settings = small(model_store=str(tmp_path))
    with ThreadPoolExecutor(1) as thread:
        publish_one(settings, thread, sent)
        for file in tmp_path.iterdir():
            file.unlink()
        positions: Positions = {}
        again = Publisher(settings, learned([]), thread, positions)
        # Maybe only now: the role is to be started again.
        with pytest.raises(UnreadableError, match="`headrace learn --anew`, once"):
            again.restore()
        again.restore(anew=True)
        assert positions == {}  # every event is read again
        positions[0] = 7
        asyncio.run(again.publish_version(sent.send, GUARD))
        first, second = sent.announced
        assert second.version == first.version + 1  # workers take it for a newer one
        assert second.epoch > first.epoch  # and begin with its checkpoint
        resumed: Positions = {}
        Publisher(settings, learned([]), thread, resumed).restore()
    assert resumed == {0: 7}


def test_a_role_whose_topics_are_lost_tells_that_it_can_start_from_a_model_of_its_store(
    tmp_path: Path, sent: Sent, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    settings = small(model_store=str(tmp_path))

    def told(publisher: Publisher, *, anew: bool = False) -> str:
        caplog.clear()
        publisher.restore(anew=anew)
        return caplog.messages[0]

    with ThreadPoolExecutor(1) as thread:
        publisher = Publisher(settings, learned(drawn(60)), thread, {0: 60})
        assert told(publisher) == "no version is announced: learning from nothing"
        asyncio.run(publisher.publish_version(sent.send, GUARD))
        assert told(publisher, anew=True) == "it begins anew: learning from nothing"
        sent.announced.clear()
        model = f"file://{tmp_path}/v00000001.model.safetensors"
        assert told(publisher).endswith(
            f"model files lie in the store: copy {model}, and `headrace learn --anew --from COPY`"
            " starts from how it ranks"
        )
        starting = Publisher(
            small(model_store=str(tmp_path), start_from=model), learned([]), thread, {}
        )
        assert told(starting) == f"no version is announced: learning from {model}"


def test_where_no_version_can_be_read_each_is_told_in_short_and_the_ways_out_once(
    tmp_path: Path, sent: Sent, caplog: pytest.LogCaptureFixture
) -> None:
    settings = small(model_store=str(tmp_path))
    with ThreadPoolExecutor(1) as thread:
        publisher = Publisher(settings, learned(drawn(60)), thread, {0: 60})
        for _ in range(3):
            asyncio.run(publisher.publish_version(sent.send, GUARD))
        for file in tmp_path.iterdir():
            file.unlink()
        again = Publisher(settings, learned([]), thread, {})
        ways = r"v00000003.* is model_store the one .* If no version .* `headrace learn --anew`"
        with pytest.raises(UnreadableError, match=ways):
            again.restore()
    why = f"cannot be read from {tmp_path}: No such file or directory"
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        f"passed over version={n}: v0000000{n}.model.safetensors {why}" for n in (3, 2, 1)
    ]


def test_a_version_that_is_cut_off_leaves_its_number_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, write = small(model_store=str(tmp_path)), ModelStore.write
    monkeypatch.setattr(publisher_module, "announcements", lambda _: [])

    def fill_the_disk(store: ModelStore, version: int, kind: str, blob: bytes) -> StoredFile:
        if kind == "model":
            raise OSError("no space left on device")
        return write(store, version, kind, blob)

    with ThreadPoolExecutor(1) as thread:
        monkeypatch.setattr(ModelStore, "write", fill_the_disk)
        publisher = Publisher(settings, learned(drawn(60)), thread, {})
        with pytest.raises(OSError, match="no space"):
            asyncio.run(publisher.publish_version(Sent().send, GUARD))
        again = Publisher(settings, learned([]), thread, {})
        again.restore()
        assert again.version == 0


async def publish_first(publisher: Publisher, sent: Sent) -> None:
    """Let a publisher publish its first version of an epoch."""
    published = asyncio.Event()
    async with publishing(publisher, sent.send, lambda _: published.set()):
        await published.wait()


def test_files_of_a_version_that_was_never_announced_make_room(tmp_path: Path, sent: Sent) -> None:
    settings = small(model_store=str(tmp_path))
    with ThreadPoolExecutor(1) as thread:
        publish_one(settings, thread, sent)
        left = ModelStore(str(tmp_path), keep=5).write(2, "model", b"the role ended after this")
        publisher = Publisher(settings, learned(drawn(60)), thread, {})
        publisher.restore()
        asyncio.run(publish_first(publisher, sent))
    assert [one.version for one in sent.announced] == [1, 3]  # no number is used again
    assert not (tmp_path / left.name).exists()
    assert (tmp_path / sent.announced[0].model.name).exists()


def test_files_in_a_store_whose_topics_are_lost_stay(tmp_path: Path, sent: Sent) -> None:
    left = ModelStore(str(tmp_path), keep=5).write(2, "model", b"of topics that are gone")
    with ThreadPoolExecutor(1) as thread:
        publisher = Publisher(small(model_store=str(tmp_path)), learned(drawn(60)), thread, {})
        publisher.restore(anew=True)
        asyncio.run(publish_first(publisher, sent))
    assert (tmp_path / left.name).exists()


def test_a_role_goes_on_from_what_another_wrote_since_it_restored(
    tmp_path: Path, sent: Sent
) -> None:
    settings = small(model_store=str(tmp_path))
    announced = sent.announced

    with ThreadPoolExecutor(1) as thread:
        first, second = (Publisher(settings, learned(drawn(60)), thread, {}) for _ in range(2))
        for publisher in (first, second):
            publisher.restore()
        for _ in range(3):
            asyncio.run(first.publish_version(sent.send, GUARD))
        asyncio.run(publish_first(second, sent))
    assert [one.version for one in announced] == [1, 2, 3, 4]


def test_a_damaged_checkpoint_that_several_versions_name_is_refused_once(
    tmp_path: Path, sent: Sent
) -> None:
    settings = small(model_store=str(tmp_path))
    announced = sent.announced

    with ThreadPoolExecutor(1) as thread:
        publisher = Publisher(settings, learned(drawn(60)), thread, {0: 60})
        for with_checkpoint in (True, True, False, False):
            asyncio.run(
                publisher.publish_version(sent.send, GUARD, with_checkpoint=with_checkpoint)
            )
        (tmp_path / announced[1].model.name).unlink()
        before, resumed = metric("checkpoints_refused_total"), Positions()
        Publisher(settings, learned([]), thread, resumed).restore()
    assert resumed == {0: 60}
    assert metric("checkpoints_refused_total") == before + 1
