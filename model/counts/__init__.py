"""What is counted of items and users, the candidates that come of it, and what is known of each."""
