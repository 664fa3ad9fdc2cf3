"""Build the site from what is committed, without running a notebook: python docs/build.py [folder].

Sphinx reads a copy of the repository's pages, laid out in `pages` under the folder (`_docs`) with
the repository's own paths, so that links between notebooks hold; the site is the folder's `html`.
"""

import ast
import html
import re
import shutil
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import nbformat
from sphinx.cmd.build import main as sphinx

ROOT = Path(__file__).parent.parent
GITHUB = "https://github.com/promptrec/promptrec"
# Notebooks that run things, in this order; others follow
RUN = ["train", "recommend", "tune", "run_all", "tables", "figures", "benchmark", "speed"]
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")  # a relative target of a Markdown link


class Pages:
    "A folder of pages. One that is the same as before keeps its time, so Sphinx reads it once."

    def __init__(self, folder: Path):
        self.folder, self.kept = folder, set()

    def write(self, name: str, content: str | bytes) -> None:
        "A page or picture by its path; a text's links to what is not on the site go to GitHub."
        path = self.folder / name
        if isinstance(content, str):
            content = content.encode()
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self.kept.add(path)

    def remove_others(self) -> None:
        "Remove what an earlier layout left."
        for path in self.folder.rglob("*"):
            if path.is_file() and path not in self.kept:
                path.unlink()


# Links ----------------------------------------------------------------------------------------


def on_site(path: Path) -> bool:
    "Whether a file of the repository is a page or a picture of the site."
    name = path.relative_to(ROOT).as_posix()
    inside = name.startswith(("nbs/", "docs/", "figures/"))
    return name == "CONTRIBUTING.md" or (inside and path.suffix in (".ipynb", ".md", ".png"))


def relink(text: str, page: Path) -> str:
    "A page's links as they hold on the site: a folder's are to its index, others may be GitHub's."

    def target(link: re.Match) -> str:
        path = (page.parent / link[1]).resolve()
        if not path.is_relative_to(ROOT) or not path.exists() or on_site(path):
            return link[0]  # Sphinx warns of what is nowhere
        name = path.relative_to(ROOT).as_posix()
        if path.is_dir() and name in ("figures/paper-a", "figures/paper-b"):
            return f"{link[0].rstrip('/')}/index.md"
        return f"{GITHUB}/{'tree' if path.is_dir() else 'blob'}/main/{name}"

    return LINK.sub(target, text)


def diagrams(text: str) -> str:
    "A page whose Mermaid diagrams are for the script that draws them: else their text is read."

    def drawn(fence: re.Match) -> str:
        return f'<pre class="mermaid">\n{html.escape(fence[1], quote=False)}</pre>\n'

    return re.sub(r"(?ms)^```mermaid\n(.*?)^```$", drawn, text)


# Notebooks ------------------------------------------------------------------------------------


def chapters() -> list[Path]:
    "Folders of chapters in reading order."
    return sorted(p for p in (ROOT / "nbs").iterdir() if re.match(r"[0-9A-Z]_", p.name))


def notebooks(folder: Path) -> list[Path]:
    "Notebooks of a folder in reading order."
    return sorted(folder.glob("*.ipynb"))


def exported_module(nb: nbformat.NotebookNode) -> str | None:
    "The module that a notebook exports, `promptrec.core`; None if it exports none."
    found = re.findall(r"^#\| default_exp (\S+)$", "\n".join(c.source for c in nb.cells), re.M)
    return f"promptrec.{found[0]}" if found else None


def notebook_page(path: Path) -> nbformat.NotebookNode:
    "A notebook as a page: without nbdev's directives, and with its module's page at its head."
    nb = nbformat.read(path, as_version=4)
    module = exported_module(nb)
    cells = []
    for cell in nb.cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "markdown":
            cell.source = diagrams(relink(cell.source, path))
        elif cell.cell_type == "code":
            cell.source = re.sub(r"(?m)^#\| ?\w.*\n?", "", cell.source)
            for output in [o for o in cell.outputs if "text/markdown" in o.get("data", {})]:
                output.data["text/markdown"] = relink(output.data["text/markdown"], path)
            cell.outputs = [o for o in cell.outputs if o.get("data", {}).get("text/markdown") != ""]
            if {"hide", "output only"} & set(tags):  # of the front page, see .ci/readme.py
                cell.metadata["tags"] = ["hide-input"]
        if cell.source.strip():
            cells.append(cell)
    nb.cells = cells
    if module:
        note = f"```{{seealso}}\nThe module that this notebook exports: {{py:mod}}`{module}`.\n```"
        nb.cells.insert(1, nbformat.v4.new_markdown_cell(note, id="module"))
    nb.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    return nb


