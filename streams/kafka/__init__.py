"""Kafka and Faust: what comes in, what is held of it, and who may do what."""
