"""Schema versions of all that outlives the process that wrote it, and who reads which.

A reader takes its release's version and the one before it: the next release goes on from what this
one wrote. A newer one is refused, in words that say what to do. In a rolling restart, two
neighbouring releases read what the other writes: a new version is written only one release after it
can first be read.

``tests/fixtures`` keeps a file of each version; a test compares the layouts.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schema:
    """What a map is, and the version that this release writes."""

    name: str
    version: int

    @property
    def oldest(self) -> int:
        """Return the oldest version that is read."""
        return max(1, self.version - 1)

    def refusal(self, found: object) -> str:
        """Return why a map of this version cannot be read and what to do; empty if it can."""
        if type(found) is not int or found < 1:
            # What else it may be can be nested deeper than Python can show it.
            shown = repr(found) if isinstance(found, str | int | float) else type(found).__name__
            return f"v={shown} is no schema version of ours, which v is for: leave it out"
        if found > self.version:
            return (
                f"{self.name} of schema version {found}, newer than {self.version}, the newest that"
                " this release reads: upgrade what reads it, then try again; or leave v out, which"
                " is for ours"
            )
        if found < self.oldest:
            return (
                f"{self.name} of schema version {found}, older than {self.oldest}, the oldest that"
                " this release reads: run the release before this one in between"
            )
        return ""


EVENT = Schema("event", 2)  # 2 added what needs no item
ITEM = Schema("item", 1)
LIST = Schema("list", 1)
STATE = Schema("state", 2)  # 2 added the features; 0.1.0 passes over the events' names behind
ANNOUNCEMENT = Schema("announcement", 1)
DELTA = Schema("delta", 1)
MODEL = Schema("model", 1)
WEIGHTS = Schema("weights", 1)
LEARNER = Schema("learner", 2)  # 2 added the versions due

ALL = (EVENT, ITEM, LIST, STATE, ANNOUNCEMENT, DELTA, MODEL, WEIGHTS, LEARNER)
