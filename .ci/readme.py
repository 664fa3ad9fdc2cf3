"""Write README.md from nbs/index.ipynb: cells tagged `hide` are left out, links begin at root."""

import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parent.parent


def hidden(cell: nbformat.NotebookNode) -> bool:
    "Whether a cell is for readers of the notebook alone."
    return cell.cell_type == "raw" or "hide" in cell.metadata.get("tags", [])


def from_root(link: re.Match) -> str:
    "A link of a notebook in `nbs/` as one of the README; addresses and anchors stay."
    target = link.group(1)
    if re.match(r"[a-z]+:|#", target):
        return link.group(0)
    return f"]({target.removeprefix('../') if target.startswith('../') else f'nbs/{target}'})"


notebook = nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4)
notebook.cells = [cell for cell in notebook.cells if not hidden(cell)]
for cell in notebook.cells:
    if cell.cell_type == "code" and "output only" in cell.metadata.get("tags", []):
        cell.metadata["transient"] = {"remove_source": True}
notebook.metadata["language_info"] = {"name": "python"}
body, _ = MarkdownExporter().from_notebook_node(notebook)
body = re.sub(r"\]\(([^)\s]+)\)", from_root, body)
body = re.sub(r"\n{3,}", "\n\n", body.strip()) + "\n"
head = "<!-- Rendered from nbs/index.ipynb; edit that. -->\n\n"
(ROOT / "README.md").write_text(head + body, encoding="utf-8")