def summary(nb: nbformat.NotebookNode) -> tuple[str, str]:
    "A chapter's title, and its one-sentence summary."
    return re.match(r"# (.+)\n\n> (.+)", nb.cells[0].source).groups()


def toctree(names: list[str], *options: str) -> str:
    "A table of contents."
    options = ("titlesonly:", *options)
    return "\n".join(["```{toctree}", *(f":{o}" for o in options), "", *names, "```", ""])


def lay_out_notebooks(pages: Pages) -> None:
    "All notebooks; and a page for each chapter, with what its notebooks are about."
    for path in [*notebooks(ROOT / "nbs"), *(p for c in chapters() for p in notebooks(c))]:
        name = path.relative_to(ROOT).as_posix()
        pages.write(name, nbformat.writes(notebook_page(path)))
    for chapter in chapters():
        lines = [f"# {chapter.name}", "", chapter_words(chapter), ""]
        names = []
        for path in notebooks(chapter):
            title, said = summary(nbformat.read(path, as_version=4))
            lines += [f"- [{title}]({path.name}): {said}"]
            names += [path.stem]
        pages.write(
            f"nbs/{chapter.name}/index.md", "\n".join([*lines, "", toctree(names, "hidden:")])
        )


def chapter_words(chapter: Path) -> str:
    "What a chapter is about: what its package says of itself."
    package = ROOT / "promptrec" / chapter.name.partition("_")[2] / "__init__.py"
    if package.exists():
        return ast.get_docstring(ast.parse(package.read_text()))
    return "What all other chapters stand on."


# API ------------------------------------------------------------------------------------------


def public_names(source: str) -> dict[str, tuple[str, str]]:
    "Public names of a module in order: function, class or data, and data's comment."
    lines, found, exported = source.split("\n"), {}, []
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = "function", ""
        elif isinstance(node, ast.ClassDef):
            found[node.name] = "class", ""
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and target.id == "__all__":
                exported = ast.literal_eval(node.value)
            elif isinstance(target, ast.Name):
                short = node.lineno == node.end_lineno
                comment = lines[node.lineno - 1].partition("  # ")[2]
                found[target.id] = "data" if short else "table", comment
    return {name: kind for name, kind in found.items() if name in exported}


def public_modules() -> dict[str, str]:
    "The modules that notebooks export, in reading order, and the notebook of each."
    found = {}
    for path in [p for chapter in chapters() for p in notebooks(chapter)]:
        module = exported_module(nbformat.read(path, as_version=4))
        if module:
            found[module] = path.relative_to(ROOT).with_suffix("").as_posix()
    return found


def source_of(module: str) -> str:
    "The text of a module."
    return (ROOT / f"{module.replace('.', '/')}.py").read_text()


def api_page(module: str, notebook: str) -> str:
    "A module's page: what it says of itself, where it is written, each public name."
    lines = [module, "=" * len(module), "", f".. automodule:: {module}", ""]
    lines += [f"Written, explained and tested in :doc:`/{notebook}`.", ""]
    lines += [f".. currentmodule:: {module}", ""]
    for name, (kind, comment) in public_names(source_of(module)).items():
        lines += [f".. auto{'data' if kind == 'table' else kind}:: {name}"]
        lines += ["   :members:"] if kind == "class" else []
        lines += ["   :no-value:"] if kind == "table" else []
        lines += ["", f"   {comment}" if comment else "", ""]
    return "\n".join(lines)


def lay_out_api(pages: Pages) -> None:
    "A page for each module, in the order of the chapters, and one for each package."
    packages: dict[str, list[str]] = {}
    for module, notebook in public_modules().items():
        pages.write(f"api/{module}.rst", api_page(module, notebook))
        package, _, name = module.rpartition(".")
        packages.setdefault(module if package == "promptrec" else package, []).append(module)
    for package, modules in packages.items():
        if modules != [package]:
            about = ast.get_docstring(ast.parse(source_of(f"{package}.__init__")))
            pages.write(f"api/{package}.md", f"# {package}\n\n{about}\n\n{toctree(modules)}")
    head = (ROOT / "docs" / "api.md").read_text()
    pages.write("docs/api.md", f"{head}\n{toctree([f'/api/{p}' for p in packages])}")


