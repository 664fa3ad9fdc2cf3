"""Tables, claims and consistency of paper A, from invented records; commands that can be run."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptrec.core import PromptrecError, sha256
from promptrec.evaluation.metrics import metrics, user_metrics
from promptrec.evaluation.stats import holm
from promptrec.experiments.grid import missing, runs_of
from promptrec.reproduction.claims import Claim, claims_table, judge, verdict
from promptrec.reproduction.consistency import consistency_table, ndcg_ratio, ratio_table
from promptrec.reproduction.published import read_data
from promptrec.reproduction.rows import read_results, standing
from promptrec.reproduction.tables import (
    differences_table,
    results_table,
    run_command,
    table_rows,
    why_missing,
)
from promptrec.testing.records import invented_record

SASREC = "sasrec (loss=bce)"
TABLES = [f"table-{n}" for n in (4, 5, 6, 7, 8)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    for seed in range(3):
        for model, strength in {
            "mibert": 1.0,
            "p5": 0.5,
            "mibert-pb": 0.0,
            "mibert-no-moe": 0.2,
            "mibert-no-short": 0.98,
            "mibert-no-long": 1.0,
        }.items():
            invented_record(folder, {"model": model}, strength, seed)
    more = folder / "more"
    invented_record(more, {"model": "sasrec", "loss": "bce"}, 0.3)
    invented_record(more, {"model": "mibert", "dataset": "ml-1m", "preset": "paper"}, 0.4)
    return folder


@pytest.fixture(scope="module")
def results(folder):
    return read_results(folder, "a")


def test_runs_that_differ_by_seed_are_one_row(results, folder):
    assert len(results.runs) == 8 and [
        r["seed"] for r in results.runs["ml-100k", "mibert", "quick"]
    ] == [0, 1, 2]
    table = results_table(results, "table-7")
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
        results_table(results, "table-4").loc["ml-100k"].set_index("model").loc[SASREC, "seeds"]
        == "1"
    )


def test_ours_stand_beside_the_papers(results):
    row = (
        results_table(results, "table-4")
        .reset_index()
        .set_index(["data set", "model"])
        .loc[("ml-1m", "mibert")]
    )
    assert (
        row["recall@5, paper"] == "0.4142" and row["sampled recall@5"] and row["preset"] == "paper"
    )
    six = results_table(results, "table-6").reset_index().set_index(["data set", "model", "preset"])
    assert six.loc[
        ("ml-1m", "mibert", "paper"),
        ["memory (MiB), paper", "time an epoch, paper", "time an epoch, ours"],
    ].tolist() == ["4,821", "0:13:00", "0:00:15"]
    assert six.loc[("ml-20m", "p5", "not run"), "trained parameters, paper"] == "223M"


def test_differences_are_those_of_the_users_and_corrected_over_their_family(results):
    table = differences_table(results, "table-7")

    def worth(model):
        runs = results.runs["ml-100k", model, "quick"]
        return np.mean([user_metrics(r["table"]["sampled"])["ndcg@5"].mean() for r in runs])

    row = table[
        (table["mibert minus"] == "mibert-no-moe")
        & (table["protocol"] == "sampled")
        & (table["metric"] == "ndcg@5")
    ].iloc[0]
    assert float(row["difference"].split()[0]) == pytest.approx(
        worth("mibert") - worth("mibert-no-moe"), abs=6e-5
    )
    for _, family in table.groupby(["data set", "preset", "protocol", "metric"]):
        np.testing.assert_allclose(
            family["Holm"].astype(float), holm(family["p"].astype(float)), atol=2e-3
        )


def test_a_table_and_the_standing_give_one_verdict(results):
    table = differences_table(results, "table-4").loc["ml-100k"]
    for (preset, protocol, metric), rows in table.groupby(["preset", "protocol", "metric"]):
        stands = standing(results, "ml-100k", preset, protocol, metric)
        sure = rows[rows["Holm"].astype(float) < 0.05]
        gains = sure["difference"].str.startswith("+")
        assert {*sure["mibert minus"][gains]} <= {*stands["ahead of"]}
        assert {*sure["mibert minus"][~gains]} <= {*stands["behind"]}
        assert not {*rows["mibert minus"]} - {*sum(stands.values(), [])}


def test_every_row_that_was_not_run_names_the_command_that_runs_it(results, tmp_path):
    seen = 0
    for table in TABLES:
        for parameters, _, runs in table_rows(results, table):
            if runs:
                continue
            words = dict(w.split() for w in run_command(parameters, table).split(" -p ")[1:])
            [run] = missing(runs_of(words["table"], words["preset"]), tmp_path, words["shard"])
            assert {k: v for k, v in run.items() if k not in ("preset", "seed")} == parameters
            reason = why_missing(results.paper, parameters)
            assert ("hub" in reason) == ("backbone" in parameters and "publisher" not in reason)
            seen += 1
    assert seen > 90


def test_such_a_command_fills_the_row(notebook, tmp_path, results):
    row = results_table(results, "table-4").loc["ml-100k"].set_index("model").loc["popularity"]
    assert row["preset"] == "not run" and row["command"].startswith(
        "papermill nbs/run_all.ipynb out.ipynb -p "
    )
    notebook(
        "run_all",
        **dict(w.split() for w in row["command"].split(" -p ")[1:]),
        records=tmp_path / "records",
        out_dir=tmp_path / "runs",
    )
    assert list(read_results(tmp_path / "records", "a").runs) == [
        ("ml-100k", "popularity", "quick")
    ]


def test_a_broken_record_is_named(tmp_path):
    path = invented_record(tmp_path, {"model": "markov"}, 0.0)
    path.write_text(path.read_text()[:-40])
    with pytest.raises(PromptrecError, match=f"{path.name} is not a record"):
        read_results(tmp_path, "a")
    path = invented_record(tmp_path, {"model": "markov"}, 0.0)
    path.with_suffix(".parquet").unlink()
    with pytest.raises(PromptrecError, match=f"the users of {path.name}"):
        read_results(tmp_path, "a")
    invented_record(tmp_path, {"model": "markov"}, 0.0)
    other = invented_record(tmp_path, {"model": "ease"}, 0.0, data_hash=sha256("other"))
    with pytest.raises(PromptrecError, match="other data or candidates"):
        read_results(tmp_path, "a")
    other.unlink()
    assert len(read_results(tmp_path, "a").runs) == 1


def test_records_of_no_row_are_listed(tmp_path):
    invented_record(tmp_path, {"model": "mibert", "epochs": 7}, 0.0)
    invented_record(tmp_path, {"model": "popularity", "candidates": "uniform-20"}, 0.0)
    found = read_results(tmp_path, "a")
    assert not found.runs and len(found.others) == 2
    with pytest.raises(PromptrecError, match="No record in"):
        read_results(tmp_path / "nothing", "a")


def test_claims_on_planted_orders(results):
    def pair(a, b, **more):
        given = {"tables": ["table-7"], "pairs": [[a, b]], "metrics": ["recall@5", "ndcg@5"]}
        return judge(Claim("x", "a", **given | more), results, ("ml-100k", "quick"))

    assert (
        pair("mibert", "mibert-pb")["verdict"]
        == pair("mibert", "mibert-pb")["full catalogue"]
        == "holds, at quick"
    )
    assert pair("mibert-pb", "mibert")["verdict"] == "does not hold, at quick"
    assert (
        pair("mibert-no-short", "mibert-no-long")["verdict"] == "undecided here"
        and "smallest to be seen" in pair("mibert-no-short", "mibert-no-long")["found"]
    )
    assert pair("mibert", "caser") == {} and pair("mibert", "mibert-pb", datasets=["ml-20m"]) == {}
    assert pair("mibert", "p5", metrics=["memory"])["verdict"] == "undecided here"
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
        "does not hold",
        "undecided here",
        "not testable here",
    }


@given(st.lists(st.sampled_from([1, 0, -1]), min_size=1, max_size=9), st.booleans())
def test_the_rule_counts(signs, most):
    ends = {1: (0.01, 0.02, 1e-4), 0: (-0.01, 0.01, 0.8), -1: (-0.02, -0.01, 1e-4)}
    found = verdict(pd.DataFrame([ends[s] for s in signs], columns=["low", "high", "p"]), most=most)
    above, below, n = signs.count(1), signs.count(-1), len(signs)
    wanted = (
        (
            "holds"
            if 2 * above > n
            else "does not hold"
            if 2 * (n - below) <= n
            else "undecided here"
        )
        if most
        else ("holds" if above == n else "does not hold" if below else "undecided here")
    )
    assert found == wanted


@given(st.lists(st.integers(1, 101), min_size=1, max_size=300))
def test_figures_of_real_ranks_are_never_impossible(ranks):
    m = {k: round(v, 4) for k, v in metrics(np.array(ranks)).items()}
    if m["recall@5"] > 0.001:
        assert ndcg_ratio(m["ndcg@5"], m["recall@5"], 1, 5)["finding"] != "impossible"
    if m["recall@10"] - m["recall@5"] > 0.001:
        assert (
            ndcg_ratio(m["ndcg@10"] - m["ndcg@5"], m["recall@10"] - m["recall@5"], 6, 10, 1e-4)[
                "finding"
            ]
            != "impossible"
        )


def test_impossible_figures_of_the_paper_are_flagged():
    flagged = ratio_table(read_data("checks")["a"][0]).query("finding == 'impossible'")
    assert flagged[["model", "ranks"]].to_numpy().tolist() == [
        ["mibert-pb", "6-10"],
        ["mibert-no-moe", "6-10"],
    ]
    by_hand = (0.5891 - 0.5397) / (0.8351 - 0.7612)
    assert flagged["ratio"].iloc[0] == pytest.approx(by_hand) and by_hand > 1 / np.log2(7)
    assert consistency_table("a")["finding"].str.startswith("impossible").sum() == 4


def test_the_notebook_draws_all_of_it_without_data(papermill, folder, tmp_path, monkeypatch):
    for name in ("PROMPTREC_DATA", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "empty"))
    (tmp_path / "empty").mkdir()
    done = papermill("tables", tmp_path / "out.ipynb", records=folder, out_dir=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    names = [f"table-{n}{more}" for n in (4, 5, 7, 8) for more in ("", "-differences")] + [
        "table-6",
        "claims",
        "consistency",
        "consistency-ratios",
    ]
    assert {f"{n}.{kind}" for n in names for kind in ("csv", "md")} | {
        "results-ml-100k-quick.png",
        "validation-ml-100k-quick.png",
    } <= {p.name for p in (tmp_path / "paper-a").iterdir()}
    assert len(pd.read_csv(tmp_path / "paper-a" / "table-1.csv")) == 5
    assert {
        f"{n}.{kind}"
        for n in ("table-1", "table-1-differences", "claims", "consistency")
        for kind in ("csv", "md")
    } <= {p.name for p in (tmp_path / "paper-b").iterdir()}
