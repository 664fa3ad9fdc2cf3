"""Paper B's tables, figures, claims and consistency, from invented records and its own figures."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from promptrec.core import PromptrecError, sha256
from promptrec.data.registry import load_dataset
from promptrec.evaluation.split import by_users
from promptrec.evaluation.stats import compare_hits, holm, wilson
from promptrec.experiments.parameters import configure
from promptrec.reproduction.claims import Claim, claims_table, judge, read_claims
from promptrec.reproduction.consistency import consistency_table
from promptrec.reproduction.figures import figure_table
from promptrec.reproduction.published import counts_of_share, find_figures, paper_of, printed_table
from promptrec.reproduction.rows import Results, epochs_table, read_results
from promptrec.reproduction.tables import differences_table, results_table
from promptrec.testing.records import invented_record

SILENT = ("gru4rec", "caser", "sasrec", "morec")
LLM = "smollm2-135m"
SETS = paper_of("b")["datasets"]
MODELS_OF_TABLE_1 = paper_of("b")["tables"]["table-1"]["models"]


def record(folder, model, rate, seed=0, **changes):
    "A record of a run on LLaRA's MovieLens; parameters of the run stand among `changes`."
    run = {k: changes.pop(k) for k in ("preset", "candidates", "levels") if k in changes}
    given = {"model": model, "dataset": "llara-movielens", "preset": "quick"} | run
    return invented_record(folder, given, rate, seed, **changes)


def only(runs):
    "Results of some rows alone."
    return Results(paper_of("b"), runs, [])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    for seed in range(3):
        record(folder, "sbtrec", 0.6, seed, valid=0.97)
    for model, rate in {
        "llara": 0.5,
        "tallrec": 0.45,
        "sasrec": 0.4,
        "sbtrec-continuous": 0.55,
        "sbtrec-curriculum": 0.75,
    }.items():
        record(folder, model, rate)
    record(folder / "more", "sbtrec", 0.5, levels=4)
    record(folder / "more", "sbtrec", 0.55, candidates="uniform-19")
    record(folder / "more", "sbtrec", 0.55, preset="tiny")
    record(folder / "more", "sasrec", 0.4, preset="tiny")
    return folder


@pytest.fixture(scope="module")
def answered(folder):
    return read_results(folder, "b", LLM)


def test_rows_are_runs_that_differ_by_seed_alone(answered):
    assert [r["seed"] for r in answered.runs["llara-movielens", "sbtrec", "quick"]] == [0, 1, 2]
    assert {
        k for k in answered.runs if k[1].startswith("sbtrec") and k[1].partition(" ")[0] == "sbtrec"
    } == {
        ("llara-movielens", "sbtrec", "quick"),
        ("llara-movielens", "sbtrec (levels=4)", "quick"),
        ("llara-movielens (candidates=uniform-19)", "sbtrec", "quick"),
        ("llara-movielens", "sbtrec", "tiny"),
    }
    assert not answered.others and not only({}).runs


def test_table_1_has_the_papers_figures_and_ours_in_each_protocol(answered, folder):
    table = results_table(answered, "table-1")
    row = table.loc["llara-movielens"].set_index(["model", "preset"])
    of = {
        m: json.loads(next(folder.glob(f"llara-movielens-{m}-seed0*.json")).read_text())["metrics"][
            "test"
        ]
        for m in ("llara", "sasrec", "sbtrec")
    }
    for column, m in (
        ("score hit@1", of["llara"]["score"]["hit@1"]),
        ("generate valid", of["llara"]["generate"]["valid"]),
        ("lenient hit@1", of["llara"]["generate"]["lenient hit@1"]),
    ):
        assert (
            row.loc[("llara", "quick"), column]
            == f"{m['value']:.3f} [{m['low']:.3f}, {m['high']:.3f}]"
        )
    assert (
        row.loc[("sasrec", "quick"), ["generate hit@1", "constrained hit@1"]].tolist() == ["", ""]
        and row.loc[("sasrec", "quick"), "HitRatio@1, paper"] == "0.3444"
    )
    value, low, high, spread = map(
        float, re.findall(r"[\d.]+", row.loc[("sbtrec", "quick"), "score hit@1"])
    )
    hits = [
        json.loads(p.read_text())["metrics"]["test"]["score"]["hit@1"]["value"]
        for p in folder.glob("llara-movielens-sbtrec-seed*.json")
    ]
    assert (value, spread) == (round(np.mean(hits), 3), round(np.std(hits, ddof=1), 3)) and (
        low,
        high,
    ) == pytest.approx(wilson(95 * np.mean(hits), 95), abs=6e-4)
    assert table.loc["llara-movielens (candidates=uniform-19)", "HitRatio@1, paper"] == "" and set(
        table.loc["llara-steam", "preset"]
    ) == {"not run"}
    assert (
        results_table(only({}), "table-1").reset_index()[["data set", "model"]].to_numpy()
        == [(d, m) for d in SETS for m in MODELS_OF_TABLE_1]
    ).all()


def test_every_row_that_was_not_run_names_a_command_that_can_be_configured(answered):
    rows = results_table(answered, "table-1").query("preset == 'not run'")
    for d, r in rows.iterrows():
        words = dict(w.split() for w in r["command"].split(" -p ")[1:])
        if "table" in words:
            continue  # run_all, whose grid tests/test_grid.py configures
        assert (words["dataset"], words["model"]) == (d, r["model"])
        assert configure(**words).name
    assert len(rows) == 3 * 9 - 4 + 1  # sbtrec has records, but none at the paper's preset


def test_differences_are_exact_where_there_is_one_run_each(answered):
    runs = {k: v for k, v in answered.runs.items() if k[2] == "tiny"}
    [row] = differences_table(only(runs), "table-1").query("protocol == 'score'").to_dict("records")
    hit = [
        answered.runs["llara-movielens", m, "tiny"][0]["table"]
        .set_index("user")["sampled"]
        .sort_index()
        == 1
        for m in ("sbtrec", "sasrec")
    ]
    b, c = (hit[0] & ~hit[1]).sum(), (hit[1] & ~hit[0]).sum()
    assert (row["better for"], row["worse for"]) == (b, c) and float(row["p"]) == pytest.approx(
        stats.binomtest(int(b), int(b + c)).pvalue, abs=6e-5
    )
    assert float(row["difference"].split()[0]) == pytest.approx((b - c) / 95, abs=6e-5)


def test_differences_are_paired_by_user_and_corrected_over_the_table(answered):
    table = differences_table(answered, "table-1")
    quick = table[table["preset"] == "quick"]
    assert quick.groupby("sbtrec minus")["protocol"].agg(list).to_dict() == {
        "llara": ["generate", "score", "lenient", "constrained"],
        "tallrec": ["generate", "score", "lenient", "constrained"],
        "sasrec": ["generate against score", "score"],
    }
    assert quick.query("`sbtrec minus` == 'tallrec' and protocol == 'generate'")[
        "paper"
    ].tolist() == ["+0.1158"]
    np.testing.assert_allclose(
        table["Holm"].astype(float), holm(table["p"].astype(float)), atol=2e-3
    )
    shuffled = {
        k: [r | {"table": r["table"].sample(frac=1, random_state=i)} for i, r in enumerate(v)]
        for k, v in answered.runs.items()
    }
    pd.testing.assert_frame_equal(
        differences_table(only(shuffled), "table-1").drop(columns="difference"),
        table.drop(columns="difference"),
    )


def test_figures_are_drawn_from_records(answered):
    two, four = (figure_table(answered, name) for name in ("figure-2", "figure-4"))
    five = epochs_table(answered, paper_of("b")["tables"]["figure-5"]["schedules"])
    assert set(two["model"]) == {"sbtrec", "sbtrec-continuous", "sbtrec-curriculum"} and set(
        two["protocol"]
    ) == {"score", "generate", "lenient", "constrained"}
    assert set(four.query("preset == 'quick' and `data set` == 'llara-movielens'")["levels"]) == {
        3,
        4,
    } and four["paper"].dropna().unique().tolist() == [0.505, 0.484]
    generated = four.query("protocol == 'generate' and preset == 'quick' and levels == 3")
    one = generated.query("`data set` == 'llara-movielens'").set_index("metric")["value"]
    assert one["hit@1_valid"] * one["valid"] == pytest.approx(one["hit@1"]) and one[
        "hit@1 x valid"
    ] == pytest.approx(one["hit@1"] * one["valid"])
    assert five.groupby("schedule")["model"].unique().map(sorted).to_dict() == {
        "curriculum": ["llara", "sbtrec-curriculum"],
        "one stage": ["sbtrec"],
    }
    assert five.query("model == 'llara'")[["epoch", "seconds", "hit@1"]].to_numpy().tolist() == [
        [1, 2, 0.25],
        [2, 4, 0.375],
        [3, 6, 0.4375],
    ]


def test_a_broken_record_is_named(tmp_path):
    path = record(tmp_path, "tallrec", 0.4)
    ranks = pd.read_parquet(path.with_suffix(".parquet"))
    ranks.assign(lenient=-1).to_parquet(path.with_suffix(".parquet"))
    with pytest.raises(
        PromptrecError, match=rf"users that {path.name} was made of \(generate lenient"
    ):
        read_results(tmp_path, "b")
    path.with_suffix(".parquet").unlink()
    with pytest.raises(PromptrecError, match=f"the users of {path.name}"):
        read_results(tmp_path, "b")
    record(tmp_path, "tallrec", 0.4)
    other = record(tmp_path, "sasrec", 0.4, split_hash=sha256("other"))
    with pytest.raises(PromptrecError, match="other data or candidates"):
        read_results(tmp_path, "b")
    other.unlink()
    record(tmp_path / "again", "tallrec", 0.5)
    with pytest.raises(PromptrecError, match="are the same run"):
        read_results(tmp_path, "b")


def test_other_users_are_no_comparison(tmp_path):
    record(tmp_path, "sbtrec", 0.4)
    record(tmp_path, "sasrec", 0.4, users=94)
    with pytest.raises(PromptrecError, match="different users"):
        differences_table(read_results(tmp_path, "b"), "table-1")


def test_the_two_papers_leave_each_others_records_aside(folder, root):
    found = read_results(folder, "a")
    assert not found.runs and len(found.others) == 12
    assert not [
        k
        for k in read_results(root / "figures" / "records", "b").runs
        if k[0] == "ml-100k" and "uniform" not in k[0]
    ]


def test_claims_on_planted_orders(answered):
    def pair(a, b, **more):
        given = {"tables": ["table-1"], "pairs": [[a, b]], "metrics": ["hit@1"]}
        return judge(Claim("x", "b", **given | more), answered, ("llara-movielens", "quick"))

    assert pair("sbtrec", "sasrec")["verdict"] == pair("sbtrec", "sasrec")[
        "by scores"
    ] == "holds, at quick" and "constrained" not in pair("sbtrec", "sasrec")
    assert (
        pair("sbtrec", "sbtrec-curriculum")["verdict"] == "does not hold, at quick"
        and pair("sbtrec", "sbtrec-continuous")["verdict"] == "undecided here"
    )
    assert (
        pair("sbtrec", "caser") == {}
        and pair("llara", "sbtrec", metrics=["valid"])["verdict"] == "undecided here"
    )
    table = claims_table(answered)
    assert set(table["verdict"].str.split(", at").str[0]) <= {
        "holds",
        "does not hold",
        "undecided here",
        "not testable here",
    } and {c.text for c in read_claims("b")} <= {*table.index}
    assert (
        table.query("verdict == 'not testable here'")["evidence"].str.contains(
            "papermill nbs/|no record holds it"
        )
    ).all()
    assert "quick preset" in table.loc["One stage beats the curriculum", "evidence"]


@given(st.integers(1, 300), st.integers(1, 300))
@settings(max_examples=100, deadline=None)
def test_a_rounded_share_gives_its_count_back(k, n):
    k = min(k, n)
    assert k in counts_of_share(round(k / n, 4), n)


@given(st.integers(0, 95), st.integers(0, 95), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_an_interval_leaves_out_zero_only_where_the_test_finds_something(a, b, seed):
    g = np.random.default_rng(seed)
    x, y = (g.permutation(95)[None] < k for k in (a, b))
    m = compare_hits(x, y)
    assert m["p"] < 0.05 or m["low"] <= 0 <= m["high"]
    assert m["difference"] == pytest.approx((a - b) / 95) and m["better"] - m["worse"] == a - b


def test_llaras_figures_are_shares_of_the_released_test_users(real_data):
    users = find_figures("llara/data/*//test users").astype(int)
    for d in ("llara-movielens", "llara-lastfm"):
        assert len(by_users(load_dataset(d, real_data)).test) == users[d]
    for table in (printed_table("llara", "table-2"), printed_table("llara", "readme")):
        for (d, model), row in table.iterrows():
            for x in row if model not in SILENT else ():
                assert counts_of_share(x, users[d]) or counts_of_share(x, 5 * users[d])
    ours = printed_table("b", "table-1")["hit@1"]
    assert ours.between(0, 1).all()
    for d, percent in zip(SETS, (14.30, 8.90, 4.08)):
        llara = find_figures(f"llara/table-2/{d}/llara/hit@1")
        assert 100 * (ours[d, "sbtrec"] / llara - 1) == pytest.approx(percent, abs=0.005 + 1e-9)


def test_what_paper_b_cites_is_what_llara_printed():
    cited = printed_table("b", "table-1").drop("sbtrec", level="model")
    pd.testing.assert_frame_equal(cited, printed_table("llara", "table-2").loc[cited.index])


def test_consistency_is_what_arithmetic_gives(real_data):
    table = consistency_table("b", load_dataset("ml-100k", real_data))
    assert table["finding"].str.len().gt(0).all() and table.notna().all(axis=None)
    text = (real_data / "ml-100k" / "u.item").read_text(encoding="latin-1").lower()
    films = find_figures("b/table-2//*/year").index
    assert [f for f in films if f.lower() in text] == ["Ghost in the Shell"]
    assert table["finding"].iloc[-1].startswith("impossible: 10 of 11")
    overlaps = table.loc["HitRatio@1 of SBT-Rec and LLaRA on llara-movielens", "finding"]
    assert overlaps == "one run each: significant for 1 of 43 overlaps"
