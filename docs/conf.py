"""Sphinx settings. `make docs` builds with warnings as errors."""

import sys
from pathlib import Path

from abe._version import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
from api import SECTIONS

project = "ABE"
author = copyright = "ABE developers"
release = version = __version__

extensions = [
    "api",
    "cards",
    "mathml",
    "results",
    "myst_parser",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build", "generated/parts", "generated/studies", "results/*.md", "decisions/template.md"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
nitpicky = True

# The reference: annotations as they are written, under short names; what they name is not linked.
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
napoleon_attr_annotations = False
napoleon_custom_sections = list(SECTIONS)
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_ivar = True
python_maximum_signature_line_length = 100
nitpick_ignore_regex = [("py:.*", ".*")]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 3
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

# Scripts of examples/ are run, and their pages written, where they changed since the last build; `make clean`
# forgets that. One that fails fails the build.
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "generated/gallery",
    "filename_pattern": "gallery_",
    "ignore_pattern": r"pictures\.py",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "capture_repr": (),
    "download_all_examples": False,
    "notebook_extensions": set(),
    "show_signature": False,
    "write_computation_times": False,
    "min_reported_time": 3600,  # seconds are the machine's, and pages are to be the same on every one
    "reset_modules": (),
}

html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["abe.css"]
html_theme = "furo"
html_title = "ABE"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f5f8b", "color-brand-content": "#1f5f8b"},
    "dark_css_variables": {"color-brand-primary": "#7fb8de", "color-brand-content": "#7fb8de"},
}
