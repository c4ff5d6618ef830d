"""`python -m capsnb`."""

from capsnb.cli import main

main()
