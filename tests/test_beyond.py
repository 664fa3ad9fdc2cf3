"""Beyond accuracy: the lists are those that a model recommends, and cost no second scoring."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from promptrec.baselines.counting import Markov, Popularity
from promptrec.evaluation.beyond import beyond_accuracy
from promptrec.evaluation.candidates import draw_candidates
from promptrec.evaluation.metrics import evaluate
from promptrec.evaluation.recommender import best_items
from promptrec.evaluation.split import REPEATS, by_users, leave_one_out
from promptrec.experiments.parameters import configure
from promptrec.experiments.records import check_record, read_record
from promptrec.experiments.run import Prepared, evaluate_run, execute
from promptrec.testing.datasets import irregular, long_tail


def run_of(model, dataset, out_dir, **given):
    "A run's record on a made-up data set."
    split = leave_one_out(dataset)
    run = configure(model=model, candidates="uniform-4", out_dir=str(out_dir), **given)
    return execute(run, Prepared(dataset, split, draw_candidates(split, "uniform-4")))


@pytest.mark.parametrize("repeats", REPEATS)
def test_lists_are_what_the_model_recommends(repeats):
    "By each rule for repeats, ties and short lists among them."
    split = replace(leave_one_out(irregular()), repeats=repeats)
    model = Markov(split.dataset)
    model.fit(split)
    lists = evaluate(model, split, best=10)["best"]
    named = best_items(model, split.histories("test"), 10, repeats)
    for own, table in zip(lists, named):
        assert split.dataset.titles[own[own >= 0]].tolist() == table["title"].tolist()
        assert (own >= 0).sum() == len(table)


def test_all_users_are_scored_once():
    "Ranks and lists come from one pass."
    dataset = long_tail(200, 100)
    split = leave_one_out(dataset)
    model, asked = Popularity(dataset), []
    model.fit(split)
    usual = model.score
    model.score = lambda histories, items=None: asked.append(len(histories)) or usual(histories)
    found = evaluate_run(model, Prepared(dataset, split, {}))
    assert asked == [200] and found["best"].map(len).eq(10).all()


def test_a_record_says_what_the_lists_are_like(tmp_path):
    "The record has the figures, its users' file no lists; a record without them is valid still."
    result = run_of("popularity", long_tail(200, 100), tmp_path)
    record = read_record(result.path)
    assert record["beyond"]["coverage@10"]["value"] < 0.4
    assert "miscalibration@10" not in record["beyond"]  # there are no genres
    assert "best" not in pd.read_parquet(result.path.with_name(record["ranks"]))
    del record["beyond"]
    assert check_record(record)


def test_users_that_training_never_saw():
    "Novelty and popularity are those of the training users."
    split = by_users(long_tail(200, 100), max_history=5)
    model = Popularity(split.dataset)
    model.fit(split)
    found = beyond_accuracy(np.stack(evaluate(model, split, best=10)["best"]), split)
    most = np.sort(split.popularity)[::-1]
    assert most[:20].mean() < found["popularity@10"]["value"] <= most[:10].mean()
    users = len(np.flatnonzero(split.train_end))
    assert found["novelty@10"]["value"] >= -np.log2(most[0] / users)


def test_one_user_has_no_interval():
    "Nothing is said of fewer than two users."
    split = by_users(long_tail(10, 40, 5))
    assert len(split.test) == 1
    assert beyond_accuracy(np.array([[0, 1]]), split) == {}
