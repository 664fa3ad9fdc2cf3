"""A model of one's own, in a file of its own: trained, evaluated and recorded like any other."""

import subprocess
import sys

import pytest

from promptrec.core import PromptrecError
from promptrec.experiments.engine import run_all
from promptrec.experiments.grid import missing, record_path, runs_of
from promptrec.experiments.parameters import configure
from promptrec.experiments.records import read_record
from promptrec.experiments.run import execute, finished_runs, prepare, restore

TEN_LINES = """
import numpy as np

class NextItem:
    def __init__(self, dataset):
        self.V = dataset.n_items
    def fit(self, split, loop=None, validate=None):
        self.shift = 1
    def score(self, histories, candidates=None):
        ahead = (np.arange(self.V) - histories.last(1).item[:, None] - self.shift) % self.V
        ahead = ahead.astype(np.float32)
        return -ahead if candidates is None else -np.take_along_axis(ahead, candidates, 1)
    def save(self, folder): np.save(folder / "shift.npy", self.shift)
    def load(self, folder): self.shift = np.load(folder / "shift.npy")
"""

TRAINED = """
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from promptrec.evaluation.recommender import load_model, save_model
from promptrec.training.loop import parameter_groups


@dataclass(frozen=True)
class MySettings:
    d: int = 8  # width of the item embeddings


class Net(nn.Module):
    def __init__(self, n_items, d):
        super().__init__()
        self.items, self.out = nn.Embedding(n_items, d), nn.Linear(d, n_items)

    def forward(self, batch):
        logits = self.out(self.items(batch["last"]))
        return nn.functional.cross_entropy(logits, batch["next"]), {}


class Batches:
    def __init__(self, split):
        rows = split.train_rows
        pairs = rows[1:][np.diff(split.dataset.user[rows]) == 0]
        self.last, self.next = split.dataset.item[pairs - 1], split.dataset.item[pairs]

    def plan(self, epoch):
        return np.array_split(np.arange(len(self.last)), 4)

    def collate(self, which, generator):
        as_tensor = lambda x: torch.from_numpy(x[which].astype(np.int64))
        return {"last": as_tensor(self.last), "next": as_tensor(self.next)}


class MyBigram:
    settings_class = MySettings
    presets = {"tiny": {"epochs": 2, "lr": 1e-2}}
    variants = {"my-bigram": {"d": 4}}
    full_parts = ("test",)

    def __init__(self, dataset, settings=MySettings(), data_dir=None):
        self.dataset, self.settings = dataset, settings
        self.net = Net(dataset.n_items, settings.d)

    def fit(self, split, loop, validate=None):
        s = loop.settings
        groups = parameter_groups(self.net.parameters(), s.lr, s.weight_decay)
        return loop.run(self.net, Batches(split), groups, validate)

    @torch.no_grad()
    def score(self, histories, candidates=None):
        last = torch.from_numpy(histories.last(1).item.astype(np.int64))
        scores = self.net.out(self.net.items(last)).numpy()
        return scores if candidates is None else np.take_along_axis(scores, candidates, 1)

    def save(self, folder):
        save_model(folder, self)

    def load(self, folder):
        load_model(folder, self)
"""


@pytest.fixture
def mine(tmp_path):
    "A file with both models."
    file = tmp_path / "mine.py"
    file.write_text(TEN_LINES + TRAINED)
    return file


@pytest.fixture
def given(own, mine, tmp_path):
    "Parameters of a run of the ten-line model on somebody's own data."
    return {
        "dataset": str(own),
        "candidates": "uniform-5",
        "preset": "tiny",
        "model": f"{mine}:NextItem",
        "out_dir": str(tmp_path / "runs"),
    }


def test_ten_lines_make_a_record_without_paths(given, tmp_path):
    run = configure(**given)
    data = prepare(run)
    result = execute(run, data)
    record = result.record
    assert (record["model"], record["config"]["model"]) == ("nextitem", "nextitem")
    assert len(record["config"]["model_sha256"]) == 64 and len(result.ranks) == 40
    assert {"sampled", "full"} <= set(record["metrics"]["test"])
    assert str(tmp_path) not in result.path.read_text()
    loaded = restore(run, data)
    histories = data.split.histories("test")
    assert (loaded.score(histories) == result.model.score(histories)).all()


