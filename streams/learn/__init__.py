"""The learn role, single writer of what all users share: events in, deltas and versions out."""
