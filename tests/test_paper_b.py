"""Paper B's Table 1, Figures 2, 4 and 5, claims and doubts: from invented records, and its figures against counts, SciPy and the real data."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from promptrec.core import PromptrecError, describe_device, sha256
from promptrec.data.registry import load_dataset
from promptrec.evaluation.choice import answer_metrics
from promptrec.evaluation.split import by_users
from promptrec.evaluation.stats import compare_hits, holm, wilson
from promptrec.experiments.records import package_versions, write_record
from promptrec.experiments.registry import MODELS
from promptrec.experiments.run import configure
from promptrec.reproduction.claims_a import Claim
from promptrec.reproduction.claims_b import (
    CLAIMS_B,
    FILMS,
    claims_table,
    doubts,
    film_row,
    judged,
    overlap_row,
)
from promptrec.reproduction.results_a import read_results
from promptrec.reproduction.results_b import (
    CORRECTED,
    LLARA,
    PRINTED,
    ROWS,
    SETS,
    USERS,
    Answered,
    counts,
    differences,
    figure_2,
    figure_4,
    figure_5,
    improved,
    possible_users,
    read_answered,
    readings,
    table_1,
)

SILENT = ("gru4rec", "caser", "sasrec", "morec")


def record(
    folder,
    model,
    rate,
    seed=0,
    dataset="llara-movielens",
    preset="quick",
    valid=1.0,
    candidates="uniform-20",
    settings={},
    U=95,
    **changes,
):
    "A record of a run with invented choices: all models find the same users hard, each serves a share `rate` of them."
    hard, e = (
        np.random.default_rng(1).random(U),
        np.random.default_rng([seed, len(model), int(1000 * rate)]),
    )
    choice = np.where(0.8 * hard + 0.2 * e.random(U) < rate, 0, e.integers(1, 21, U))
    ranks, test = (
        pd.DataFrame({"user": e.permutation(U)}),
        {"score": answer_metrics(choice, protocol="score")},
    )
    choice = choice[ranks["user"]]
    ranks["sampled"] = choice + 1
    if model not in SILENT:
        strict = np.where(ranks["user"] < U * valid, choice, -1)
        ranks = ranks.assign(answer="a title", strict=strict, lenient=choice, constrained=choice)
        test |= {
            "constrained": answer_metrics(choice, protocol="constrained"),
            "generate": answer_metrics(strict)
            | {f"lenient {k}": m for k, m in answer_metrics(choice).items()},
        }
    if model in MODELS:
        config = configure(
            model=model,
            dataset=dataset,
            preset=preset,
            seed=seed,
            candidates=candidates,
            **settings,
        ).config
    else:
        config = {
            "dataset": dataset,
            "model": model,
            "preset": preset,
            "seed": seed,
            "split": "users",
            "candidates": candidates,
            "max_history": 10,
            "settings": {"llm": "smollm2-135m", "levels": 3, "codes": 128} | settings,
            "loop": {},
        }
    curves = [
        {"epoch": k, "seconds": 2.0, "recall@1": rate * (1 - 0.5**k), "valid loss": 3.0 - k}
        for k in (1, 2, 3)
    ]
    return write_record(
        {
            "dataset": dataset,
            "model": model,
            "seed": seed,
            "config": config,
            "commit": None,
            "dirty": None,
            "data_hash": sha256(dataset),
            "split": "users",
            "split_hash": sha256("split"),
            "steps": [["read", 943, 1682, 20_000]],
            "notes": {},
            "candidates": {f"test {candidates}": sha256(candidates)},
            "packages": package_versions(),
            "device": describe_device(),
            "wall_seconds": 60.0,
            "seconds_per_epoch": [10.0, 20.0],
            "peak_memory_mb": 1000.0,
            "parameters": {"total": 5_000_000, "trainable": 50_000},
            "curves": curves,
            "metrics": {"test": test},
            **changes,
        },
        ranks,
        folder,
    )


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
    record(folder / "more", "sbtrec", 0.5, settings={"levels": 4})
    record(folder / "more", "sbtrec", 0.55, candidates="uniform-19")
    record(folder / "more", "sbtrec", 0.55, preset="tiny")
    record(folder / "more", "sasrec", 0.4, preset="tiny")
    return folder


@pytest.fixture(scope="module")
def answered(folder):
    return read_answered(folder)


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
    assert not answered.others and not Answered({}, []).runs


def test_table_1_has_the_papers_figures_and_ours_in_each_protocol(answered, folder):
    table = table_1(answered)
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
        table_1(Answered({}, [])).reset_index()[["data set", "model"]].to_numpy()
        == [(d, m) for d in SETS for m in ROWS]
    ).all()


def test_every_row_that_was_not_run_names_a_command_that_can_be_configured(answered):
    rows = table_1(answered).query("preset == 'not run'")
    for d, r in rows.iterrows():
        words = dict(w.split() for w in r["command"].split(" -p ")[1:])
        if "table" in words:
            continue  # run_all, whose grid tests/test_grid.py configures
        assert (words["dataset"], words["model"]) == (d, r["model"])
        if r["model"] in MODELS:
            assert configure(**words).name
    assert len(rows) == 3 * 9 - 4


def test_differences_are_exact_where_there_is_one_run_each(answered):
    runs = {k: v for k, v in answered.runs.items() if k[2] == "tiny"}
    [row] = differences(Answered(runs, [])).query("protocol == 'score'").to_dict("records")
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
    table = differences(answered)
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
        differences(Answered(shuffled, [])).drop(columns="difference"),
        table.drop(columns="difference"),
    )


def test_figures_are_drawn_from_records(answered):
    two, four, five = figure_2(answered), figure_4(answered), figure_5(answered)
    assert set(two["model"]) == {"sbtrec", "sbtrec-continuous", "sbtrec-curriculum"} and set(
        two["protocol"]
    ) == {"score", "generate", "lenient", "constrained"}
    assert set(four.query("preset == 'quick' and `data set` == 'llara-movielens'")["levels"]) == {
        3,
        4,
    } and four["paper"].dropna().unique().tolist() == [0.505, 0.484]
    one = four.query(
        "protocol == 'generate' and preset == 'quick' and levels == 3 and `data set` == 'llara-movielens'"
    ).set_index("metric")["value"]
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
        PromptrecError, match=rf"does not hold the choices \(lenient\) of {path.name}"
    ):
        read_answered(tmp_path)
    path.with_suffix(".parquet").unlink()
    with pytest.raises(PromptrecError, match=f"the choices of {path.name}"):
        read_answered(tmp_path)
    record(tmp_path, "tallrec", 0.4)
    other = record(tmp_path, "sasrec", 0.4, split_hash=sha256("other"))
    with pytest.raises(PromptrecError, match="other data or candidates"):
        read_answered(tmp_path)
    other.unlink()
    record(tmp_path / "again", "tallrec", 0.5)
    with pytest.raises(PromptrecError, match="both tallrec on llara-movielens, seed 0"):
        read_answered(tmp_path)


def test_other_users_are_no_comparison(tmp_path):
    record(tmp_path, "sbtrec", 0.4)
    record(tmp_path, "sasrec", 0.4, U=94)
    with pytest.raises(PromptrecError, match="different users"):
        differences(read_answered(tmp_path))


def test_the_two_papers_leave_each_others_records_aside(folder, root):
    assert not read_results(folder).runs and len(read_results(folder).others) == 12
    assert not [
        k
        for k in read_answered(root / "figures" / "records").runs
        if k[0] == "ml-100k" and "uniform" not in k[0]
    ]


def test_claims_on_planted_orders(answered):
    pair = lambda a, b, **more: judged(
        Claim("x", "y", ("table-1",), ((a, b),), **({"metrics": ("hit@1",)} | more)),
        answered,
        "llara-movielens",
        "quick",
    )
    assert (
        pair("sbtrec", "sasrec")["verdict"] == pair("sbtrec", "sasrec")["by scores"] == "holds"
        and pair("sbtrec", "sasrec")["constrained"] == ""
    )
    assert (
        pair("sbtrec", "sbtrec-curriculum")["verdict"] == "does not"
        and pair("sbtrec", "sbtrec-continuous")["verdict"] == "undecided here"
    )
    assert (
        pair("sbtrec", "caser") == {}
        and pair("llara", "sbtrec", metrics=("valid",))["verdict"] == "undecided here"
    )
    table = claims_table(answered)
    assert set(table["verdict"]) <= {
        "holds",
        "does not",
        "undecided here",
        "not testable here",
    } and {c.text for c in CLAIMS_B} <= {*table.index}
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
    assert k in counts(round(k / n, 4), n) and n in possible_users([round(k / n, 4)], 300)


@given(st.integers(0, 95), st.integers(0, 95), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_an_interval_leaves_out_zero_only_where_the_test_finds_something(a, b, seed):
    g = np.random.default_rng(seed)
    x, y = (g.permutation(95)[None] < k for k in (a, b))
    m = compare_hits(x, y)
    assert m["p"] < 0.05 or m["low"] <= 0 <= m["high"]
    assert m["difference"] == pytest.approx((a - b) / 95) and m["better"] - m["worse"] == a - b


def test_llaras_figures_are_shares_of_the_released_test_users(real_data):
    for d in ("llara-movielens", "llara-lastfm"):
        assert len(by_users(load_dataset(d, real_data)).test) == USERS[d]
    speak = [i for i in LLARA.index if i[1] not in SILENT]
    assert (readings().loc[speak] != "").all(axis=None) and (readings(CORRECTED) != "").all(
        axis=None
    )
    assert PRINTED["hit@1"].between(0, 1).all() and set(PRINTED["source"]) == {"LLaRA", "derived"}
    assert [
        improved(LLARA.loc[(d, "llara"), "hit@1"], p) for d, p in zip(SETS, (14.30, 8.90, 4.08))
    ] == [[0.5053], [0.4909], [0.5151]]


def test_doubts_are_what_arithmetic_gives(real_data):
    table = doubts(load_dataset("ml-100k", real_data))
    assert table["finding"].str.len().gt(0).all() and table.notna().all(axis=None)
    text = (real_data / "ml-100k" / "u.item").read_text(encoding="latin-1").lower()
    assert [f for f in FILMS if f.lower() in text] == ["Ghost in the Shell"]
    assert film_row(load_dataset("ml-100k", real_data))["finding"].startswith(
        "impossible: 10 of 11"
    )
    assert (
        overlap_row("x", "y", "llara-movielens", 0.5053, 0.4421)["finding"]
        == "one run each: significant for 1 of 43 overlaps"
    )
