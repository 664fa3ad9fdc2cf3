"""Every command that README, CONTRIBUTING and the notebooks show, and the code of CONTRIBUTING."""

import ast
import re
import shlex
from pathlib import Path

import nbformat
import pytest

from promptrec.data.registry import DATASETS, datasets_at_hand
from promptrec.experiments.registry import MODELS
from promptrec.experiments.run import known_parameters

ROOT = Path(__file__).parent.parent
QUICK = ("popularity", "itemknn", "ease", "markov")  # what the tests train; others stop at epochs 0


def texts():
    "The prose that shows commands, by the file it is in."
    for name in ("README.md", "CONTRIBUTING.md"):
        yield name, (ROOT / name).read_text()
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        yield path.name, "\n".join(c.source for c in cells if c.cell_type == "markdown")


def commands():
    "All papermill commands, as (notebook, {parameter: value}), each once."
    found = {}
    for _, text in texts():
        for line in re.findall(r"papermill (nbs/[^\n`|&]+)", text):
            notebook, _, *words = shlex.split(line, comments=True)
            given = dict(zip(words[1::3], words[2::3]))
            assert words[::3] == ["-p"] * len(given), line
            found[(notebook, *given.items())] = (Path(notebook).stem, given)
    return list(found.values())


def parameters(name):
    "The names in a notebook's parameters cell."
    cells = nbformat.read(ROOT / "nbs" / f"{name}.ipynb", as_version=4).cells
    [cell] = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    return [t.id for node in ast.parse(cell.source).body for t in node.targets]


def fences(name, language):
    "The blocks of a language in a Markdown file."
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


@pytest.mark.parametrize("name, given", commands(), ids=str)
def test_a_command_names_known_parameters(name, given):
    known = parameters(name)
    if name == "train":
        model = given.get("model", "mibert")
        known = known + known_parameters(model if model in MODELS else "popularity")
    assert set(given) <= set(known)
    if "dataset" in given and "/" not in given["dataset"]:
        assert set(given["dataset"].split(",")) <= {*DATASETS, "at hand"}


def small(name, given, own, folder):
    "The parameters of a command, made so small that it runs in seconds."
    given = {k: v for k, v in given.items() if k != "data_dir"}
    at_hand = given.get("dataset", "ml-100k") in datasets_at_hand()
    if name in ("train", "tune", "speed", "benchmark") and not at_hand:
        given["dataset"] = str(own)
    if name == "train":
        model = given.get("model", "mibert")
        if ":" in model:
            (folder / "recency.py").write_text(fences("CONTRIBUTING.md", "python")[1])
            model = given["model"] = f"{folder / 'recency.py'}:Recency"
        if model in MODELS and model not in QUICK:
            given["epochs"] = 0
        if given["dataset"] == str(own) if "dataset" in given else False:
            given["candidates"] = "uniform-5"
        given |= {"preset": "tiny", "out_dir": folder / "runs"}
    elif name == "run_all":  # all of its work but the runs: this shard is empty
        given |= {"shard": "9999/10000", "records": folder / "records", "out_dir": folder / "runs"}
    elif name == "tune":
        given |= {"preset": "tiny", "model": "itemknn", "trials": 1, "seeds": 0}
        given |= {"records": folder / "records", "out_dir": folder / "runs"}
    elif name == "speed":
        given |= {"layers": 1, "max_tokens": 64, "batch_size": 2, "steps": 1, "users": 4}
        given |= {"compiled": False}
    elif name == "benchmark":
        given |= {"scale": False, "llm": "", "steps": 0}
    return given


def runs():
    """The commands that are run here: of each notebook the one that names most, of `train` one a
    model; tables and figures are run by their own tests.
    """
    chosen = {}
    for name, given in sorted(commands(), key=lambda command: -len(command[1])):
        model = given.get("model", "mibert").rpartition(":")[0] or given.get("model", "mibert")
        kind = "own" if model.endswith(".py") else model.partition("-")[0]
        if name not in ("tables", "figures"):
            chosen.setdefault((name, kind if name == "train" else ""), (name, given))
    return list(chosen.values())


@pytest.mark.parametrize("name, given", runs(), ids=str)
def test_a_command_runs(name, given, papermill, own, tmp_path):
    done = papermill(name, tmp_path / "out.ipynb", **small(name, given, own, tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_code_of_contributing_runs_and_is_short(monkeypatch):
    monkeypatch.setattr("promptrec.data.registry.DATASETS", dict(DATASETS))
    blocks = fences("CONTRIBUTING.md", "python")
    assert len(blocks) == 3
    for block in blocks:
        assert len([line for line in block.splitlines() if line.strip()]) <= 30
        exec(compile(block, "CONTRIBUTING.md", "exec"), {})
