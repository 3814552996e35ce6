"""How the documentation is built: ``python -m sphinx -W docs docs/_build``. Nothing is fetched from the network."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

from gpuannot import __version__

project = "gpuannot"
author = "the gpuannot authors"
copyright = author
version = release = __version__

extensions = [
    "myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon",
    "commands", "docstrings", "links", "mathml", "names", "settings",
]  # fmt: skip
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"gpuannot {version}"
html_copy_source = False
smartquotes = False  # a command that is copied keeps its quotes

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_type_aliases = {name: name for name in ("Images", "Labels", "Store", "Vectors")} | {
    "Inputs": "gpuannot.images.inputs.Inputs"
}
add_module_names = False
strip_signature_backslash = True
napoleon_use_ivar = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

# Names of gpuannot must lead somewhere; those of other packages, whose documentation is on the network, need not.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!gpuannot\b).*"), ("py:.*", r".*\.(_\w+|[A-Z])")]
