"""Around the roles: publish events, read lists and dead letters back, forget users, the demo."""
