"""What a writer of the catalogue can do to both roles: inflate, outsize, mangle."""

from harness import Watcher
from kafka import KafkaProducer
from roles_harness import publish, roles, shoppers, small_deployment
from test_delivery_hostile import BOMB, ROOM_BYTES, Mangled, producer, resident_bytes
from test_roles_lists import act_until

from headrace.streams.records import Item
from headrace.streams.settings import Settings
from headrace.streams.tools.produce import publish_items
from headrace.streams.wire import encode

N_EVENTS = 200
WITHDRAWN = {f"item-{number}" for number in range(20)}  # half of the ring


def test_a_hostile_catalogue_leaves_both_roles_at_work_within_their_memory(
    settings: Settings,
) -> None:
    settings = small_deployment(settings, version_interval_s=1.0, delta_interval_s=0.5)
    topic = settings.topic("items")
    with Watcher(settings) as watcher, roles(settings, "learn", "adapt") as (learn, adapt):
        publish(settings, shoppers(N_EVENTS))
        watcher.until_answered(N_EVENTS)
        learn.until(lambda m: m.get("events_total") == N_EVENTS, "everything learned")
        at_rest = {role: resident_bytes(role.child.pid, "VmRSS") for role in (learn, adapt)}

        sender = producer(settings, "zstd")
        for key, value in (
            (b"bomb", BOMB),
            (bytes(3_000_000), b"{}"),
            (b"junk", b"\xc1" * 900_000),
        ):
            sender.produce(topic, value, key)
            sender.flush()
        mangler = KafkaProducer(bootstrap_servers=settings.bootstrap)
        mangler.send(topic, encode(Item(item="tea")), b"tea", [(Mangled("name"), b"")]).get(10)
        mangler.close()
        publish_items(settings, [Item(item=item, active=False) for item in WITHDRAWN])

        # What stands behind it comes through to both, and both go on with events.
        act_until(
            (settings, [learn, adapt], watcher),
            "newcomer",
            lambda answer: not WITHDRAWN & set(answer.items),
            "the items withdrawn",
        )
        n_events = len(watcher.events)
        publish(settings, shoppers(N_EVENTS, seed=1))
        watcher.until_answered(n_events + N_EVENTS)
        learn.until(lambda m: m.get("events_total") == n_events + N_EVENTS, "the rest learned")
        assert f"passed over {settings.topic('items')} offset=3" in learn.child.log_tail()
        for role in (learn, adapt):
            assert resident_bytes(role.child.pid, "VmHWM") - at_rest[role] < ROOM_BYTES
            assert role.stop() == 0
