"""Write README.md from nbs/index.ipynb."""

import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

root = Path(__file__).parent.parent
nb = nbformat.read(root / "nbs" / "index.ipynb", as_version=4)
hidden = lambda c: c.cell_type == "raw" or "hide" in c.metadata.get("tags", [])
nb.cells = [c for c in nb.cells if not hidden(c)]
for c in nb.cells:
    if c.cell_type == "code" and "output only" in c.metadata.get("tags", []):
        c.metadata["transient"] = {"remove_source": True}
nb.metadata["language_info"] = {"name": "python"}
body, _ = MarkdownExporter().from_notebook_node(nb)
body = re.sub(r"\n{3,}", "\n\n", body.replace("../figures/", "figures/").strip()) + "\n"
(root / "README.md").write_text(
    "<!-- Rendered from nbs/index.ipynb; edit that. -->\n\n" + body, encoding="utf-8"
)
