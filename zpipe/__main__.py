"""`python -m zpipe`: how `zpipe run` starts its daemons."""

from zpipe.cli import main

main()
