"Candidates, metrics, intervals and records against outside references and under faults."

import itertools
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptrec.baselines.counting import Popularity
from promptrec.core import PromptrecError, describe_device, sha256
from promptrec.data.dataset import DOMAINS, make_dataset
from promptrec.evaluation.candidates import draw_negatives, popularity_candidates, room
from promptrec.evaluation.metrics import evaluate, metrics, ranks_of
from promptrec.evaluation.split import leave_one_out
from promptrec.evaluation.stats import bootstrap
from promptrec.experiments import run as run_module
from promptrec.experiments.parameters import configure
from promptrec.experiments.records import (
    RECORD_SCHEMA,
    git_state,
    package_versions,
    read_record,
    read_records,
    write_record,
)
from promptrec.experiments.run import evaluate_run, execute, prepare


def dataset(lengths, n_items, seed=0):
    "Users with these numbers of interactions, items may come back."
    user = np.repeat(np.arange(len(lengths)), lengths)
    item = np.minimum(
        np.random.default_rng(seed).geometric(3 / n_items, len(user)) - 1, n_items - 1
    )
    rows = pd.DataFrame({"user": user, "item": item, "timestamp": np.arange(len(user))})
    return make_dataset(
        "toy",
        DOMAINS["movies"],
        rows,
        pd.DataFrame({"item": range(n_items), "title": [f"Film {i}" for i in range(n_items)]}),
    )


# Metrics


def test_metrics_equal_ir_measures():
    import ir_measures
    from ir_measures import RR, R, Success, nDCG

    g = np.random.default_rng(0)
    scores, column = (
        g.permuted(np.tile(np.arange(101.0), (200, 1)), axis=1),
        g.integers(0, 101, 200),
    )
    run = [
        ir_measures.ScoredDoc(str(u), str(i), s)
        for u, row in enumerate(scores)
        for i, s in enumerate(row)
    ]
    qrels = [ir_measures.Qrel(str(u), str(i), 1) for u, i in enumerate(column)]
    theirs = ir_measures.calc_aggregate(
        [R @ 5, R @ 10, Success @ 5, nDCG @ 5, nDCG @ 10, RR], qrels, run
    )
    ours = metrics(ranks_of(scores, column))
    assert ours["recall@5"] == pytest.approx(theirs[Success @ 5]) == pytest.approx(theirs[R @ 5])
    assert ours["recall@10"] == pytest.approx(theirs[R @ 10])
    assert ours["ndcg@5"] == pytest.approx(theirs[nDCG @ 5])
    assert ours["ndcg@10"] == pytest.approx(theirs[nDCG @ 10])
    assert ours["mrr"] == pytest.approx(theirs[RR])


class Scorer:
    "Any function of the histories as a model."

    def __init__(self, dataset, function):
        self.dataset, self.function = dataset, function

    def score(self, histories, candidates=None):
        scores = self.function(histories)
        return (
            scores
            if candidates is None
            else np.take_along_axis(scores, candidates.astype(np.int64), 1)
        )


@pytest.fixture(scope="module")
def split():
    return leave_one_out(dataset(np.full(1000, 8), 250))


@pytest.fixture(scope="module")
def candidates(split):
    return popularity_candidates(split, n=100)


def test_perfect_random_and_constant_scorers(split, candidates):
    V, g = split.dataset.n_items, np.random.default_rng(0)
    scorers = {
        "perfect": lambda h: np.eye(V)[split.targets("test")],
        "random": lambda h: g.random((len(h), V)),
        "constant": lambda h: np.ones((len(h), V)),
    }
    ranks = {
        k: evaluate(Scorer(split.dataset, f), split, "test", candidates) for k, f in scorers.items()
    }
    assert (
        set(metrics(ranks["perfect"]["sampled"]).values())
        == set(metrics(ranks["perfect"]["full"]).values())
        == {1.0}
    )
    found = bootstrap(ranks["random"]["sampled"], level=0.999)["recall@10"]
    assert found["low"] < 10 / 101 < found["high"]
    assert (ranks["constant"]["sampled"] == 101).all()
    out = [
        len(set(h) - {t})
        for h, t in zip(
            np.split(split.histories("test").item, split.histories("test").offsets[1:-1]),
            split.targets("test"),
        )
    ]
    assert (ranks["constant"]["full"] == V - np.array(out)).all()


def test_a_model_sees_the_history_and_nothing_else(split, candidates):
    seen = []

    def spy(h):
        seen.append(h)
        return np.zeros((len(h), split.dataset.n_items))

    evaluate(Scorer(split.dataset, spy), split, "valid")
    assert [h.item.tolist() for h in seen] == [split.histories("valid").item.tolist()]
    assert (seen[0].lengths == 6).all()


