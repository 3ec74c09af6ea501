"""`python -m slatewise`: the command line."""

from slatewise.cli import main

main()
