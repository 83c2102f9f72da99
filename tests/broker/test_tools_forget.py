"""``headrace forget``: state and list are withdrawn wherever the user's events are."""

from pathlib import Path

from click.testing import CliRunner
from harness import Fleet, Watcher, deploy, java_publisher, librdkafka_publisher

from headrace.streams.cli.main import main
from headrace.streams.kafka.topics import users_changelog
from headrace.streams.settings import Settings

USERS = ["ann", "bob", "cem", "dee"]


def forget(settings: Settings, *users: str) -> str:
    """Run the command; return what it prints."""
    flags = ["--bootstrap", settings.bootstrap, "--topic-prefix", settings.topic_prefix]
    flags += ["--group", settings.group]
    result = CliRunner().invoke(main, ["forget", *flags, *users])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_users_are_forgotten_wherever_clients_put_them_and_come_back_as_new_ones(
    settings: Settings, tmp_path: Path
) -> None:
    settings = deploy(settings, pause_limit_s=30.0)  # a busy machine is no pause
    with (
        Watcher(settings) as watcher,
        java_publisher(settings, USERS) as java,
        librdkafka_publisher(settings, USERS) as librdkafka,
        Fleet(settings, tmp_path) as fleet,
    ):
        worker = fleet.start()
        java.publish(20)
        librdkafka.publish(20)
        watcher.until_answered(40)
        assert len(watcher.written()) > len(USERS)  # some are in two partitions

        printed = forget(settings, "ann", "bob")
        watcher.until_answered(40 + 2 * settings.partitions)
        assert {user for _, user in watcher.written()} == {b"cem", b"dee"}
        assert {user for _, user in watcher.last_lists()} == {b"cem", b"dee"}

        # A worker that recovers finds nothing of them, and takes them for new users.
        worker.kill()
        worker = fleet.start()
        java.publish(8)
        watcher.until_answered(48 + 2 * settings.partitions)
        ann = next(state for (_, user), state in watcher.written().items() if user == b"ann")
        assert (ann.n_events, ann.items) == (2, ["item-20", "item-24"])
        assert worker.stop() == 0
        watcher.assert_nothing_lost_or_doubled()
        watcher.assert_no_state_went_back()
        watcher.assert_partitions_are_committed()
    assert f"in {settings.partitions} partitions" in printed
    lines = {line.split()[0]: line for line in printed.splitlines() if line.startswith("  ")}
    assert set(lines) == {
        users_changelog(settings),
        *(settings.topic(name) for name in ("recommendations", "events", "dead-letters")),
    }
    assert lines[users_changelog(settings)].endswith("24 hours (max.compaction.lag.ms)")
