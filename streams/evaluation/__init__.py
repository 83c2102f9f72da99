"""`headrace evaluate`: how good the lists of a recorded stream are, and beside what."""
