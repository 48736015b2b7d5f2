"""Ratios against other libraries on the same machine, network and photographs, in one run."""
