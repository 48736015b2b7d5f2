"""``python -m abe.cli``."""

from abe.cli.app import main

main()
