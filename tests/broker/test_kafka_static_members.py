"""Workers with a group instance id: a restart within the session moves no partition."""

from pathlib import Path

from confluent_kafka.admin import AdminClient
from harness import Fleet, Watcher, Worker, deploy, java_publisher

from headrace.streams.settings import Settings

SESSION_S = 150.0  # one that had to be waited for would not be back within any limit here

Assignment = dict[str, set[tuple[str, int]]]  # of each group instance id, topics and partitions


class NamedFleet(Fleet):
    """Starts workers by their group instance ids."""

    def start_as(self, instance_id: str) -> Worker:
        """Start a worker with a name."""
        self.settings = self.settings.model_copy(update={"group_instance_id": instance_id})
        return self.start()


def assignment(settings: Settings) -> Assignment:
    """Return what the broker has assigned to the members of the adapt group."""
    group = f"{settings.group}-adapt"
    client = AdminClient({"bootstrap.servers": settings.bootstrap})
    found = client.describe_consumer_groups([group], request_timeout=10)[group].result()
    return {
        member.group_instance_id: {
            (tp.topic, tp.partition) for tp in member.assignment.topic_partitions
        }
        for member in found.members
    }


def n_joins(worker: Worker) -> int:
    """Return how often a worker has been given partitions."""
    return worker.log().count("Setting newly assigned partitions")


def test_a_named_worker_that_comes_back_goes_on_and_the_other_notices_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    settings = deploy(settings, session_timeout_s=SESSION_S, rebalance_limit_s=2 * SESSION_S)
    with (
        Watcher(settings) as watcher,
        java_publisher(settings, [f"user-{number}" for number in range(30)]) as publisher,
        NamedFleet(settings, tmp_path) as fleet,
    ):
        first = fleet.start_as("first")
        first.until_logged("Worker ready")
        second = fleet.start_as("second")
        second.until_logged("Worker ready")
        assigned = assignment(settings)
        assert set(assigned) == {"first", "second"}
        assert all(assigned.values())
        with publisher.steadily(per_second=100):
            watcher.until_answered(publisher.n_sent + 100)

            joins = n_joins(second)
            first.kill()  # it had led the group
            first = fleet.start_as("first")
            watcher.until_answered(publisher.n_sent + 100)
            assert assignment(settings) == assigned
            assert n_joins(second) == joins

            assert second.stop() == 0  # on purpose, and it does not leave the group
            assert assignment(settings) == assigned
            second = fleet.start_as("second")
            watcher.until_answered(publisher.n_sent + 100)
            assert assignment(settings) == assigned
            assert n_joins(first) == 1
        watcher.until_answered(publisher.n_sent)
        assert [first.stop(), second.stop()] == [0, 0]
        watcher.assert_nothing_lost_or_doubled()
        watcher.assert_no_state_went_back()
        watcher.assert_partitions_are_committed()
