"""The outer loop: tasks, rehearsal, losses, and the steps of what all users share."""
