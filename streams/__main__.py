"""``python -m headrace.streams``: the command line where the script is not on the path."""

from headrace.streams.cli.start import main

main()
