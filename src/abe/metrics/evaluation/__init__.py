"""How metrics are run: shared perturbation runs, sources of maps, intervals, tables."""
