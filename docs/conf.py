"""Settings of the documentation; `tox -e docs` builds it.

The API pages are read from the source's text (autoapi) and the command line's from its parsers,
so neither torch nor napari is needed to build them, and nothing is fetched.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE / "_ext")]

from napari_medverse import __version__  # noqa: E402

project = "napari-medverse"
author = "napari-medverse contributors"
copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "autoapi.extension",
    "sphinx.ext.napoleon",
    "sphinxarg.ext",
    "sphinx_copybutton",
    "results_tables",
]
exclude_patterns = ["_build", "_ext", "autoapi"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
default_role = "literal"
# Quotes and dashes of commands are to be copied as they are.
smartquotes = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Only the names that python-api.md lists: the rooms' own modules are for who reads the source.
autoapi_dirs = [str(HERE.parent / "src" / "napari_medverse")]
autoapi_ignore = ["*/widgets/*", "*/networks/*", "*/cli/*", "*/phantom/*", "*/anatomy/*"]
autoapi_generate_api_docs = False
# Names that a room imports on first use are not seen in its text; each is listed where it lives.
# Attributes of one name in several classes are no ambiguity to a reader.
suppress_warnings = ["autoapi.python_import_resolution", "ref.python"]
autoapi_keep_files = False
autoapi_python_class_content = "class"
autodoc_typehints = "signature"
napoleon_google_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"napari-medverse {version}"
html_static_path = []
html_show_sourcelink = False
copybutton_prompt_text = "$ "
