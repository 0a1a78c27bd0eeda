"""`python -m runs.cli`: the command line without the installed script."""

from fittest.runs.cli import main

main()