def test_sampled_ranks_are_the_same_from_both_calls(split, candidates):
    model = Popularity(split.dataset)
    model.fit(split)
    both, alone = (
        evaluate(model, split, "test", candidates),
        evaluate(model, split, "test", candidates, full=False),
    )
    assert both["sampled"].equals(alone["sampled"])
    assert both["user"].tolist() == split.users("test").tolist()


@given(st.integers(0, 1000), st.integers(2, 30), st.integers(1, 20))
@settings(max_examples=50, deadline=None)
def test_rank_is_the_worst_place_among_equals(seed, width, levels):
    g = np.random.default_rng(seed)
    scores, column = g.integers(0, levels, (5, width)).astype(np.float32), g.integers(0, width, 5)
    for row, c, rank in zip(scores, column, ranks_of(scores, column)):
        ordered = sorted(range(width), key=lambda i: (-row[i], i == c))
        assert ordered.index(c) + 1 == rank


# Candidates


@given(
    st.lists(st.integers(3, 12), min_size=2, max_size=15), st.integers(20, 60), st.integers(0, 5)
)
@settings(max_examples=60, deadline=None)
def test_candidates_hold_for_any_data(lengths, n_items, seed):
    split = leave_one_out(dataset(lengths, n_items, seed))
    ds, most = split.dataset, int(room(split, split.popularity).min())
    if most == 0:
        with pytest.raises(PromptrecError, match="largest n possible is 0"):
            popularity_candidates(split, n=1)
        return
    for part, n in itertools.product(("valid", "test"), {1, most}):
        c = popularity_candidates(split, part, n, seed)
        assert c.items.dtype == np.int32 and c.items.shape == (ds.n_users, n + 1)
        assert (c.items[:, 0] == split.targets(part)).all()
        for u, row in zip(split.users(part), c.items):
            assert len(set(row)) == n + 1
            assert not set(row[1:]) & set(ds.item[ds.offsets[u] : ds.offsets[u + 1]])
        assert (split.popularity[c.items[:, 1:]] > 0).all()
        assert popularity_candidates(split, part, n, seed).hash == c.hash
    with pytest.raises(PromptrecError, match=f"toy: user .* largest n possible is {most}"):
        popularity_candidates(split, n=most + 1)


@pytest.mark.parametrize("touched", [10, 100_000], ids=["draws suffice", "race"])
def test_inclusion_as_numpy_choice_without_replacement(touched):
    popularity, rows, n = np.array([touched, 60, 40, 20, 10, 5, 2, 1]), 40_000, 4
    got = draw_negatives(
        popularity, np.arange(rows), np.zeros(rows, int), rows, n, np.random.default_rng(0)
    )
    p, g = np.append(0, popularity[1:] / popularity[1:].sum()), np.random.default_rng(1)
    numpys = np.array([g.choice(8, n, replace=False, p=p) for _ in range(rows)])
    for a, b in [(got, numpys), (got[:, :1], numpys[:, :1])]:
        a, b = (
            np.bincount(a.ravel(), minlength=8) / rows,
            np.bincount(b.ravel(), minlength=8) / rows,
        )
        assert np.abs(a - b).max() < 4.5 * np.sqrt(2 * 0.25 / rows)


def test_large_data_in_seconds():
    "20,000 users and 27,000 items, a seventh of MovieLens 20M."
    U, V, g = 20_000, 27_000, np.random.default_rng(0)
    rate = np.cumsum((np.arange(V) + 60.0) ** -1.25)
    n = g.integers(20, 120, U)
    rows = pd.DataFrame(
        {
            "user": np.repeat(np.arange(U), n),
            "item": np.searchsorted(rate, g.random(n.sum()) * rate[-1]),
        }
    )
    split = leave_one_out(
        make_dataset(
            "large", DOMAINS["movies"], rows, pd.DataFrame({"item": range(V), "title": "x"})
        )
    )
    start = time.perf_counter()
    popularity_candidates(split)
    assert time.perf_counter() - start < 20


def test_movielens_1m_candidates():
    if "PROMPTREC_DATA" not in os.environ:
        pytest.skip("set PROMPTREC_DATA to a folder that holds ml-1m")
    read = pytest.importorskip("promptrec.data.movielens").read_movielens
    split = leave_one_out(read("ml-1m", Path(os.environ["PROMPTREC_DATA"])))
    start = time.perf_counter()
    c = popularity_candidates(split)
    assert time.perf_counter() - start < 20
    assert c.items.shape == (6040, 101)
    model = Popularity(split.dataset)
    model.fit(split)
    ranks = evaluate(model, split, "test", c)
    assert metrics(ranks["full"])["recall@10"] < metrics(ranks["sampled"])["recall@10"]


# Records

