"""Figures and pages: what a person looks at. Knows nothing of how attributions are computed."""

INSTALL = "pip install 'abe-xai[report]'"
"""What brings the packages that figures and pages need."""
