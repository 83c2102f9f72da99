"""Forgetting at the learn role: over a kill, and without any further event."""

from pathlib import Path

from harness import Watcher
from roles_harness import publish, roles, shoppers, small_deployment
from test_roles_versions import restored
from test_tools_forget import forget

from headrace.streams.records import Event
from headrace.streams.settings import Settings

USER = "user-who-asks-7f3a91"
ITEM = "item-only-theirs-c04b2d"
LATER_MS = 1_700_009_000_000


def checkpoints_with(settings: Settings, text: str) -> list[str]:
    """Return the files of the model store in which these bytes stand."""
    files = sorted(Path(settings.store_url).iterdir())
    return [path.name for path in files if text.encode() in path.read_bytes()]


def test_no_kept_version_holds_the_user_or_an_item_only_they_took(settings: Settings) -> None:
    # Versions come at a start and a stop only.
    rarely = {"version_events": 1_000_000, "version_interval_s": 3_600.0}
    settings = small_deployment(settings, versions_kept=2, delta_interval_s=0.5, **rarely)
    events = shoppers(200)
    theirs = [Event(user=USER, item=item, time_ms=LATER_MS) for item in ("item-1", ITEM, "item-2")]
    with roles(settings, "learn") as (learn,):
        publish(settings, [*events, *theirs])
        learn.until(lambda m: m.get("events_total") == 203, "everything learned")
        assert learn.stop() == 0
    assert checkpoints_with(settings, USER)
    assert checkpoints_with(settings, ITEM)

    with roles(settings, "learn") as (learn,):
        forget(settings, USER)
        asked = settings.partitions
        learn.until(lambda m: m.get("forgotten_total") == asked, "the user forgotten")
        learn.kill()  # before a version without them
    assert checkpoints_with(settings, USER)

    often = settings.model_copy(update={"version_interval_s": 1.0})
    with roles(often, "learn") as (learn,), Watcher(settings) as watcher:
        # Two are kept, so two follow, a second apart: nothing else happens.
        learn.until(lambda _: not checkpoints_with(settings, USER), "the old versions removed")
        assert checkpoints_with(settings, ITEM) == []
        assert learn.metrics().get("forgotten_total") == asked
        watcher.until(lambda: len(watcher.events) == 203 + asked, "all events on their topic")
        users = {f"{p}/{user.decode()}" for p, user in watcher.expected()}
        assert learn.stop() == 0
    learner, positions = restored(settings)
    assert set(learner.users) == users
    assert learner.n_events == 203  # learned once, hers too; no event led to the versions since
    assert sum(positions.values()) == 203 + asked
    assert ITEM not in learner.vocabulary.ids
    assert "item-1" in learner.vocabulary.ids
