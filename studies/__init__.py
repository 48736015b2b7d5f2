"""Runnable studies of the claims that ABE's papers make; see docs/studies.md."""
