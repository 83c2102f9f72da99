"""What `headrace bench` measures: how fast, against what, and how far from what the machine can."""
