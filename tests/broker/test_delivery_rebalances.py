"""Workers that join and leave: states move with their partitions, nothing is left behind."""

from pathlib import Path

from harness import Fleet, Watcher, deploy, java_publisher, librdkafka_publisher

from headrace.streams.settings import Settings


def test_a_second_worker_that_joins_a_fresh_group_at_once_loses_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    # Slow first batches: records are fetched and then dropped by the rebalance before the first
    # commit, and current batches come in before recovery has ended.
    settings = deploy(settings, micro_batch_events=20)
    with (
        Watcher(settings) as watcher,
        java_publisher(settings, [f"user-{number}" for number in range(30)]) as publisher,
        Fleet(settings, tmp_path) as fleet,
    ):
        publisher.publish(600)
        first = fleet.start(slow_s=3, slow_calls=2)
        with publisher.steadily(per_second=100):
            first.until_logged("Worker ready")
            fleet.start(slow_s=1, slow_calls=2)
            watcher.until_answered(publisher.n_sent + 50)
        watcher.until_answered(publisher.n_sent)
        watcher.assert_nothing_lost_or_doubled()
        watcher.assert_no_state_went_back()


def test_states_move_with_their_partitions_however_clients_hash_keys(
    settings: Settings, tmp_path: Path
) -> None:
    settings = deploy(settings, partitions=6)
    with (
        Watcher(settings) as watcher,
        java_publisher(settings, [f"java-{number}" for number in range(20)]) as java,
        librdkafka_publisher(settings, [f"rd-{number}" for number in range(20)]) as librdkafka,
        Fleet(settings, tmp_path) as fleet,
    ):
        first, _ = fleet.start(), fleet.start()
        with java.steadily(per_second=100), librdkafka.steadily(per_second=100):
            watcher.until_answered(java.n_sent + librdkafka.n_sent + 100)
            fleet.start()
            watcher.until_answered(java.n_sent + librdkafka.n_sent + 100)
            assert first.stop() == 0
            watcher.until_answered(java.n_sent + librdkafka.n_sent + 100)
        watcher.until_answered(java.n_sent + librdkafka.n_sent)
        watcher.assert_nothing_lost_or_doubled()
        watcher.assert_no_state_went_back()
