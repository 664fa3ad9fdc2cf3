"""Every command that README, CONTRIBUTING, the site and notebooks show, and the code of pages."""

import ast
import re
import shlex
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from promptrec.data.custom import read_folder
from promptrec.data.registry import DATASETS, datasets_at_hand
from promptrec.experiments.parameters import configure, known_parameters
from promptrec.experiments.registry import MODELS
from promptrec.experiments.run import execute, prepare
from promptrec.testing.records import invented_record

ROOT = Path(__file__).parent.parent
QUICK = ("popularity", "itemknn", "ease", "markov")  # what the tests train; others stop at epochs 0

OWN_MODELS = {  # the names that commands show for a model of one's own, and what makes each
    ":Recency": "",
    ":MyModel": "MyModel = Recency",
    ":RecentPopularity": "RecentPopularity = Recency",
}


def texts():
    "The prose that shows commands, by the file it is in."
    pages = sorted((ROOT / "docs").rglob("*.md"))
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *pages):
        yield path.name, path.read_text()
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
    """The parameters of a command, made so small that it runs in seconds: data of one's `own`,
    results under `folder`.
    """
    given = {k: v for k, v in given.items() if k not in ("data_dir", "seeds", "shard", "table")}
    given["out_dir"] = folder / "runs"
    if name in ("tables", "figures", "run_all", "tune"):
        given["records"] = folder / "records"
    if given.get("model", "").endswith(tuple(OWN_MODELS)):
        given["model"] = f"{folder / 'own.py'}:{given['model'].rpartition(':')[2]}"
    if name == "train":
        model = given.get("model", "mibert")
        if model in MODELS and model not in QUICK:
            given["epochs"] = 0
        if given.get("dataset", "ml-100k") not in datasets_at_hand():
            given |= {"dataset": own, "candidates": "uniform-5"}
        given["preset"] = "tiny"
        given.pop("start", None)  # tests/test_predict.py has runs to start from
    elif name == "run_all":  # all of its work but the runs: this shard is empty
        given |= {"table": "quick", "shard": "9999/10000"}
    elif name == "tune":
        given |= {"dataset": "ml-100k", "model": "itemknn", "preset": "tiny"}
        given |= {"trials": 1, "seeds": 0}
    elif name == "speed":
        given = {"dataset": "ml-100k", "layers": 1, "max_tokens": 64, "batch_size": 2, "steps": 1}
        given |= {"users": 4, "models": "mibert:paper,gru4rec"}
    elif name == "figures" and "models" in given:
        given |= {"models": folder / "runs", "preset": "tiny", "names": "popularity"}
        given |= {"probed": "popularity"}
    elif name == "recommend":  # tests/test_predict.py has runs and histories
        given = {"out": folder / "best.csv"}
    elif name == "benchmark":
        given = {"dataset": own, "scale": False, "llm": "", "steps": 0}
    return given


def runs():
    "The commands, but those that are the same as another when made small."
    small_forms = {}
    for name, given in commands():
        if name == "tables":  # whose own tests run it with all of its parameters
            continue
        form = small(name, given, Path("own"), Path("folder"))
        small_forms.setdefault(f"{name} {sorted(form.items(), key=str)}", (name, given))
    return list(small_forms.values())


@pytest.mark.parametrize("name, given", runs(), ids=str)
def test_a_command_runs(name, given, notebook, own, tmp_path):
    code = fences("CONTRIBUTING.md", "python")[1]
    (tmp_path / "own.py").write_text("\n".join([code, *OWN_MODELS.values()]))
    for model in ("popularity", "markov"):
        invented_record(tmp_path / "records", {"model": model}, 0.5)
    if "models" in given:  # to ask again
        run = {"model": "popularity", "dataset": "llara-movielens", "preset": "tiny"}
        run = configure(**run, out_dir=str(tmp_path / "runs"))
        execute(run, prepare(run))
    notebook(name, **small(name, given, own, tmp_path))


def test_the_code_of_contributing_runs_and_is_short(monkeypatch):
    monkeypatch.setattr("promptrec.data.registry.DATASETS", dict(DATASETS))
    blocks = fences("CONTRIBUTING.md", "python")
    assert len(blocks) == 3
    for block in blocks:
        assert len([line for line in block.splitlines() if line.strip()]) <= 30
        exec(compile(block, "CONTRIBUTING.md", "exec"), {})


def test_the_data_of_the_how_to_page_are_read(tmp_path):
    tables = fences("docs/how/own-data.md", "text")
    for name, table in zip(("interactions", "items"), tables):
        (tmp_path / f"{name}.csv").write_text(table)
    dataset = read_folder(tmp_path)
    assert dataset.users.tolist() == ["ann", "bob"] and len(dataset) == 3
    assert dataset.titles.tolist() == ["Middlemarch", "Les Misérables"]


def test_the_histories_of_the_how_to_page_get_recommendations(tmp_path):
    run = configure(dataset="ml-100k", model="popularity", out_dir=str(tmp_path / "runs"))
    path = execute(run, prepare(run)).path
    [table] = fences("docs/how/recommend.md", "text")
    [code] = fences("docs/how/recommend.md", "python")
    people, best = tmp_path / "people.csv", tmp_path / "best.parquet"
    people.write_text(table)
    named = re.sub(r"runs/ml-100k-sasrec-[^\"]+", str(path), code)
    exec(named.replace("people.csv", str(people)).replace("best.parquet", str(best)), {})
    assert pd.read_parquet(best)["user"].value_counts().to_dict() == {"ann": 20, "bob": 20}


def test_the_model_of_the_how_to_page_runs(own, tmp_path):
    [code] = fences("docs/how/own-model.md", "python")
    (tmp_path / "my_model.py").write_text(code)
    model = f"{tmp_path / 'my_model.py'}:MyModel"
    given = {"dataset": str(own), "preset": "tiny", "candidates": "uniform-5"}
    mine, known = (
        configure(model=name, out_dir=str(tmp_path / "runs"), **given)
        for name in (model, "popularity")
    )
    prepared = prepare(known)
    mine, known = execute(mine, prepared).record, execute(known, prepared).record
    assert mine["metrics"]["test"]["full"] == known["metrics"]["test"]["full"]