# Figures and tables ---------------------------------------------------------------------------


def gallery(paper: str, entries: list[dict]) -> str:
    "A paper's pictures with what they show and the command that makes them, then its tables."
    folder = ROOT / "figures" / f"paper-{paper}"
    lines = [f"# Paper {paper.upper()}: figures and tables", ""]
    pictures = sorted(folder.glob("*.png"))
    for entry in entries:
        for path in [p for p in pictures if re.fullmatch(entry["name"], p.stem)]:
            pictures.remove(path)
            where = re.fullmatch(entry["name"], path.stem).groupdict()
            title = entry["title"].format(**where)
            lines += [f"## {title}", "", f"![{title}]({path.name})", ""]
            lines += [entry["shows"].format(**where), ""]
            lines += ["```sh", entry["command"].format(**where), "```", ""]
    if pictures:
        raise SystemExit(f"docs/figures.toml says nothing about {pictures[0].relative_to(ROOT)}")
    tables = [p.stem for p in sorted(folder.glob("*.md"))]
    lines += ["## Tables", "", toctree(tables)]
    return "\n".join(lines)


def lay_out_figures(pages: Pages) -> None:
    "Both papers' galleries, and each table as a page."
    entries = tomllib.loads((ROOT / "docs" / "figures.toml").read_text())
    for paper in "ab":
        for path in sorted((ROOT / "figures" / f"paper-{paper}").iterdir()):
            name = path.relative_to(ROOT).as_posix()
            if path.suffix == ".png":
                pages.write(name, path.read_bytes())
            elif path.suffix == ".md":
                pages.write(name, path.read_text())
        pages.write(f"figures/paper-{paper}/index.md", gallery(paper, entries[paper]))


# The site -------------------------------------------------------------------------------------


def up(target: str) -> str:
    "A link of a page in `docs`, from the repository's top."
    return target.removeprefix("../") if target.startswith("../") else f"docs/{target}"


def lay_out(folder: Path) -> None:
    "All that Sphinx reads."
    pages = Pages(folder)
    lay_out_notebooks(pages)
    lay_out_api(pages)
    lay_out_figures(pages)
    for path in [*(ROOT / "docs" / "how").glob("*.md"), ROOT / "CONTRIBUTING.md"]:
        pages.write(path.relative_to(ROOT).as_posix(), relink(path.read_text(), path))
    top = [path.stem for path in notebooks(ROOT / "nbs") if path.stem != "index"]
    runs = [*RUN, *(name for name in top if name not in RUN)]
    contents = {
        "Chapters": [f"nbs/{c.name}/index" for c in chapters()],
        "Notebooks that run things": [f"nbs/{name}" for name in runs],
    }
    front = ROOT / "docs" / "index.md"  # which is the site's root, one folder up
    text = LINK.sub(lambda link: up(link[0]), relink(front.read_text(), front))
    for title, names in contents.items():
        text = text.replace(f"<!-- {title} -->", toctree(names, "hidden:", f"caption: {title}"))
    pages.write("index.md", text)
    pages.remove_others()


def copy_mathjax(folder: Path) -> None:
    "MathJax from a package of PyPI, so that formulas are set without a network too."
    try:
        carried = files("sphinx-mathjax-offline")
    except PackageNotFoundError:
        raise SystemExit('Formulas need a copy of MathJax: pip install "promptrec[docs]"') from None
    for file in carried:
        path = file.as_posix().partition("static/mathjax/")[2]
        if path == "tex-chtml.js" or path.startswith("output/chtml/fonts/"):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.locate(), folder / path)


def main(folder: Path = ROOT / "_docs") -> int:
    "Lay out the pages and run Sphinx; a warning is an error. Returns the exit status."
    lay_out(folder / "pages")
    copy_mathjax(folder / "html" / "_static" / "mathjax")
    words = ["--fail-on-warning", "--quiet", "--jobs", "2", "--conf-dir", str(ROOT / "docs")]
    # what Sphinx has read: a page that is as before is not read again
    words += ["-d", str(folder / "read")]
    return sphinx([*words, str(folder / "pages"), str(folder / "html")])


if __name__ == "__main__":
    sys.exit(main(*(Path(word).resolve() for word in sys.argv[1:])))