def test_one_that_is_trained_has_settings_presets_curves_and_a_loop(given, mine):
    run = configure(**given | {"model": f"{mine}:MyBigram", "lr": 0.1})
    assert (run.model, run.settings.d) == ("my-bigram", 4)
    assert (run.loop.epochs, run.loop.lr) == (2, 0.1)
    record = execute(run, prepare(run)).record
    assert len(record["curves"]) == 2 and record["parameters"]["trainable"] > 0
    assert "full recall@10" not in record["curves"][0] and "full" in record["metrics"]["test"]
    with pytest.raises(PromptrecError, match="Unknown parameter of my-bigram 'width'. .*epochs"):
        configure(**given | {"model": f"{mine}:MyBigram", "width": 3})


def test_another_file_is_another_run(given, mine):
    first = configure(**given).name
    mine.write_text(mine.read_text() + "\n# changed\n")
    assert configure(**given).name != first


def test_from_a_shell_and_from_a_grid(given, tmp_path):
    words = [f"{name}={value}" for name, value in given.items()]
    command = [sys.executable, "-m", "promptrec.experiments", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    record = read_record(done.stdout.splitlines()[-1])
    assert record["model"] == "nextitem"

    of_grid = {name: value for name, value in given.items() if name != "out_dir"}
    assert run_all([of_grid], tmp_path / "records", tmp_path / "others")["failed"].tolist() == [""]
    kept = read_record(record_path(of_grid, tmp_path / "records"))
    assert kept["metrics"] == record["metrics"]
    assert missing([of_grid], tmp_path / "records") == []


def test_in_place_of_a_tables_models(mine):
    runs = runs_of("full-a", "tiny", seeds=2, models=f"{mine}:NextItem, sasrec")
    assert len(runs) == 2 * 3 * 2 and runs[0]["model"] == f"{mine}:NextItem"


def test_runs_that_are_found_again_are_those_of_this_package(given, tmp_path):
    run = configure(**given)
    execute(run, prepare(run))
    known = configure(model="popularity", out_dir=given["out_dir"])
    execute(known, prepare(known))
    assert finished_runs(given["out_dir"]) == [known]


def test_the_notebook_shows_it_beside_popularity(notebook, given, tmp_path):
    notebook("train", **given)
    records = [read_record(path) for path in (tmp_path / "runs").glob("*.json")]
    assert {record["model"] for record in records} == {"nextitem", "popularity"}


@pytest.mark.parametrize(
    "old, new, asked, words",
    [
        ("", "", "mine.py", "mine.py is a file: add the class"),
        ("", "", "other.py:NextItem", "There is no file .*other.py"),
        ("", "", "mine.py:NextOne", "Did you mean 'NextItem'"),
        ("def load(self, f", "def read(self, f", "mine.py:NextItem", "has no method 'load'"),
        ("histories, candidates=None", "histories", "mine.py:NextItem", "score must take"),
        ("__init__(self, dataset)", "__init__(self)", "mine.py:NextItem", r"made from \(dataset\)"),
        ("import numpy as np", "import nump", "mine.py:NextItem", "cannot be imported: Module"),
        ("class NextItem:", "class NextItem", "mine.py:NextItem", "cannot be imported: Syntax"),
        ("NextItem", "SasRec", "mine.py:SasRec", "sasrec is the name of a known model"),
    ],
)
def test_what_is_missing_is_said(given, mine, old, new, asked, words):
    mine.write_text(mine.read_text().replace(old, new, 1) if old else mine.read_text())
    with pytest.raises(PromptrecError, match=words):
        configure(**given | {"model": f"{mine.parent}/{asked}"})


def test_scores_of_a_wrong_shape_are_said(given, mine):
    mine.write_text(mine.read_text().replace("np.arange(self.V)", "np.arange(self.V - 1)", 1))
    run = configure(**given)
    with pytest.raises(PromptrecError, match="NextItem.score gave"):
        execute(run, prepare(run))
