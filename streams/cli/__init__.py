"""The command line: commands of a few lines, and what they show."""
