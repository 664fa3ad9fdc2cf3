"""From a data set's name to split and candidates: published counts, no leakage, the same in every
process, tables of data from the notebook.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptrec.core import PromptrecError, sha256
from promptrec.data.dataset import DOMAINS, make_dataset
from promptrec.data.registry import load_dataset
from promptrec.evaluation.candidates import draw_candidates
from promptrec.evaluation.split import PARTS, SPLITS, histories_at
from promptrec.experiments.parameters import configure
from promptrec.experiments.run import prepare
from promptrec.mibert.encoder import load_tokenizer
from promptrec.mibert.prompts import PromptEncoder, encode_prompts, window_rows, window_starts
from promptrec.testing.records import invented_record

PRINT_HASHES = """
import sys
from test_preparation import prepared_hashes
for name in sys.argv[1:]: print(*prepared_hashes(name))
"""


def hashes_elsewhere(names, hash_seed):
    "What `prepared_hashes` gives for each data set in a process of its own."
    env = dict(os.environ, PYTHONHASHSEED=str(hash_seed))
    done = subprocess.run(
        [sys.executable, "-c", PRINT_HASHES, *names],
        cwd=Path(__file__).parent,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [line.split() for line in done.stdout.splitlines()]


def prepared_hashes(name):
    "Hashes of data, split, candidates and training prompts."
    data = prepare(configure(dataset=name, model="popularity"))
    enc = PromptEncoder(data.dataset, load_tokenizer("minilm-l6"), 128)
    rows = window_rows(data.split)[:2000]
    start = window_starts(enc, data.split, rows)
    tokens = encode_prompts(enc, histories_at(data.dataset, start, rows)).tokens
    return [
        data.dataset.hash,
        data.split.hash,
        *(c.hash for c in data.candidates.values()),
        sha256(rows, start, tokens),
    ]


def test_preparation_is_the_same_in_every_process():
    names = ["ml-100k", "llara-movielens"]
    here = [prepared_hashes(name) for name in names]
    assert hashes_elsewhere(names, 0) == hashes_elsewhere(names, 1) == here


def test_preparation_of_real_data_is_the_same_in_every_process(real_data):
    names = ["beauty-5core", "lastfm", "steam-australian", "llara-lastfm"]
    assert hashes_elsewhere(names, 1) == [prepared_hashes(name) for name in names]


@pytest.mark.parametrize(
    "name, users, items, interactions",
    [
        ("ml-100k", 943, 1682, 100_000),
        ("ml-1m", 6040, 3706, 1_000_209),
        ("beauty-5core", 22_363, 12_101, 198_502),
        ("video-games-5core", 24_303, 10_672, 231_780),
        ("steam-australian", 25_458, 3_682, 58_431),
    ],
)
def test_published_counts(real_data, name, users, items, interactions):
    ds = load_dataset(name, real_data)
    assert ds.steps[0] == ("read", users, items, interactions)
    assert np.diff(ds.offsets).min() >= 5
    if name == "ml-1m":
        assert ds.listed == 3883


def test_llara_movielens_has_the_released_windows(real_data):
    data = prepare(
        configure(dataset="llara-movielens", model="popularity", data_dir=str(real_data))
    )
    split = data.split
    assert (len(split.valid), len(split.test)) == (94, 95)
    assert ((split.train_end > 0).sum(), split.dataset.n_items) == (754, 1682)
    assert split.histories("test").lengths.max() == 10
    assert data.candidates["test"].items.shape == (95, 21)
    # users come in the order of their first interaction: training, validation, test
    starts = split.dataset.timestamp[split.dataset.offsets[:-1]]
    valid, test = starts[split.users("valid")], starts[split.users("test")]
    assert starts[split.train_end > 0].max() <= valid.min()
    assert valid.max() <= test.min()


ROWS = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 8), st.integers(0, 30)), min_size=30, max_size=120
)


def made_of(rows):
    "A data set of rows (user, item, timestamp) over nine films."
    items = pd.DataFrame({"item": range(9), "title": [f"Film {i}" for i in range(9)]})
    interactions = pd.DataFrame(rows, columns=["user", "item", "timestamp"])
    return make_dataset("toy", DOMAINS["movies"], interactions, items)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(1, 5))
def test_no_split_shows_a_user_their_future(rows, max_history):
    ds = made_of(rows)
    for name, make in SPLITS.items():
        try:
            split = make(ds)
        except PromptrecError:
            continue
        order = np.arange(len(ds)) - ds.offsets[ds.user]
        for part in PARTS:
            row, users, past = split.rows(part), split.users(part), split.past(part)
            assert len(users) > 0
            assert len(set(users)) == len(users)
            assert (split.train_end[users] <= order[row]).all()
            assert (past.lengths == order[row]).all()
            assert (past.lengths > 0).all()
            shown = replace(split, max_history=max_history).histories(part)
            assert (shown.lengths == np.minimum(past.lengths, max_history)).all()
        assert not set(split.train_rows) & {*split.valid, *split.test}
        assert not set(split.valid) & set(split.test)
        if name == "users":
            assert not {*ds.user[split.train_rows]} & {*split.users("valid"), *split.users("test")}
        if name == "time":
            t1, t2 = np.quantile(ds.timestamp, [0.8, 0.9], method="higher")
            assert (ds.timestamp[split.train_rows] < t1).all()
            for part, t in zip(PARTS, (t1, t2)):
                past = ds.timestamp[split.rows(part) - 1]
                assert (past < t).all()
                assert (ds.timestamp[split.rows(part)] >= t).all()


@settings(max_examples=40, deadline=None)
@given(ROWS, st.sampled_from(["popularity-1", "uniform-1", "uniform-2"]))
def test_candidates_are_the_target_and_what_the_user_never_touched(rows, name):
    ds = made_of(rows)
    try:
        split = SPLITS["users"](ds)
        drawn = draw_candidates(split, name)
    except PromptrecError:
        return
    for part in PARTS:
        items, users = drawn[part].items, split.users(part)
        assert (items[:, 0] == split.targets(part)).all()
        for u, negatives in zip(users, items[:, 1:]):
            touched = set(ds.item[ds.offsets[u] : ds.offsets[u + 1]])
            assert not touched & set(negatives)
            assert len(set(negatives)) == len(negatives)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_row_order_counts_only_within_one_moment(rows, random):
    moments = {}  # time -> its rows, in their order
    for row in rows:
        moments.setdefault(row[2], []).append(row)
    groups = list(moments.values())
    random.shuffle(groups)
    moved = [row for group in groups for row in group]
    assert made_of(moved).hash == made_of(rows).hash


def test_own_data_by_its_folder(notebook, own, tmp_path):
    given = {
        "dataset": own,
        "candidates": "uniform-5",
        "prefix": "reading books",
        "verb": "reads",
        "noun": "book",
        "out_dir": tmp_path / "runs",
    }
    notebook("train", model="popularity", **given)
    (record,) = [json.loads(p.read_text()) for p in (tmp_path / "runs").glob("*.json")]
    assert record["dataset"] == "my-books"
    assert record["config"]["verb"] == "reads"
    assert str(tmp_path) not in json.dumps(record["config"])
    shown = notebook("train", model="mibert", epochs=0, **given)
    assert "The user is reading books: The user reads" in shown


def test_own_data_trains_the_model(own, tmp_path):
    from promptrec.experiments.run import execute

    run = configure(dataset=str(own), preset="tiny", candidates="uniform-5", out_dir=str(tmp_path))
    assert len(execute(run, prepare(run)).ranks) == 40


@pytest.fixture
def one_record(tmp_path):
    "A folder with a single record: these tables are of data, not of runs."
    invented_record(tmp_path / "records", {"model": "popularity"}, 0.5)
    return tmp_path / "records"


def test_tables_are_drawn_for_what_is_at_hand(notebook, own, one_record, tmp_path):
    notebook("tables", dataset=f"ml-100k,{own}", records=one_record, out_dir=tmp_path)

    def read(name):
        path = tmp_path / "paper-a" / f"{name}.csv"
        return pd.read_csv(path, index_col=0, dtype=str, keep_default_na=False)

    published = ["ml-1m", "ml-10m", "ml-20m", "beauty", "video-games"]
    assert read("table-1").index.tolist() == [*published, "ml-100k", "my-books"]
    assert read("table-2").loc["beauty", "mean, ours"] == "not at hand"
    assert read("table-2").loc["ml-100k", "longest, ours"] == "737"
    assert read("released").loc["ml-100k", "interactions, difference"] == "0"
    assert read("released-others").loc["ml-1m", "ours"] == "not at hand"
    written = {p.name for p in (tmp_path / "paper-a").iterdir()}
    assert written >= {"table-3.md", "data.png", "data.pdf", "filters.csv"}

    # with less at hand the pages stay, those of results are drawn anew
    before = {p.name: p.read_bytes() for p in (tmp_path / "paper-a").iterdir()}
    notebook("tables", dataset="ml-100k", records=one_record, out_dir=tmp_path)
    assert {p.name: p.read_bytes() for p in (tmp_path / "paper-a").iterdir()} == before


def test_tables_of_real_data_are_the_papers(notebook, real_data, one_record, tmp_path):
    given = {"dataset": "ml-1m", "data_dir": real_data, "records": one_record}
    notebook("tables", **given, out_dir=tmp_path)
    row = {}
    for n in (2, 3):
        table = pd.read_csv(tmp_path / "paper-a" / f"table-{n}.csv", index_col=0, dtype=str)
        row |= table.loc["ml-1m"].to_dict()
    for name in ("mean", "longest", "users", "512 mean", "512 most", "512 prompts"):
        assert row[f"{name}, ours"] == row[f"{name}, paper"], name
