"""The adapt role: events in, each user's state and refreshed list out."""
