"""Free-text answers: readers against each other and against LLaRA's rule, intervals and tests
against SciPy, what the rule does on real data.
"""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from promptrec.core import PromptrecError
from promptrec.data.llara import read_llara
from promptrec.evaluation.candidates import uniform_candidates
from promptrec.evaluation.choice import ANSWER_READERS, answer_metrics, best_column, lenient, strict
from promptrec.evaluation.metrics import ranks_of
from promptrec.evaluation.split import by_users
from promptrec.evaluation.stats import (
    mcnemar,
    mcnemar_overlaps,
    mcnemar_p,
    mcnemar_power,
    smallest_hit_difference,
    users_needed,
    wilson,
)

# ---- readers ----


def llara(answers, candidates, titles):
    """How LLaRA's released code reads: candidates whose title occurs in the first line, whatever
    the case; valid if one.
    """
    out = []
    for answer, row in zip(answers, candidates):
        line = answer.strip().split("\n")[0].strip().lower()
        named = [c for c, i in enumerate(row) if titles[i].strip().lower() in line]
        out.append(named[0] if len(named) == 1 else -1)
    return np.array(out)


title = st.text("abAB. é", max_size=5)
words = st.text('abAB. é\n"', max_size=25)


def lower(titles, rows):
    "Titles of the candidates [B, C] in lower case."
    return [[titles[i].strip().lower() for i in row] for row in rows]


@st.composite
def asked(draw):
    "Titles [V], candidates [B, C] and answers [B] that often hold titles, whole or in a sentence."
    titles = draw(st.lists(title, min_size=3, max_size=8))
    B, C = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    rows = [draw(st.permutations(range(len(titles))))[:C] for _ in range(B)]
    named = st.sampled_from(titles)
    answer = st.one_of(
        words,
        named,
        st.tuples(words, named, words).map("".join),
        st.tuples(named, named).map(" or ".join),
    )
    return titles, rows, [draw(answer) for _ in range(B)]


@given(asked())
@settings(max_examples=200, deadline=None)
def test_strict_implies_lenient(case):
    titles, rows, answers = case
    a, b = (read(answers, rows, titles) for read in (strict, lenient))
    low = lower(titles, rows)
    for row in np.flatnonzero(a >= 0):
        assert b[row] == a[row] or low[row].count(low[row][a[row]]) > 1
        assert titles[rows[row][a[row]]].strip() == answers[row].strip().split("\n")[0].strip()


@given(asked())
@settings(max_examples=200, deadline=None)
def test_lenient_reads_what_llara_reads(case):
    """No empty titles: whatever LLaRA's rule reads is read alike, and what is read besides has
    titles within titles.
    """
    titles, rows, answers = case
    titles = [t if t.strip() else f"untitled {i}" for i, t in enumerate(titles)]
    ours, theirs = lenient(answers, rows, titles), llara(answers, rows, titles)
    assert (ours[theirs >= 0] == theirs[theirs >= 0]).all()
    for row in np.flatnonzero((ours >= 0) & (theirs < 0)):
        names = [titles[i].strip().lower() for i in rows[row]]
        assert sum(n in names[ours[row]] for n in names) > 1


@given(asked(), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_the_order_of_candidates_does_not_matter(case, random):
    titles, rows, answers = case
    for read in ANSWER_READERS.values():
        orders = [random.sample(range(len(rows[0])), len(rows[0])) for _ in rows]
        shuffled = [[row[c] for c in order] for row, order in zip(rows, orders)]
        moved = read(answers, shuffled, titles)
        back = [order[c] if c >= 0 else -1 for order, c in zip(orders, moved)]
        assert back == read(answers, rows, titles).tolist()


def test_special_letters_are_plain_text():
    titles = ["What? (a+b)*", "$9.99", "İstanbul", "東京物語", "a\\b[c]"]
    for read in ANSWER_READERS.values():
        assert read(titles, [range(5)] * 5, titles).tolist() == list(range(5))
    assert lenient([f"«{t}»!" for t in titles], [range(5)] * 5, titles).tolist() == list(range(5))
    assert strict(["Heat\r\nmore", "Heat\rmore"], [[0], [0]], ["Heat"]).tolist() == [0, -1]


def test_a_list_of_all_candidates_is_no_answer():
    titles = [f"Film {i:02}" for i in range(21)]
    for read in ANSWER_READERS.values():
        assert read([", ".join(titles)], [range(21)], titles).tolist() == [-1]


@pytest.mark.parametrize(
    "answers, rows, says",
    [
        (["a"], [[0], [1]], r"\(2, 1\)"),
        (["a"], [[5]], "there are 2 titles"),
        (["a"], [[-1]], "items -1"),
        ([None], [[0]], "Answer 0 is None"),
        (["a"], [[0.5]], "float64"),
    ],
)
def test_bad_input_is_named(answers, rows, says):
    for read in ANSWER_READERS.values():
        with pytest.raises(PromptrecError, match=says):
            read(answers, rows, ["x", "y"])


# ---- metrics ----

choices = st.integers(1, 60).flatmap(lambda n: st.lists(st.integers(-1, 4), min_size=n, max_size=n))


@given(choices, st.integers(0, 4))
def test_metrics_by_hand(choice, column):
    found = json.loads(json.dumps(answer_metrics(choice, column), allow_nan=False))
    n, v, k = len(choice), sum(c >= 0 for c in choice), sum(c == column for c in choice)
    assert [m["value"] for m in found.values()] == [k / n, k / v if v else 0.0, v / n]
    for m in found.values():
        assert 0 <= m["low"] <= m["value"] <= m["high"] <= 1
    for k, m in answer_metrics([choice] * 3, column).items():
        assert m == pytest.approx(found[k])
    assert answer_metrics(choice, [column] * n) == answer_metrics(choice, column)


@given(
    st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    st.sampled_from([0.8, 0.95, 0.99]),
)
def test_wilson_is_scipys(share, level):
    k, n = share
    assert wilson(k, n, level) == pytest.approx(
        stats.binomtest(k, n).proportion_ci(level, method="wilson"), abs=1e-12
    )


@pytest.mark.parametrize(
    "k, n, low, high",
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_newcombes(k, n, low, high):
    "Table I of Newcombe, Statistics in Medicine 17 (1998), method 3."
    assert wilson(k, n) == pytest.approx((low, high), abs=6e-5)


@given(
    st.integers(1, 20).flatmap(
        lambda n: st.lists(
            st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=n, max_size=n
        )
    ),
    st.integers(0, 3),
)
def test_a_hit_by_scores_is_rank_one(scores, column):
    choice = best_column(scores, column)
    assert ((choice == column) == (ranks_of(scores, column) == 1)).all()
    found = answer_metrics(choice, column, "score")
    assert found["hit@1"]["value"] == pytest.approx(found["hit@1_valid"]["value"])
    assert set(found["valid"].values()) == {1.0}


# ---- two models ----


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_the_binomial_test(b, c):
    expected = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert float(mcnemar_p(b, c)) == pytest.approx(expected, rel=1e-9)
    assert mcnemar_p(b, c) == mcnemar_p(c, b)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80))
