"""The verdict on a schedule: what the ledger and an uninterrupted reference run say it must be."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ledger import NUMBER, Ledger
from topics_read import committed, ends_of, read_all

from headrace.streams.kafka.topics import users_changelog
from headrace.streams.learn.learner import Learner
from headrace.streams.learn.learner_state import restore
from headrace.streams.learn.publisher import announcements
from headrace.streams.settings import Settings
from headrace.streams.state import UserState
from headrace.streams.versions.store import ModelStore
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


def lags(settings: Settings) -> dict[str, dict[int, int]]:
    """Return how many events of each partition either group has not committed."""
    ends = ends_of(settings)
    return {
        role: {p: ends[p] - offset for p, offset in committed(settings, role).items()}
        for role in ("adapt", "learn")
    }


def is_drained(settings: Settings) -> bool:
    """Return whether both groups have committed the end of every partition."""
    return not any(any(lag.values()) for lag in lags(settings).values())


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


def judge(settings: Settings, ledger: Ledger) -> Verdict:
    """Compare a drained deployment with its ledger."""
    verdict = Verdict()
    events = read_all(settings, settings.topic("events"))
    numbers = [_number(record) for record in events]
    verdict.compare(
        "events, how often on the topic", Counter(numbers), dict.fromkeys(ledger.events, 1)
    )
    verdict.compare("events as sent", {_number(r): r.value() or b"" for r in events}, ledger.events)
    ends = ends_of(settings)
    for role in ("adapt", "learn"):
        verdict.compare(f"offsets committed by {role}", committed(settings, role), ends)
    _judge_states(verdict, settings, events, ledger)
    _judge_lists(verdict, settings, events, ledger)
    _judge_dead_letters(verdict, settings, events, ledger)
    return verdict


def compare_runs(verdict: Verdict, settings: Settings, reference: Settings) -> None:
    """Compare a drained deployment, state by state, with one that nothing was in the way of."""
    states, expected_states = (dict(_written_states(each)) for each in (settings, reference))
    verdict.compare("states of the reference run", states, expected_states)
    found, expected = _learned(settings), _learned(reference)
    for what in expected:
        verdict.compare(what, found[what], expected[what])


def _number(record: Any) -> int:
    return int(dict(record.headers())[NUMBER])


def _written_states(settings: Settings) -> Iterator[tuple[StateKey, Fold]]:
    """Yield the states in the changelog in order: of each user, compaction keeps the last."""
    for record in read_all(settings, users_changelog(settings)):
        yield (record.partition(), record.key()), fold_of(UserState.decode(record.value()))


def _judge_states(verdict: Verdict, settings: Settings, events: list[Any], ledger: Ledger) -> None:
    """Check that each state is the fold of the user's events, and never went back to an older."""
    folded: defaultdict[StateKey, UserState] = defaultdict(UserState)
    for record in events:
        if _number(record) not in ledger.bad:
            record_ms = record.timestamp()[1]
            event = decode_event(record.value(), key=record.key(), record_time_ms=record_ms)
            folded[record.partition(), record.key()].apply(
                event, offset=record.offset(), history_length=settings.history_length
            )
    written: dict[StateKey, Fold] = {}
    went_back: dict[StateKey, Fold] = {}
    for key, fold in _written_states(settings):
        if key in written:
            verdict.notes["states written again"] += written[key] == fold
            if written[key][0] > fold[0]:  # the offset of the last event
                went_back[key] = fold
        written[key] = fold
    expected = {key: fold_of(state) for key, state in folded.items()}
    verdict.compare("states by the ledger", written, expected)
    verdict.compare("states that went back, if for a while", went_back, {})


def _judge_lists(verdict: Verdict, settings: Settings, events: list[Any], ledger: Ledger) -> None:
    """Check that each user's last list answers the last event, and was made after it."""
    last = {(r.partition(), r.key()): r for r in events if _number(r) not in ledger.bad}
    expected = {key: (record.offset(), True, True) for key, record in last.items()}
    found = {}
    for record in read_all(settings, settings.topic("recommendations")):
        key = record.partition(), record.key()
        answer = decode_recommendation(record.value())
        is_newer = key in last and answer.generated_ms >= last[key].timestamp()[1]
        found[key] = answer.source.offset, is_newer, bool(answer.items)
    verdict.compare("last lists", found, expected)


def _judge_dead_letters(
    verdict: Verdict, settings: Settings, events: list[Any], ledger: Ledger
) -> None:
    bad = {(r.partition(), r.offset()) for r in events if _number(r) in ledger.bad}
    letters: Counter[tuple[int, int]] = Counter()
    for record in read_all(settings, settings.topic("dead-letters")):
        headers = dict(record.headers())
        letters[int(headers["headrace.partition"]), int(headers["headrace.offset"])] += 1
    verdict.notes["dead letters written again"] += letters.total() - len(letters)
    verdict.compare("dead letters", dict.fromkeys(letters, 1), dict.fromkeys(bad, 1))


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
