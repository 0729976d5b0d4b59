"""Builds the documentation with Sphinx: `make docs`, into build/site.

The source is the whole repository, so that a link between its pages is the same link on the site.
Everything works without a network: search runs in the browser, formulas are MathML.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import matplotlib

import famseg

project = "famseg"
author = copyright = "famseg developers"
version = release = famseg.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "_site.formulas",
    "_site.navigation",
    "_site.notebook",
    "_site.sources",
]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "docs/**/*.md",
    "docs/*.ipynb",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "data/*/README.md",
    "benchmarks/results/*.md",
]
# Not walked through: nothing in them is a page.
exclude_patterns = [".*", "build", "dist", "runs", "famseg", "tests", "configs", "*.egg-info"]

# Headings have the anchors that they have on a code host.
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]
myst_dmath_double_inline = True
myst_url_schemes = ["http", "https", "mailto", "source"]

napoleon_use_ivar = True
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88

smartquotes = False  # two hyphens of an option stay two

html_theme = "furo"
html_title = f"famseg {version}"
html_favicon = "_static/famseg.svg"
# The signs of formulas, for machines without a font for them.
_font = Path(matplotlib.get_data_path(), "fonts", "ttf", "STIXGeneral.ttf")
html_static_path = ["_static", str(_font)]
html_css_files = ["famseg.css"]
html_extra_path = ["_root"]
html_show_sourcelink = False
html_copy_source = False

# Prompts and printed results are not copied.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
