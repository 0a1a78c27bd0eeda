"""`python -m runs.cli`: the command line without the installed script."""

from runs.cli import main

main()
