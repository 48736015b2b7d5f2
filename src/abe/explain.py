"""Where `abe.explain` was a module, until 0.2: a sentence that names the new place, for one release."""

raise ImportError(
    "abe.explain is a function, not a module: write `import abe; abe.explain(...)`, or import method, "
    "rule_coverage and explain_game from abe"
)
