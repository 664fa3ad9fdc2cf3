"""The repository is what it says it is: pins, notebooks, imports."""

import ast
import importlib.metadata
import json
import re

import nbformat
import pytest

PAPERMILL = ["train", "tune", "benchmark", "speed", "tables", "figures", "run_all"]


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
    named = " ".join(re.findall(r"^(?:dev_)?requirements = (.*)$", settings, re.M)).split()
    assert {re.split(r"[<>=]", n)[0] for n in named} == set(pins(root))


@pytest.mark.parametrize("name", PAPERMILL)
def test_papermill_notebooks_have_one_parameters_cell(root, name):
    cells = nbformat.read(root / "nbs" / f"{name}.ipynb", as_version=4).cells
    tagged = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1 and tagged[0].cell_type == "code"
    assert all(isinstance(n, ast.Assign) for n in ast.parse(tagged[0].source).body)


def test_exported_code_imports_neither_nbdev_nor_fastcore(root):
    for path in (root / "promptrec").rglob("*.py"):
        if path.name == "_modidx.py":
            continue
        names = [
            n
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for n in (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [a.name for a in node.names]
            )
        ]
        assert not [n for n in names if n.split(".")[0] in ("nbdev", "fastcore")], path


def test_notebooks_are_executed_and_quiet(root):
    for path in (root / "nbs").glob("*.ipynb"):
        code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        text = json.dumps([c.get("outputs", []) for c in code])
        assert any(c.get("outputs") for c in code), f"{path.name}: no cell has an output"
        for bad in (
            '"stderr"',
            "widget-view",
            "Warning",
            "/work/",
            "/tmp/",
            "/root/",
            "/home/",
            '"output_type": "error"',
        ):
            assert bad not in text, f"{path.name}: an output holds {bad}"
