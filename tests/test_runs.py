"""Whole runs: from a command to a record; wrong parameters; kills, full disks and resuming."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest

from promptrec.core import PromptrecError
from promptrec.experiments.parameters import configure
from promptrec.experiments.records import read_record

TINY = dict(preset="tiny", epochs=2)


def outputs(path):
    "Everything a notebook printed or showed, as one text."
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    return "\n".join(
        str(o.get("text", "")) + str(o.get("data", {}).get("text/plain", ""))
        for c in cells
        for o in c.outputs
    )


def python_run(out_dir, resume=False, limit=None, **parameters):
    "Start a run in a process of its own; `limit` bounds the size in bytes of any file it writes."
    given = dict(TINY, **parameters, out_dir=str(out_dir), resume=resume)
    code = f"""
import resource
import signal

from promptrec.experiments.parameters import configure
from promptrec.experiments.run import execute, prepare

run = configure(**{given!r})
data = prepare(run)
limit = {limit!r}
if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
execute(run, data)
"""
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def records(folder):
    return [read_record(p) for p in Path(folder).glob("*.json")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, papermill):
    "A finished papermill run of the tiny preset: its notebook and its records by model."
    folder = tmp_path_factory.mktemp("run")
    given = TINY | {"max_tokens": 40}
    done = papermill("train", folder / "out.ipynb", out_dir=folder / "runs", **given)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "out.ipynb", {r["model"]: r for r in records(folder / "runs")}, folder / "runs"


def test_papermill_run_writes_a_record_beside_popularity(finished):
    _, by_model, runs = finished
    assert set(by_model) == {"mibert", "popularity"}
    record = by_model["mibert"]
    assert record["config"]["loop"]["epochs"] == 2 and len(record["curves"]) == 2
    assert record["candidates"] == by_model["popularity"]["candidates"]
    ranks = pd.read_parquet(runs / record["ranks"])
    assert len(ranks) == 943 and set(ranks) == {"user", "sampled", "full", "history", "popularity"}
    assert record["metrics"]["test"]["sampled"]["recall@10"]["value"] == pytest.approx(
        (ranks["sampled"] <= 10).mean()
    )
    assert not list(runs.rglob("*.tmp"))


def test_a_notebook_has_one_row_a_setting_and_few_outputs(finished):
    "Every setting with its meaning, nothing on stderr, one bar, plots in a cell of their own."
    cells = [c for c in nbformat.read(finished[0], as_version=4).cells if c.cell_type == "code"]
    text = outputs(finished[0])
    for words in ("residual_weight", "batch_size", "at most; early stopping may end a run before"):
        assert words in text
    names = {o.get("name") for c in cells for o in c.outputs}
    assert "stderr" not in names
    kinds = [{k for o in c.outputs for k in o.get("data", {})} for c in cells]
    assert not any({"image/png", "text/html"} <= found for found in kinds)
    assert "7544.0" not in json.dumps([o for c in cells for o in c.outputs])


def test_paths_begin_at_the_repository_wherever_a_notebook_is_started(root, tmp_path, monkeypatch):
    "In JupyterLab the kernel's folder is nbs/; runs go to the top's `runs`, which git ignores."
    found = []
    for folder in (root, root / "nbs", tmp_path):
        monkeypatch.chdir(folder)
        found.append(str(configure(model="popularity").folder.parent))
    assert found == [str(root / "runs"), str(root / "runs"), str(tmp_path / "runs")]
    ignored = subprocess.run(["git", "check-ignore", "-q", "runs/x"], cwd=root)
    assert ignored.returncode == 0


def test_only_a_parameters_cell_has_parameters(tmp_path, root):
    "A plain variable of another cell is none, and prompts are shown for models that read them."
    notebook = nbformat.read(root / "nbs" / "train.ipynb", as_version=4)
    first = next(i for i, c in enumerate(notebook.cells) if c.cell_type == "code")
    notebook.cells.insert(first, nbformat.v4.new_code_cell("mine = 3\nlayers = 7"))
    nbformat.write(notebook, tmp_path / "train.ipynb")
    words = ["-p", "model", "popularity", "-p", "out_dir", str(tmp_path / "runs")]
    command = [sys.executable, "-m", "papermill", str(tmp_path / "train.ipynb")]
    command += [str(tmp_path / "out.ipynb"), "--no-progress-bar", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    text = outputs(tmp_path / "out.ipynb")
    assert "does not read these prompts" in text and "times faster" not in text


def test_notebook_shows_what_it_promises(finished):
    text = outputs(finished[0])
    for words in (
        "preset: tiny",
        "The user is watching movies:",
        "times faster",
        "recall@10",
        "held out",
        "record:",
    ):
        assert words in text


def test_killed_commands_that_are_given_again_lose_nothing(root):
    "A few kills of each kind of command but grids; `kills.py` makes as many as one likes."
    names = "training,tuning-tpe,prediction,fetching-archive,fetching-files"
    command = [sys.executable, str(root / "tests" / "kills.py"), "10", "--scenarios", names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_full_disk_is_a_clear_error_and_leaves_nothing_half_written(own, tmp_path):
    out_dir = tmp_path / "runs"
    process = python_run(out_dir, limit=1 << 20, dataset=str(own), candidates="uniform-5")
    text = process.communicate(timeout=600)[0]
    assert process.returncode == 1
    assert "PromptrecError: Cannot write" in text and "Free some space" in text
    assert [p.name for p in out_dir.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize(
    "given, words",
    [
        ({"dataset": "ml-100"}, ["Unknown dataset 'ml-100'", "ml-100k, movielens-small"]),
        ({"model": "mibird"}, ["Unknown model 'mibird'", "mibert, mibert-pb"]),
        ({"epochz": 3}, ["Unknown parameter of mibert 'epochz'", "epochs"]),
    ],
)
def test_wrong_parameters_end_the_notebook_with_what_is_known(notebook, tmp_path, given, words):
    with pytest.raises(PromptrecError) as error:
        notebook("train", out_dir=tmp_path / "runs", **given)
    for w in words:
        assert w in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_ml_1m_prompts_are_those_of_table_3(notebook, tmp_path, real_data):
    given = {"dataset": "ml-1m", "data_dir": real_data, "epochs": 0}
    text = notebook("train", **given, out_dir=tmp_path / "runs")
    row = next(words for words in map(str.split, text.splitlines()) if words[:1] == ["paper"])
    assert row[1:5] == ["512", "48320", "28.4", "37"]
    assert "nothing is trained" in text and not (tmp_path / "runs").exists()


def two_processes(out_dir, **words):
    "Start a run that two processes share."
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--standalone",
        "-m",
        "promptrec.experiments",
        *(f"{k}={v}" for k, v in words.items()),
        f"out_dir={out_dir}",
    ]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
    )


def test_two_processes_share_a_run_and_its_resumption(own, tmp_path):
    words = dict(
        dataset=own,
        model="sasrec",
        preset="tiny",
        candidates="uniform-5",
        epochs=40,
        patience=40,
        batch_size=8,
    )
    whole, killed = (
        two_processes(tmp_path / "whole", **words),
        two_processes(tmp_path / "killed", **words),
    )
    while killed.poll() is None and not list((tmp_path / "killed").rglob("checkpoint.pt")):
        time.sleep(0.01)
    for process in [*psutil.Process(killed.pid).children(recursive=True), killed]:
        process.kill()
    killed.communicate()
    assert list((tmp_path / "killed").rglob("checkpoint.pt")) and not records(tmp_path / "killed")
    resumed = two_processes(tmp_path / "killed", resume="true", **words)
    for process in (whole, resumed):
        said, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
        assert said.count(".json") == 1
    [one], [other] = records(tmp_path / "whole"), records(tmp_path / "killed")
    assert (
        one["device"]["devices"] == 2
        and len(one["curves"]) == 40
        and one["metrics"] == other["metrics"]
    )
    assert [c["loss"] for c in one["curves"]] == [c["loss"] for c in other["curves"]]
    assert not list(tmp_path.rglob("checkpoint.pt"))