def test_the_paired_table(pairs):
    a, b = np.array(pairs).T
    found = mcnemar(a, b)
    assert [found[k] for k in ("both", "b", "c", "neither")] == [
        pairs.count(p) for p in ((True, True), (True, False), (False, True), (False, False))
    ]
    rows = mcnemar_overlaps(int(a.sum()), int(b.sum()), len(pairs)).set_index("both")
    assert rows.loc[found["both"], ["b", "c"]].tolist() == [found["b"], found["c"]]
    assert rows.loc[found["both"], "p"] == found["p"]
    assert (rows[["b", "c"]].to_numpy() >= 0).all()
    assert (rows.index + rows["b"] + rows["c"] <= len(pairs)).all()


def test_known_mcnemar():
    "b=10, c=2 and b=59, c=6: sums of binomial coefficients, in whole numbers."
    for b, c in ((10, 2), (59, 6), (48, 42)):
        exact = 2 * sum(math.comb(b + c, i) for i in range(min(b, c) + 1)) / 2 ** (b + c)
        assert float(mcnemar_p(b, c)) == pytest.approx(exact, rel=1e-12)


def test_48_against_42_of_95():
    rows = mcnemar_overlaps(48, 42, 95)
    assert rows["p"].min() == pytest.approx(0.03125)
    assert rows["p"].max() == pytest.approx(0.5984, abs=1e-4)
    assert rows.loc[rows["p"] <= 0.05, ["both", "b", "c"]].values.tolist() == [[42, 6, 0]]
    assert rows.loc[rows["both"] < 42, "p"].min() > 0.07


@given(st.integers(5, 150), st.floats(0.05, 1), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_power_grows_with_the_difference(n, s, share):
    low, high = mcnemar_power(n, 0.5 * share * s, s), mcnemar_power(n, share * s, s)
    assert 0 <= mcnemar_power(n, 0, s) <= 0.05 + 1e-9 and low <= high + 1e-9 <= 1 + 2e-9
    assert mcnemar_power(n, -share * s, s) == pytest.approx(high)


def test_power_agrees_with_the_normal_formula_where_users_are_many():
    for s in (0.1, 0.3):
        normal = 2.8016 * (s / 5000) ** 0.5
        assert smallest_hit_difference(5000, s) == pytest.approx(normal, rel=0.04)
        d = smallest_hit_difference(400, s)
        assert users_needed(d * 1.0001, s) <= 400
        assert mcnemar_power(400, d, s) == pytest.approx(0.8, abs=1e-6)


# ---- what LLaRA's rule does on real data ----


def llara_title(title):
    "As LLaRA's code shows movies: seven letters (the year) cut off, the article in front."
    title = title[:-7]
    for article in (", The", ", A", ", An"):
        if article in title:
            return f"{article[2:]} {title.replace(article, '')}"
    return title


@pytest.mark.parametrize(
    "name, least, most", [("llara-movielens", 0.975, 0.993), ("llara-lastfm", 0.995, 1.0)]
)
def test_perfect_answers_on_real_data(real_data, name, least, most):
    """A model that writes every target's title: LLaRA's rule does not read all of it, the readers
    here do, but for movies listed twice.
    """
    ds = read_llara(name, real_data)
    titles = [llara_title(t) for t in ds.titles] if name == "llara-movielens" else ds.titles
    split, readers = by_users(ds, max_history=10), {"llara": llara, **ANSWER_READERS}
    valid = {reader: [] for reader in readers}
    for seed in range(10):
        items = uniform_candidates(split, n=19, seed=seed).items
        low = lower(titles, items)
        twins = sum(row.count(row[0]) > 1 for row in low)
        answers = [titles[i] for i in items[:, 0]]
        for reader, read in readers.items():
            choice = read(answers, items, titles)
            assert set(choice.tolist()) <= {0, -1}
            listed_twice = twins / len(items) if reader != "llara" else 0
            valid[reader].append(np.mean(choice == 0) + listed_twice)
    assert least <= np.mean(valid["llara"]) <= most
    assert np.mean(valid["strict"]) == np.mean(valid["lenient"]) == 1
    if name == "llara-movielens":
        plain = uniform_candidates(split, n=19).items
        assert (llara([ds.titles[i] for i in plain[:, 0]], plain, ds.titles) == 0).all()
