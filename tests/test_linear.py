"""Popularity, Markov chain, item-kNN and EASE on MovieLens 1M; item-kNN and EASE against plain
formulas on data of any shape.
"""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptrec.baselines.counting import Markov, Popularity
from promptrec.baselines.linear import Ease, EaseSettings, ItemKnn, ItemKnnSettings, touched
from promptrec.data.registry import load_dataset
from promptrec.evaluation.metrics import evaluate, metrics
from promptrec.evaluation.split import Histories, leave_one_out
from promptrec.testing.datasets import dataset_of


@cache
def movielens_1m(data_dir):
    return leave_one_out(load_dataset("ml-1m", data_dir))


@pytest.mark.parametrize(
    "model, recall, ndcg",
    [
        (Popularity, 0.037, 0.018),
        (Markov, 0.214, 0.126),
        (ItemKnn, 0.167, 0.089),
        (Ease, 0.108, 0.054),
    ],
)
def test_movielens_1m_over_the_full_catalogue(real_data, model, recall, ndcg):
    "Figures found with SciPy 1.17; other libraries may break a tie otherwise."
    split = movielens_1m(real_data)
    fitted = model(split.dataset)
    fitted.fit(split)
    found = metrics(evaluate(fitted, split)["full"].to_numpy())
    assert found["recall@10"] == pytest.approx(recall, abs=0.001)
    assert found["ndcg@10"] == pytest.approx(ndcg, abs=0.001)


@settings(max_examples=25, deadline=None)
@given(
    n_users=st.integers(3, 30),
    n_items=st.integers(2, 20),
    seed=st.integers(0, 1000),
    k=st.integers(1, 25),
)
def test_weights_equal_the_formulas_on_any_shape(n_users, n_items, seed, k):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(3, 9, n_users)
    sequences = [generator.integers(0, n_items, n) for n in lengths]
    split = leave_one_out(dataset_of(sequences, n_items))
    V, x = split.dataset.n_items, touched(split).toarray().astype(float)
    knn = ItemKnn(split.dataset, ItemKnnSettings(neighbours=k, shrinkage=1.0))
    ease = Ease(split.dataset, EaseSettings(2.0))
    knn.fit(split)
    ease.fit(split)

    both = x.T @ x
    P = np.linalg.inv(both + 2 * np.eye(V))
    assert ease.weights == pytest.approx(np.where(np.eye(V), 0, -P / np.diag(P)), abs=1e-6)

    size = both.diagonal()
    near = np.where(np.eye(V), 0, both / (np.sqrt(np.outer(size, size)) + 1))
    least = np.sort(near, 0)[::-1][min(k, V) - 1]
    expected = np.where(near >= least - 1e-9, near, 0)
    assert knn.weights.toarray() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("model", [Markov, ItemKnn, Ease])
def test_an_empty_history_is_scored_too(model):
    split = leave_one_out(dataset_of([[0, 1, 2, 3], [1, 2, 3, 0]]))
    fitted = model(split.dataset)
    fitted.fit(split)
    scores = fitted.score(Histories(np.array([1]), np.ones(1), np.array([0, 0, 1])))
    assert scores.shape == (2, 4)
    assert np.isfinite(scores).all()
    assert scores.dtype == np.float32
