"""The repository is what it says it is: pins, notebooks, lines, imports, names."""

import ast
import importlib.metadata
import json
import re
from collections import defaultdict
from pathlib import Path

import nbformat
import pytest

PAPERMILL = ["train", "tune", "recommend", "benchmark", "speed", "tables", "figures", "run_all"]
COLUMNS = 100  # JupyterLab shows about 110 in a window of 1,400 pixels


def notebooks(root):
    "All notebooks of the chapters and those that run things, by path."
    return sorted(p for p in (root / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def cells_of(path, kind):
    "The sources of a notebook's cells of a kind."
    cells = nbformat.read(path, as_version=4).cells
    return [c.source for c in cells if c.cell_type == kind]


def modules(root):
    "The package's modules by dotted name, `_modidx` left out."
    found = {}
    for path in sorted((root / "promptrec").rglob("*.py")):
        if path.name != "_modidx.py":
            name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            found[name] = path
    return found


# Pins and packaging ---------------------------------------------------------------------------


def pins(root):
    lines = (root / "requirements.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def test_environment_reads_the_pins_and_they_are_installed(root):
    environment = (root / "environment.yml").read_text()
    assert "-r requirements.txt" in environment and "python=3.11" in environment
    wanted = pins(root)
    assert wanted["torch"] == "2.13.0" and wanted["nbdev"] == "2.4.14"
    installed = {name: importlib.metadata.version(name).split("+")[0] for name in wanted}
    assert installed == wanted


def test_every_package_of_settings_is_pinned(root):
    settings = (root / "settings.ini").read_text()
    named = " ".join(re.findall(r"^(?:\w+_)?requirements = (.*)$", settings, re.M)).split()
    assert {re.split(r"[<>=]", n)[0] for n in named} == set(pins(root))


# Lines ----------------------------------------------------------------------------------------


def test_no_code_line_is_wider_than_a_screen(root):
    wide = []
    for path in notebooks(root):
        for source in cells_of(path, "code"):
            wide += [f"{path.name}: {line}" for line in source.split("\n") if len(line) > COLUMNS]
    for path in [*modules(root).values(), *(root / "tests").glob("*.py")]:
        text = re.sub(r"(?ms)^__all__ = \[.*?\]$", "", path.read_text())  # nbdev writes it
        wide += [f"{path.name}: {line}" for line in text.split("\n") if len(line) > COLUMNS]
    assert wide == []


def crowded(source):
    "Functions and classes whose body begins on their own line, or that go on beside the docstring."
    lines = [line for line in source.split("\n") if not line.lstrip().startswith(("%", "!"))]
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            first, *others = node.body
            if first.lineno == node.lineno or others and others[0].lineno == first.end_lineno:
                yield node.name


def test_docstring_and_body_stand_on_their_own_lines(root):
    found = []
    for path in notebooks(root):
        for source in cells_of(path, "code"):
            found += [f"{path.name}: {name}" for name in crowded(source)]
    assert found == []


# Chapters -------------------------------------------------------------------------------------


def chapter_of(path):
    """Where the chapter whose notebook exports a module stands, "0" to "9", then "A"; None for what
    is written by hand.
    """
    edited = re.search(r"File to edit: (?:\.\./)+nbs/([0-9A-Z])_", path.read_text())
    return edited.group(1) if edited else None


def imported(path, name):
    "Modules of the package that a module imports at its top or inside functions."
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            module = ".".join([*base, node.module]) if node.level and node.module else node.module
            module = module or ".".join(base)
            found |= {module, *(f"{module}.{a.name}" for a in node.names)}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
    return found


def test_imports_between_chapters_run_one_way(root):
    "No module imports from a later chapter, and no modules import each other in a circle."
    paths = modules(root)
    graph = {name: (imported(path, name) & set(paths)) - {name} for name, path in paths.items()}
    chapters = {name: chapter_of(path) for name, path in paths.items()}
    later = [
        (name, other)
        for name, others in graph.items()
        for other in others
        if None not in (chapters[name], chapters[other]) and chapters[other] > chapters[name]
    ]
    assert later == []
    left = dict(graph)
    while left:
        leaves = {name for name, others in left.items() if not others & set(left)}
        assert leaves, f"a circle among {sorted(left)}"
        left = {name: others for name, others in left.items() if name not in leaves}


def test_no_public_name_is_defined_twice(root):
    where = defaultdict(list)
    for name, path in modules(root).items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                where[node.name].append(name)
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        where[target.id].append(name)
    where.pop("main")  # what a program does is called so in each
    public = {n: ms for n, ms in where.items() if not n.startswith("_") and len(set(ms)) > 1}
    assert public == {}


def test_exported_code_imports_neither_nbdev_nor_fastcore(root):
    for name, path in modules(root).items():
        tops = {m.split(".")[0] for m in imported(path, name)}
        assert not tops & {"nbdev", "fastcore"}, name


# Notebooks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAPERMILL)
def test_papermill_notebooks_have_one_parameters_cell(root, name):
    cells = nbformat.read(root / "nbs" / f"{name}.ipynb", as_version=4).cells
    tagged = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1 and tagged[0].cell_type == "code"
    assert all(isinstance(n, ast.Assign) for n in ast.parse(tagged[0].source).body)


def chapters(root):
    "The notebooks of the chapters, in reading order."
    return [p for p in notebooks(root) if p.parent.name != "nbs"]


def test_chapters_open_with_title_summary_in_and_out(root):
    for path in chapters(root):
        first = cells_of(path, "markdown")[0]
        assert re.match(r"# .+\n\n> .+", first), path
        for part in ("**In**", "**Out**", "**Used by**"):
            assert part in first, f"{path.name} opens without {part}"


def test_chapters_end_with_what_was_not_obvious_and_a_link_to_the_next(root):
    order = chapters(root)
    for path, following in zip(order, order[1:]):
        last = cells_of(path, "markdown")[-1]
        assert "## What was not obvious" in last, path
        link = re.search(r"Next: \[[^\]]+\]\(([^)]+)\)", last)
        assert link and (path.parent / link.group(1)).resolve() == following.resolve(), path


def test_links_between_notebooks_lead_somewhere(root):
    pages = [root / "README.md", root / "CONTRIBUTING.md", *(root / "docs").rglob("*.md")]
    for path in [*notebooks(root), *pages]:
        texts = cells_of(path, "markdown") if path.suffix == ".ipynb" else [path.read_text()]
        for text in texts:
            for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)\s#]+)", text):
                assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_notebooks_named_in_data_exist(root):
    for path in (root / "promptrec").rglob("*.toml"):
        for name in re.findall(r"nbs/\w+/\w+\.ipynb", path.read_text()):
            assert (root / name).exists(), f"{path.name} names {name}"


def test_two_thirds_of_the_chapters_show_a_picture_or_a_table(root):
    shown = 0
    for path in chapters(root):
        outputs = [
            o
            for c in nbformat.read(path, as_version=4).cells
            if c.cell_type == "code"
            for o in c.get("outputs", [])
        ]
        kinds = {kind for o in outputs for kind in o.get("data", {})}
        shown += bool(kinds & {"image/png", "text/html"})
    assert shown >= len(chapters(root)) * 2 / 3


def test_notebooks_are_executed_and_quiet(root):
    noise = ('"stderr"', "widget-view", "Warning", '"output_type": "error"')
    machine = ("/work/", "/tmp/", "/root/", "/home/")
    for path in notebooks(root):
        code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        text = json.dumps([c.get("outputs", []) for c in code])
        assert any(c.get("outputs") for c in code), f"{path.name}: no cell has an output"
        for bad in (*noise, *machine):
            assert bad not in text, f"{path.name}: an output holds {bad}"


def test_runs_named_on_pages_of_figures_have_records(root):
    kept = {path.stem for path in (root / "figures" / "records").rglob("*.json")}
    for page in sorted((root / "figures").rglob("*.md")):
        named = set(re.findall(r"[a-z0-9-]+-seed\d+-[0-9a-f]{8}", page.read_text()))
        assert named <= kept, f"{page.name} was drawn from runs without records: draw it again"


def test_records_are_small(root):
    sizes = [p.stat().st_size for p in (root / "figures" / "records").rglob("*") if p.is_file()]
    assert sum(sizes) < 40 * 2**20


def test_readme_is_short(root):
    assert len(Path(root / "README.md").read_text().splitlines()) <= 150
