"""`python -m fittest.runs.cli` runs the command line without the installed script."""

from fittest.runs.cli import main

main()
