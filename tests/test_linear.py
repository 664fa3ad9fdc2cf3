"Popularity, Markov chain, item-kNN and EASE on MovieLens 1M; item-kNN and EASE against plain formulas on data of any shape."

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptrec.baselines.counting import Markov, Popularity
from promptrec.baselines.linear import Ease, EaseSettings, ItemKnn, ItemKnnSettings, touched
from promptrec.data.dataset import DOMAINS, make_dataset
from promptrec.data.registry import load_dataset
from promptrec.evaluation.metrics import evaluate, metrics
from promptrec.evaluation.split import Histories, leave_one_out


@pytest.mark.parametrize(
    "model, recall, ndcg",
    [
        (Popularity, 0.037, 0.018),
        (Markov, 0.214, 0.126),
        (ItemKnn, 0.167, 0.089),
        (Ease, 0.108, 0.054),
    ],
)
def test_movielens_1m_over_the_full_catalogue(real_data, model, recall, ndcg, cached={}):
    "Figures found with SciPy 1.17; other libraries may break a tie otherwise."
    split = cached.get("split") or cached.setdefault(
        "split", leave_one_out(load_dataset("ml-1m", real_data))
    )
    m = model(split.dataset)
    m.fit(split)
    found = metrics(evaluate(m, split)["full"].to_numpy())
    assert found["recall@10"] == pytest.approx(recall, abs=0.001) and found[
        "ndcg@10"
    ] == pytest.approx(ndcg, abs=0.001)


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 30), st.integers(2, 20), st.integers(0, 1000), st.integers(1, 25))
def test_weights_equal_the_formulas_on_any_shape(n_users, n_items, seed, k):
    g = np.random.default_rng(seed)
    n = g.integers(3, 9, n_users)
    rows = pd.DataFrame(
        {
            "user": np.repeat(range(n_users), n),
            "item": g.integers(0, n_items, n.sum()),
            "timestamp": np.arange(n.sum()),
        }
    )
    split = leave_one_out(
        make_dataset(
            "toy",
            DOMAINS["movies"],
            rows,
            pd.DataFrame({"item": range(n_items), "title": [str(i) for i in range(n_items)]}),
        )
    )
    V, x = split.dataset.n_items, touched(split).toarray().astype(float)
    knn, ease = (
        ItemKnn(split.dataset, ItemKnnSettings(neighbours=k, shrinkage=1.0)),
        Ease(split.dataset, EaseSettings(2.0)),
    )
    for m in (knn, ease):
        m.fit(split)
    both = x.T @ x
    P = np.linalg.inv(both + 2 * np.eye(V))
    assert ease.weights == pytest.approx(np.where(np.eye(V), 0, -P / np.diag(P)), abs=1e-6)
    near = np.where(np.eye(V), 0, both / (np.sqrt(np.outer(both.diagonal(), both.diagonal())) + 1))
    least = np.sort(near, 0)[::-1][min(k, V) - 1]
    assert knn.weights.toarray() == pytest.approx(np.where(near >= least - 1e-9, near, 0), abs=1e-6)


@pytest.mark.parametrize("model", [Markov, ItemKnn, Ease])
def test_an_empty_history_is_scored_too(model):
    rows = pd.DataFrame(
        {"user": [0] * 4 + [1] * 4, "item": [0, 1, 2, 3, 1, 2, 3, 0], "timestamp": range(8)}
    )
    split = leave_one_out(
        make_dataset(
            "toy", DOMAINS["movies"], rows, pd.DataFrame({"item": range(4), "title": list("abcd")})
        )
    )
    m = model(split.dataset)
    m.fit(split)
    scores = m.score(Histories(np.array([1]), np.ones(1), np.array([0, 0, 1])))
    assert scores.shape == (2, 4) and np.isfinite(scores).all() and scores.dtype == np.float32
