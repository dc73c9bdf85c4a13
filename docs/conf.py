"""How the documentation is built: offline, with warnings as errors (`make docs`)."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

from stored_notebooks import copy_notebooks  # noqa: E402

import psr_lens  # noqa: E402

project = "psr_lens"
author = "the psr_lens contributors"
project_copyright = f"2026, {author}"
version = release = psr_lens.__version__

extensions = [
    "markdown_docstrings",
    "mathml",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "_ext"]
nitpicky = False

# Notebooks are stored with their outputs, which the tests keep true; the build only shows them.
nb_execution_mode = "off"
nb_merge_streams = True
# Nothing is fetched for the sake of widgets, which need a running kernel anyway.
nb_ipywidgets_js = {}
suppress_warnings = ["mystnb.unknown_mime_type"]
copy_notebooks(HERE.parent / "notebooks", HERE / "notebooks", HERE / "_plotly")

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_preserve_defaults = True
toc_object_entries_show_parents = "hide"
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"psr_lens {release}"
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["_static", "_plotly"]
html_css_files = ["pages.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
