"""Tables 4 to 8, claims and doubts of paper A, from invented records; what the tables say to run can be run."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptrec.core import PromptrecError, describe_device, sha256
from promptrec.evaluation.metrics import metrics, user_metrics
from promptrec.evaluation.stats import bootstrap, holm
from promptrec.experiments.grid import GRID, missing, runs_of
from promptrec.experiments.records import package_versions, write_record
from promptrec.experiments.run import configure
from promptrec.reproduction.claims_a import Claim, claims_table, judged, verdict
from promptrec.reproduction.consistency_a import doubts, ratio, ratios
from promptrec.reproduction.results_a import (
    PRINTED,
    SASREC,
    command,
    differences_table,
    label,
    read_results,
    results_table,
    rows_of,
    table_6,
)


def record(folder, given, gap, seed=0, U=400, **changes):
    "A record of a run with invented ranks: all models find the same users hard, each is better by its gap."
    g, e = (
        np.random.default_rng(1),
        np.random.default_rng([seed, int(100 * gap), len(label(given))]),
    )
    rank = np.exp(2.6 - gap + g.normal(size=U) + 0.6 * e.normal(size=U)).clip(1, 101).astype(int)
    ranks = pd.DataFrame({"user": np.arange(U), "sampled": rank, "full": 7 * rank})
    config = configure(**{"preset": "quick", **given}, seed=seed).config
    return write_record(
        {
            "dataset": config["dataset"],
            "model": config["model"],
            "seed": seed,
            "config": config,
            "commit": None,
            "dirty": None,
            "data_hash": sha256(config["dataset"]),
            "split": "leave-one-out",
            "split_hash": sha256("split"),
            "steps": [["read", U, 1000, 20_000]],
            "notes": {},
            "candidates": {"test popularity-100": sha256("candidates")},
            "packages": package_versions(),
            "device": describe_device(),
            "wall_seconds": 60.0,
            "seconds_per_epoch": [10.0, 20.0],
            "peak_memory_mb": 1000.0 + seed,
            "parameters": {"total": 5_000_000, "trainable": 5_000_000},
            "curves": [{"epoch": 1, "seconds": 10.0, "ndcg@10": 0.1, "full ndcg@10": 0.05}],
            "metrics": {"test": {k: bootstrap(ranks[k], n=50) for k in ("sampled", "full")}},
            **changes,
        },
        ranks,
        folder,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    for seed in range(3):
        for model, gap in {
            "mibert": 1.0,
            "p5": 0.5,
            "mibert-pb": 0.0,
            "mibert-no-moe": 0.2,
            "mibert-no-short": 0.98,
            "mibert-no-long": 1.0,
        }.items():
            record(folder, {"model": model}, gap, seed)
    record(folder / "more", {"model": "sasrec", "loss": "bce"}, 0.3)
    record(folder / "more", {"model": "mibert", "dataset": "ml-1m", "preset": "paper"}, 0.4)
    return folder


@pytest.fixture(scope="module")
def results(folder):
    return read_results(folder)


def test_runs_that_differ_by_seed_are_one_row(results, folder):
    assert len(results.runs) == 8 and [
        r["seed"] for r in results.runs["ml-100k", "mibert", "quick"]
    ] == [0, 1, 2]
    table = results_table("table-7", results)
    row = table.loc["ml-100k"].set_index("model").loc["mibert"]
    records = [json.loads(p.read_text()) for p in folder.glob("ml-100k-mibert-seed*.json")]
    mean, sd = (
        f([r["metrics"]["test"]["sampled"]["recall@5"]["value"] for r in records])
        for f in (np.mean, lambda x: np.std(x, ddof=1))
    )
    value, low, high, spread = map(float, re.findall(r"[\d.]+", row["sampled recall@5"]))
    assert (
        (value, spread) == (round(mean, 3), round(sd, 3))
        and low < value < high
        and row["seeds"] == "3"
    )
    assert (
        results_table("table-4", results).loc["ml-100k"].set_index("model").loc[SASREC, "seeds"]
        == "1"
    )


def test_ours_stand_beside_the_papers(results):
    row = (
        results_table("table-4", results)
        .reset_index()
        .set_index(["data set", "model"])
        .loc[("ml-1m", "mibert")]
    )
    assert (
        row["recall@5, paper"] == "0.4142" and row["sampled recall@5"] and row["preset"] == "paper"
    )
    six = table_6(results).reset_index().set_index(["data set", "model", "preset"])
    assert six.loc[
        ("ml-1m", "mibert", "paper"),
        ["memory (MiB), paper", "time an epoch, paper", "time an epoch, ours"],
    ].tolist() == ["4,821", "0:13:00", "0:00:15"]
    assert six.loc[("ml-20m", "p5", "not run"), "trained parameters, paper"] == "223M"


def test_differences_are_those_of_the_users_and_corrected_over_the_table(results):
    table = differences_table("table-7", results)
    worth = lambda m: np.mean(
        [
            user_metrics(r["table"]["sampled"])["ndcg@5"].mean()
            for r in results.runs["ml-100k", m, "quick"]
        ]
    )
    row = table[
        (table["mibert minus"] == "mibert-no-moe") & (table["metric"] == "sampled ndcg@5")
    ].iloc[0]
    assert float(row["difference"].split()[0]) == pytest.approx(
        worth("mibert") - worth("mibert-no-moe"), abs=6e-5
    )
    np.testing.assert_allclose(
        table["Holm"].astype(float), holm(table["p"].astype(float)), atol=2e-3
    )


def test_every_row_that_was_not_run_names_the_command_that_runs_it(results, tmp_path):
    seen = 0
    for table in PRINTED:
        for given, preset, runs in rows_of(table, results):
            if runs:
                continue
            words = dict(w.split() for w in command(given, table).split(" -p ")[1:])
            [run] = missing(runs_of(words["table"], words["preset"]), tmp_path, words["shard"])
            assert {k: v for k, v in run.items() if k not in ("preset", "seed")} == given
            seen += 1
    assert seen > 90


def test_such_a_command_fills_the_row(papermill, tmp_path, results):
    row = results_table("table-4", results).loc["ml-100k"].set_index("model").loc["popularity"]
    assert row["preset"] == "not run" and row["command"].startswith(
        "papermill nbs/run_all.ipynb out.ipynb -p "
    )
    done = papermill(
        "run_all",
        tmp_path / "out.ipynb",
        **dict(w.split() for w in row["command"].split(" -p ")[1:]),
        records=tmp_path / "records",
        out_dir=tmp_path / "runs",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert list(read_results(tmp_path / "records").runs) == [("ml-100k", "popularity", "quick")]


def test_a_broken_record_is_named(tmp_path):
    path = record(tmp_path, {"model": "markov"}, 0.0)
    path.write_text(path.read_text()[:-40])
    with pytest.raises(PromptrecError, match=f"{path.name} is not a record"):
        read_results(tmp_path)
    path = record(tmp_path, {"model": "markov"}, 0.0)
    path.with_suffix(".parquet").unlink()
    with pytest.raises(PromptrecError, match=f"the ranks of {path.name}"):
        read_results(tmp_path)
    record(tmp_path, {"model": "markov"}, 0.0)
    other = record(tmp_path, {"model": "ease"}, 0.0, data_hash=sha256("other"))
    with pytest.raises(PromptrecError, match="other data or candidates"):
        read_results(tmp_path)
    other.unlink()
    assert len(read_results(tmp_path).runs) == 1


def test_records_of_no_row_are_listed(tmp_path):
    record(tmp_path, {"model": "mibert", "epochs": 7}, 0.0)
    record(tmp_path, {"model": "popularity", "candidates": "uniform-20"}, 0.0)
    found = read_results(tmp_path)
    assert not found.runs and len(found.others) == 2
    assert read_results(tmp_path / "nothing").runs == {}


def test_claims_on_planted_orders(results):
    pair = lambda a, b, **more: judged(
        Claim("x", "y", ("table-7",), ((a, b),), **more), results, "ml-100k", "quick"
    )
    assert (
        pair("mibert", "mibert-pb")["verdict"]
        == pair("mibert", "mibert-pb")["full catalogue"]
        == "holds, at quick"
    )
    assert pair("mibert-pb", "mibert")["verdict"] == "does not, at quick"
    assert (
        pair("mibert-no-short", "mibert-no-long")["verdict"] == "undecided here"
        and "smallest to be seen" in pair("mibert-no-short", "mibert-no-long")["found"]
    )
    assert pair("mibert", "caser") == {} and pair("mibert", "mibert-pb", datasets=("ml-20m",)) == {}
    assert pair("mibert", "p5", metrics=("memory",))["verdict"] == "undecided here"
    table = claims_table(results)
    assert table.loc["PB alone is the worst variant", ["data set", "verdict"]].tolist() == [
        "ml-100k",
        "holds, at quick",
    ]
    assert all(
        e.startswith("weak")
        for e, v in zip(table["evidence"], table["verdict"])
        if v != "not testable here"
    )
    assert set(table["verdict"].str.removesuffix(", at quick")) <= {
        "holds",
        "does not",
        "undecided here",
        "not testable here",
    }


@given(st.lists(st.sampled_from([1, 0, -1]), min_size=1, max_size=9), st.booleans())
def test_the_rule_counts(signs, most):
    ends = {1: (0.01, 0.02, 1e-4), 0: (-0.01, 0.01, 0.8), -1: (-0.02, -0.01, 1e-4)}
    found = verdict(pd.DataFrame([ends[s] for s in signs], columns=["low", "high", "p"]), most=most)
    above, below, n = signs.count(1), signs.count(-1), len(signs)
    wanted = (
        ("holds" if 2 * above > n else "does not" if 2 * (n - below) <= n else "undecided here")
        if most
        else ("holds" if above == n else "does not" if below else "undecided here")
    )
    assert found == wanted


@given(st.lists(st.integers(1, 101), min_size=1, max_size=300))
def test_figures_of_real_ranks_are_never_impossible(ranks):
    m = {k: round(v, 4) for k, v in metrics(np.array(ranks)).items()}
    if m["recall@5"] > 0.001:
        assert ratio(m["ndcg@5"], m["recall@5"], 1, 5)["finding"] != "impossible"
    if m["recall@10"] - m["recall@5"] > 0.001:
        assert (
            ratio(m["ndcg@10"] - m["ndcg@5"], m["recall@10"] - m["recall@5"], 6, 10, 1e-4)[
                "finding"
            ]
            != "impossible"
        )


def test_impossible_figures_of_the_paper_are_flagged():
    flagged = ratios().query("finding == 'impossible'")
    assert flagged[["model", "ranks"]].to_numpy().tolist() == [
        ["mibert-pb", "6-10"],
        ["mibert-no-moe", "6-10"],
    ]
    by_hand = (0.5891 - 0.5397) / (0.8351 - 0.7612)
    assert flagged["ratio"].iloc[0] == pytest.approx(by_hand) and by_hand > 1 / np.log2(7)
    assert doubts()["finding"].str.startswith("impossible").sum() == 4


def test_the_notebook_draws_all_of_it_without_data(papermill, folder, tmp_path, monkeypatch):
    for name in ("PROMPTREC_DATA", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "empty"))
    (tmp_path / "empty").mkdir()
    done = papermill("tables", tmp_path / "out.ipynb", records=folder, out_dir=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    names = [f"table-{n}{more}" for n in (4, 5, 7, 8) for more in ("", "-differences")] + [
        "table-6",
        "claims",
        "doubts",
        "doubts-ratios",
    ]
    assert {f"{n}.{kind}" for n in names for kind in ("csv", "md")} | {
        "results-ml-100k-quick.png",
        "validation-ml-100k-quick.png",
    } <= {p.name for p in (tmp_path / "paper-a").iterdir()}
    assert len(pd.read_csv(tmp_path / "paper-a" / "table-1.csv")) == 5
    assert {
        f"{n}.{kind}"
        for n in ("table-1", "table-1-differences", "claims", "doubts")
        for kind in ("csv", "md")
    } <= {p.name for p in (tmp_path / "paper-b").iterdir()}
