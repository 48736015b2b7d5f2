"""The command line. Importing it costs no torch: commands load what they need when they run."""

from abe.cli.app import app, main

__all__ = ["app", "main"]
