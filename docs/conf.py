"""How the documentation is built: `sphinx-build -W docs site`."""  # noqa: INP001 - Sphinx wants it here

from __future__ import annotations

import re
from importlib.metadata import version as version_of
from typing import Any

project = "capillary-targets"
copyright = "the capillary-targets developers"  # noqa: A001 - Sphinx's name
version = release = version_of("capillary-targets")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "capillary-targets"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["toc.not_readable"]  # the index may name a page before it is written

autodoc_mock_imports = ["ray"]  # 300 MB for one docstring
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True

_FENCE = re.compile(r"^(\s*)```(\w*)\s*$")


def _to_rst(lines: list[str]) -> list[str]:
    """Our docstrings are Markdown, as editors and `help()` show them; autodoc wants RST."""
    made: list[str] = []
    fenced = False
    for line in lines:
        fence = _FENCE.match(line)
        if fence:
            fenced = not fenced
            made += [f"{fence[1]}.. code-block:: {fence[2] or 'text'}", ""] if fenced else [""]
        elif fenced:
            made.append(f"   {line}" if line else "")
        else:
            made.append(re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", line))
    return made


def _convert(*event: Any) -> None:
    lines: list[str] = event[-1]
    lines[:] = _to_rst(lines)


def setup(app: Any) -> None:
    """Connected before napoleon, which reads `Args:` in what this has made."""
    app.connect("autodoc-process-docstring", _convert, priority=400)
