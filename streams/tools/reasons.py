"""Reasons in words: what a signal's name means to the person a list is for."""

from collections.abc import Mapping

from headrace.streams.records import Reason

WORDS = {  # one for each of model.scorer.INPUTS; not imported, for it takes seconds to load
    "tenure": "taken by users as new or as loyal",
    "tenure_share": "typical of users as new or as loyal",
    "own_recency": "taken lately",
    "own_last": "taken lately",
    "own_count": "taken often",
    "own_total": "taken often",
    "own_seen": "taken before",
    "own_age": "taken before",
    "own_in_session": "taken this session",
    "own_followed": "usually next for this user",
    "next": "often next after {because}",
    "next_lift": "typically next after {because}",
    "next_of_last": "often next after {because}",
    "next_of_last_lift": "typically next after {because}",
    "near": "taken around {because}",
    "near_lift": "typically taken around {because}",
    "session": "goes with {because}",
    "recent": "lately taken around {because}",
    "around": "taken around {because}",
    "around_lift": "typically taken around {because}",
    "links": "goes with much that was taken",
    "also": "liked by those who took {because}",
    "also_mean": "liked by those who took {because}",
    "back": "often just before {because}",
    "popularity": "popular",
    "popularity_slow": "popular",
    "popularity_medium": "popular now",
    "popularity_fast": "popular this minute",
    "idle": "by how long ago others took it",
    "age": "known for its time here",
    "repeat_propensity": "people take it again",
    "category_share": "from a favourite category",
    "category_of_last": "same category as the last one",
    "content": "similar to what was taken lately",
    "regressed": "suits what was taken",
    "regressed_recent": "suits what was taken lately",
    "residual": "taken more often than expected",
    "affinity": "close to this user's taste",
}


def phrase(reason: Reason, titles: Mapping[str, str]) -> str:
    """Return the reason in words, with the title of the item that spoke for it."""
    signal, because = reason["signal"], reason["because"] or ""
    return WORDS.get(signal, signal).format(
        because=titles.get(because, because or "what was taken before")
    )
