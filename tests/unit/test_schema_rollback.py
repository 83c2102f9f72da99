"""The way back: what this release writes, the release before it reads."""

import json
import subprocess
import sys
from pathlib import Path

import previous_release
import schema_samples as samples

READ = """
import json
import sys
from pathlib import Path

from headrace.streams.learner import Learner
from headrace.streams.learner_state import restore
from headrace.streams.publication import Announcement, Fragment, apply_delta, unpack_model
from headrace.streams.settings import Settings
from headrace.streams.state import UserState
from headrace.streams.wire import decode_event, decode_item, decode_recommendation, encode

now = {path.name: path.read_bytes() for path in Path(sys.argv[1]).iterdir()}
print("item", decode_item(now["item"], key=None))
print("list", encode(decode_recommendation(now["list"])).hex())
print("event", decode_event(now["click"], key=None, record_time_ms=0))
state = UserState.decode(now["state"])
print("state", state.last_offset, state.items, state.features, state.gradients.tolist())
print("announcement", Announcement.decode(now["announcement"]))
recommender, vocabulary = unpack_model(now["model"], max_items=100, device="cpu")
apply_delta(Fragment.decode(now["delta"]).data, recommender, vocabulary)
print("items", vocabulary.ids[12])
learner = Learner(Settings(**json.loads(sys.argv[2])))
print("positions", restore(learner, now["model"], now["learner"]))
print("users", [(key, state.items) for key, state in learner.users.items()])
try:
    decode_event(now["event"], key=None, record_time_ms=0)
except Exception as exc:
    print("asks", exc)
"""


def test_the_release_before_reads_what_this_one_writes(tmp_path: Path) -> None:
    environment = previous_release.unpacked(tmp_path / "previous")
    folder = tmp_path / "now"
    folder.mkdir()
    values = samples.written() | {"click": samples.encode(samples.EVENT)}
    for name, value in values.items():
        (folder / name).write_bytes(value)
    settings = samples.settings()
    fields = settings.model_dump(include=set(settings.model_fields_set))
    ran = subprocess.run(
        [sys.executable, "-c", READ, str(folder), json.dumps(fields)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=environment,
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr
    told = dict(line.split(" ", 1) for line in ran.stdout.splitlines())
    state = samples.STATE
    assert state.gradients is not None
    users = [
        (f"0/{user}", [event.item for key, _, event in samples.events(0, 60) if key == f"0/{user}"])
        for user in samples.USERS
    ]
    assert told == {
        "item": str(samples.ITEM),
        "list": values["list"].hex(),
        "event": str(samples.EVENT),
        "state": f"7 {list(state.items)} {state.features} {state.gradients.tolist()}",
        "announcement": str(samples.ANNOUNCEMENT).split(", weights=")[0] + ")",
        "items": "new",
        "positions": str(samples.POSITIONS),
        "users": str(users),
        # What it cannot know it sets aside, for people to see.
        "asks": "unknown_schema: v=2, known up to 1",
    }
