"""Sphinx reads this; `docs/build.py` lays out the pages that it is about."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from docstrings import add_hooks  # noqa: E402  found by the line above

project = "promptrec"
author = "The promptrec authors"
copyright = "2026 onwards, the promptrec authors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]

# Notebooks: shown as they are committed, never run
nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"  # so that links in outputs are those of pages
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

# API: signatures over several lines, short types; `docstrings` makes reST of docstrings
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_default_options = {"undoc-members": True}
maximum_signature_line_length = 88
add_module_names = False
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

# Formulas: the site carries its own MathJax, so that they are set without a network too
mathjax_path = "mathjax/tex-chtml.js"

html_theme = "sphinx_book_theme"
html_title = "promptrec"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_theme_options = {
    "repository_url": "https://github.com/promptrec/promptrec",
    "repository_branch": "main",
    "path_to_docs": "",
    "use_repository_button": True,
    "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    "collapse_navbar": True,
    "show_toc_level": 2,
    "navbar_persistent": [],  # the search stands in the sidebar
}


# Diagrams of notebooks: drawn where there is a network; without one their text is shown
MERMAID = {
    "filename": "https://cdn.jsdelivr.net/npm/mermaid@11.16.0/dist/mermaid.min.js",
    "integrity": "sha384-T/0lMUdJpd2S1ZHtRiofG3htU3xPCrFVeAQ1UUE2TJwlEJSV5NUwn30kP28n238E",
    "crossorigin": "anonymous",
    "async": "async",
}


def add_mermaid(app, pagename, templatename, context, doctree):
    "The script that draws diagrams, on pages that have one."
    if '<pre class="mermaid">' in context.get("body", ""):
        app.add_js_file(**MERMAID)


def setup(app):
    "What no setting says."
    add_hooks(app)
    app.connect("html-page-context", add_mermaid)
