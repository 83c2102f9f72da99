"""The verdict on a schedule: what the ledger and an uninterrupted reference run say it must be."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ledger import Ledger, Place
from topics_read import committed, ends_of, read_all

from headrace.streams.learner import Learner
from headrace.streams.learner_state import restore
from headrace.streams.publisher import announcements
from headrace.streams.settings import Settings
from headrace.streams.state import UserState
from headrace.streams.store import ModelStore
from headrace.streams.topics import users_changelog
from headrace.streams.wire import decode_event, decode_recommendation

StateKey = tuple[int, bytes]  # partition, user
Fold = tuple[Any, ...]
SHOWN = 5  # differences of one sort


def fold_of(state: UserState) -> Fold:
    """Return what events alone decide; gradients depend on which version judged them, and when."""
    return (
        *(state.last_offset, state.n_events, state.n_repeats),
        *(tuple(state.items), tuple(state.actions), tuple(state.times_ms), tuple(state.features)),
    )


def is_drained(settings: Settings) -> bool:
    """Return whether both groups have committed the end of every partition."""
    ends = ends_of(settings)
    return all(committed(settings, role) == ends for role in ("adapt", "learn"))


@dataclass
class Verdict:
    """Every difference found, and counts of what is allowed to happen."""

    differences: list[str] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    def compare(self, what: str, found: Mapping[Any, Any], expected: Mapping[Any, Any]) -> None:
        """Note where two maps differ."""
        wrong = [key for key in {**found, **expected} if found.get(key) != expected.get(key)]
        if expected:
            self.notes[f"{what} compared"] += len(expected)
        if wrong:
            shown = "; ".join(
                f"{key}: {found.get(key)} instead of {expected.get(key)}"
                for key in sorted(wrong, key=str)[:SHOWN]
            )
            self.differences.append(f"{len(wrong)} of {len(expected)} {what} differ: {shown}")


def judge(settings: Settings, reference: Settings, ledger: Ledger) -> Verdict:
    """Compare a drained deployment with its ledger and with the reference."""
    verdict = Verdict()
    events = read_all(settings, settings.topic("events"))
    placed = {_place(record): record.value() or b"" for record in events}
    verdict.compare("events on the topic", placed, ledger.events)
    ends = ends_of(settings)
    for role in ("adapt", "learn"):
        verdict.compare(f"offsets committed by {role}", committed(settings, role), ends)
    states = _states(settings, verdict)
    verdict.compare("states of the reference run", states, _states(reference, Verdict()))
    verdict.compare("states by the ledger", states, _folded(events, ledger, settings))
    _judge_lists(verdict, settings, events, ledger)
    _judge_dead_letters(verdict, settings, ledger)
    found, expected = _learned(settings), _learned(reference)
    for what in expected:
        verdict.compare(what, found[what], expected[what])
    return verdict


def _place(record: Any) -> Place:
    return record.partition(), record.offset()


def _states(settings: Settings, verdict: Verdict) -> dict[StateKey, Fold]:
    """Return the last state of each user in the changelog: that is what compaction keeps."""
    states: dict[StateKey, Fold] = {}
    went_back: dict[StateKey, Fold] = {}
    for record in read_all(settings, users_changelog(settings)):
        key = record.partition(), record.key()
        fold = fold_of(UserState.decode(record.value()))
        before = states.get(key)
        if before is not None:
            verdict.notes["states written again"] += before == fold
            if before[0] > fold[0]:
                went_back[key] = fold
        states[key] = fold
    verdict.compare("states that went back, if for a while", went_back, {})
    return states


def _folded(events: list[Any], ledger: Ledger, settings: Settings) -> dict[StateKey, Fold]:
    """Fold the ledgered events by hand, user by user."""
    states: defaultdict[StateKey, UserState] = defaultdict(UserState)
    for record in events:
        if _place(record) not in ledger.bad:
            event = decode_event(record.value(), key=record.key(), record_time_ms=0)
            states[record.partition(), record.key()].apply(
                event, offset=record.offset(), history_length=settings.history_length
            )
    return {key: fold_of(state) for key, state in states.items()}


def _judge_lists(verdict: Verdict, settings: Settings, events: list[Any], ledger: Ledger) -> None:
    """Check that each user's last list answers the last event, and was made after it."""
    last = {(r.partition(), r.key()): r for r in events if _place(r) not in ledger.bad}
    expected = {key: (record.offset(), True, True) for key, record in last.items()}
    found = {}
    for record in read_all(settings, settings.topic("recommendations")):
        key = record.partition(), record.key()
        answer = decode_recommendation(record.value())
        is_newer = key in last and answer.generated_ms >= last[key].timestamp()[1]
        found[key] = answer.source.offset, is_newer, bool(answer.items)
    verdict.compare("last lists", found, expected)


def _judge_dead_letters(verdict: Verdict, settings: Settings, ledger: Ledger) -> None:
    letters: Counter[Place] = Counter()
    for record in read_all(settings, settings.topic("dead-letters")):
        headers = dict(record.headers())
        letters[int(headers["headrace.partition"]), int(headers["headrace.offset"])] += 1
    verdict.notes["dead letters written again"] += letters.total() - len(letters)
    verdict.compare("dead letters", dict.fromkeys(letters, 1), dict.fromkeys(ledger.bad, 1))


def _learned(settings: Settings) -> dict[str, dict[Any, Any]]:
    """Return what the newest version says was counted; the order of partitions decides the rest."""
    newest = announcements(settings)[0]
    store = ModelStore(settings.store_url, keep=settings.versions_kept)
    learner = Learner(settings)
    positions = restore(learner, store.read(newest.model), store.read(newest.learner))
    n, arrays = len(learner.vocabulary), learner.signals.arrays
    counts = zip(arrays.popularity[:n, 0].tolist(), arrays.repeats[:n].tolist(), strict=True)
    return {
        "positions learned": positions,
        "events learned": {"events": learner.n_events},
        "histories learned": {key: fold_of(state) for key, state in learner.users.items()},
        "items counted": dict(zip(learner.vocabulary.ids, counts, strict=True)),
    }
