"""How the documentation is built: `sphinx-build -W docs site`."""  # noqa: INP001 - Sphinx wants it here

from __future__ import annotations

import re
from typing import Any

import capillary_targets
from capillary_targets import __version__
from capillary_targets.cli import app as commands

project = "capillary-targets"
copyright = "the capillary-targets developers"  # noqa: A001 - Sphinx's name
version = release = __version__

extensions = [
    "cyclopts.ext.sphinx",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
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
            made.append(re.sub(r"(?<!`)`([^`]+)`(?!`)", _role, line))
    return made


def _role(code: re.Match[str]) -> str:
    """A link to a public class; else code as it stands."""
    found = getattr(capillary_targets, code[1], None)
    if code[1] not in capillary_targets.__all__ or not isinstance(found, type):
        return f"``{code[1]}``"
    room = found.__module__ if issubclass(found, Exception) else "capillary_targets"
    return f":py:obj:`~{room}.{code[1]}`"


def _convert(*event: Any) -> None:
    lines: list[str] = event[-1]
    lines[:] = _to_rst(lines)


commands.app = commands._app()  # type: ignore[attr-defined]  # noqa: SLF001 - what `cyclopts::` shows


def setup(app: Any) -> None:
    """Connected before napoleon, which reads `Args:` in what this has made."""
    app.connect("autodoc-process-docstring", _convert, priority=400)
