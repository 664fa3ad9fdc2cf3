"""`recommend`: one history or several, and what is no history."""

import numpy as np
import pandas as pd
import pytest

from promptrec.baselines.counting import Markov, Popularity
from promptrec.baselines.linear import ItemKnn
from promptrec.core import PromptrecError
from promptrec.evaluation.recommender import recommend
from promptrec.evaluation.split import leave_one_out
from promptrec.experiments.parameters import configure
from promptrec.experiments.run import Prepared, build
from promptrec.testing.datasets import dataset_of

FILMS = [f"Film no. {i}" for i in range(12)]


@pytest.fixture(scope="module")
def data():
    g = np.random.default_rng(0)
    return dataset_of([g.permutation(12)[:6] for _ in range(30)], FILMS)


@pytest.fixture(scope="module", params=[Popularity, Markov, ItemKnn])
def model(request, data):
    found = request.param(data)
    found.fit(leave_one_out(data))
    return found


def test_several_histories_are_as_one_each(model):
    asked = [FILMS[:2], FILMS[4:5], [FILMS[7], FILMS[7], FILMS[0]]]
    ratings = [[4, 5], None, [1, None, 2]]
    together = recommend(model, asked, ratings, k=3)
    assert together.index.names == ["history", "rank"] and len(together) == 9
    for b, (titles, rated) in enumerate(zip(asked, ratings)):
        alone = model.recommend(titles, rated, k=3)
        pd.testing.assert_frame_equal(together.loc[b], alone)
        assert not set(alone["title"]) & set(titles)


def test_a_network_takes_several_histories(data):
    split = leave_one_out(data)
    model = build(configure(model="sasrec", preset="tiny"), Prepared(data, split, {}))
    both = model.recommend([FILMS[:2], FILMS[3:9]], k=2)
    for b, titles in enumerate([FILMS[:2], FILMS[3:9]]):
        assert both.loc[b, "title"].tolist() == model.recommend(titles, k=2)["title"].tolist()


@pytest.mark.parametrize("as_given", [tuple, np.array, pd.Series, list])
def test_any_ordered_collection_is_a_history(model, as_given):
    wanted = recommend(model, FILMS[:3], k=4)
    pd.testing.assert_frame_equal(recommend(model, as_given(FILMS[:3]), k=np.int64(4)), wanted)
    two = (
        as_given([FILMS[:3], FILMS[3:6]]) if as_given is not pd.Series else [FILMS[:3], FILMS[3:6]]
    )
    pd.testing.assert_frame_equal(recommend(model, two, k=4).loc[0], wanted)


def test_items_of_the_history_again(model):
    assert len(recommend(model, FILMS[:3], k=100)) == 9
    assert len(recommend(model, FILMS[:3], k=100, repeats="keep")) == 12
    with pytest.raises(PromptrecError, match="Did you mean 'keep'"):
        recommend(model, FILMS[:3], repeats="keeps")


@pytest.mark.parametrize("k", [0, -1, -100, 1.0, 2.5, True, None, "3", float("nan")])
def test_how_many(model, k):
    with pytest.raises(PromptrecError, match=r"k=.* must be a whole number, 1 or more"):
        recommend(model, FILMS[:2], k=k)


@pytest.mark.parametrize(
    ("titles", "says"),
    [
        (FILMS[0], "is not a list: give the titles of a history in a list, such as"),
        (b"Film", "is not a list"),
        (None, "None is not a list"),
        (3, "3 is not a list"),
        ({FILMS[0]}, "is not a list"),
        ({FILMS[0]: 5}, "is not a list"),
        ([], "History 0 is empty"),
        ([[]], "History 0 is empty"),
        ([FILMS[:1], [], FILMS[:1]], "History 1 is empty"),
        ([0, 1], "0 is not a title: titles of made-up are text, such as 'Film no. 0'"),
        ([None], "None is not a title"),
        ([FILMS[0], float("nan")], "nan is not a title"),
        ([FILMS[0], FILMS[:2]], "is not a title"),
        ([FILMS[:1], [5]], "5 is not a title"),
        ([FILMS[:1], None], "is not a title"),
        (["Film no 3"], "Nearest: Film no. 3"),
        ([FILMS[:1], ["film no. 11"]], "Nearest: Film no. 11"),
        (["xyz"], "Nearest: none"),
    ],
)
def test_what_is_no_history(model, titles, says):
    with pytest.raises(PromptrecError) as e:
        recommend(model, titles)
    assert says in str(e.value)


@pytest.mark.parametrize(
    ("titles", "ratings", "says"),
    [
        (FILMS[:2], [5], "2 titles but 1 ratings"),
        (FILMS[:2], 5, "5 is not a list: give one rating a title"),
        (FILMS[:2], "45", "'45' is not a list"),
        (FILMS[:2], ["good", "bad"], "give numbers, or None where unknown"),
        ([FILMS[:1], FILMS[:2]], [[5]], "2 histories but 1 lists of ratings"),
        ([FILMS[:1], FILMS[:2]], [5, 4], "5 is not a list"),
        ([FILMS[:1], FILMS[:2]], [[5], [4]], "2 titles but 1 ratings"),
    ],
)
def test_ratings_that_do_not_fit(model, titles, ratings, says):
    with pytest.raises(PromptrecError) as e:
        recommend(model, titles, ratings)
    assert says in str(e.value)
