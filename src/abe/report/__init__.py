"""Figures and pages: what a person looks at. Knows nothing of how attributions are computed."""
