"""Which package fills which registry. The root of the package tells it; registries only read it."""

FILLED_BY: dict[str, str] = {}
"""Kind -> module whose import registers ABE's own entries of that kind."""
