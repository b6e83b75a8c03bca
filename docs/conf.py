"""Configuration of the documentation site, which `make docs` builds with Sphinx."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import docstrings  # noqa: E402
import pages  # noqa: E402

project = "jaxml"
author = "The authors of jaxml"
copyright = author

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "generated"]
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["style.css"]
html_title = "jaxml"
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"
highlight_language = "none"

myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings give types and shapes
autodoc_preserve_defaults = True
napoleon_use_rtype = False
default_role = "code"
add_module_names = False


def setup(app):
    """Connect the generated pages and the docstrings."""
    app.connect("builder-inited", lambda app: pages.write(ROOT, Path(app.srcdir)))
    app.connect("autodoc-process-docstring", docstrings.process, priority=1)  # before napoleon
