"""What gradients move: encoder, scorer, and the inner loop that adapts them to each user."""