RANKS = pd.DataFrame(
    {"user": np.arange(50), "sampled": np.arange(50) + 1, "full": np.arange(50) * 3 + 1}
)
RECORD = dict(
    dataset="toy",
    model="popularity",
    seed=0,
    config={"model": "popularity"},
    commit=None,
    dirty=None,
    data_hash=sha256("toy"),
    split_hash=sha256("split"),
    steps=[],
    notes={},
    split="leave-one-out",
    candidates={"popularity-100": sha256("c")},
    packages=package_versions(),
    device=describe_device(),
    wall_seconds=0.1,
    seconds_per_epoch=[],
    peak_memory_mb=100.0,
    parameters={"total": 9, "trainable": 0},
    curves=[],
    metrics={"test": {k: bootstrap(RANKS[k], n=50) for k in ("sampled", "full")}},
)


def test_a_record_is_checked_in_every_field(tmp_path):
    path = write_record(RECORD, RANKS, tmp_path)
    whole = json.loads(path.read_text())
    for key in whole.keys() & set(RECORD_SCHEMA["required"]):
        path.write_text(json.dumps({k: v for k, v in whole.items() if k != key}))
        with pytest.raises(PromptrecError, match=rf"{path.name}: \$: '{key}' is a required"):
            read_record(path)
        path.write_text(
            json.dumps(
                whole | {key: {"wrong": object.__name__} if isinstance(whole[key], list) else [1]}
            )
        )
        with pytest.raises(PromptrecError, match=rf"{path.name}: \$\.{key}"):
            read_record(path)
    path.write_text(json.dumps(whole))
    assert read_record(path) == whole


@pytest.mark.parametrize("cut", [0, 1, 200, -2])
def test_a_cut_record_names_its_file(tmp_path, cut):
    path = write_record(RECORD, RANKS, tmp_path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(PromptrecError, match=path.name):
        read_records(tmp_path)


def full_disk(*args, **kwargs):
    Path(args[1] if isinstance(args[0], pd.DataFrame) else args[0]).write_bytes(b"half")
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    "what", [(pd.DataFrame, "to_parquet"), (os, "fsync")], ids=["ranks", "fsync"]
)
@pytest.mark.parametrize("older", [False, True])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch, what, older):
    if older:
        write_record(RECORD, RANKS, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with monkeypatch.context() as m:
        if what[1] == "fsync":

            def fsync(f):
                raise OSError(28, "No space left on device")

            m.setattr(os, "fsync", fsync)
        else:
            m.setattr(*what, full_disk)
        with pytest.raises(PromptrecError, match="No space left on device"):
            write_record(RECORD, RANKS[::-1], tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_full_disk_while_writing_the_text(tmp_path, monkeypatch):
    real = Path.write_text

    def half(self, text, *args, **kwargs):
        real(self, text[:50])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(Path, "write_text", half)
        with pytest.raises(PromptrecError, match=r"Cannot write .*: No space left on device"):
            write_record(RECORD, RANKS, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_a_device_that_is_full(tmp_path, suffix):
    "`atomic_path` writes to a link to a device where every write fails for want of space."
    path = write_record(RECORD, RANKS, tmp_path).with_suffix(suffix)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    path.with_name(f".{path.name}.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(PromptrecError, match=rf"{path.stem}\..*No space left on device"):
        write_record(RECORD, RANKS[::-1], tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_missing_folder_of_records_is_an_error(tmp_path):
    with pytest.raises(PromptrecError, match="There is no folder of records .*nowhere"):
        read_records(tmp_path / "nowhere")
    assert len(read_records(tmp_path)) == 0


def test_an_older_schema_is_said(tmp_path):
    path = write_record(RECORD, RANKS, tmp_path)
    path.write_text(path.read_text().replace('"schema_version": 2', '"schema_version": 1'))
    with pytest.raises(PromptrecError, match=f"{path.name}: a record of schema version 1"):
        read_record(path)


def test_git_state(tmp_path):
    if not shutil.which("git"):
        pytest.skip("no git")

    def git(*args):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *args],
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )

    assert git_state(tmp_path) == (None, None)
    git("init")
    (tmp_path / "code").mkdir()
    assert git_state(tmp_path / "code") == (None, None)
    (tmp_path / "code" / "a.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    commit, dirty = git_state(tmp_path / "code")
    assert len(commit) == 40 and dirty is False
    (tmp_path / "record.json").write_text("{}")
    assert git_state(tmp_path / "code") == (commit, False)
    (tmp_path / "code" / "b.py").write_text("2")
    assert git_state(tmp_path / "code") == (commit, True)


def test_the_record_names_the_code_that_ran(own, tmp_path, monkeypatch):
    "What is committed while a run goes on is not what it ran."
    head, usual = ["before"], evaluate_run
    monkeypatch.setattr(run_module, "git_state", lambda: (head[0], False))
    monkeypatch.setattr(
        run_module,
        "evaluate_run",
        lambda *args: head.append(head.pop() + " and after") or usual(*args),
    )
    run = configure(
        dataset=str(own), model="popularity", candidates="uniform-5", out_dir=str(tmp_path / "runs")
    )
    assert execute(run, prepare(run)).record["commit"] == "before" and head == ["before and after"]


def test_no_git_at_all(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state() == (None, None)
