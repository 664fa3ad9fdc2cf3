"""A trained model in use: its own catalogue, one that grew, new users, new items, and more runs."""

import shutil
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest

from promptrec.core import PromptrecError
from promptrec.data.dataset import add_items, catalogue
from promptrec.data.registry import load_dataset
from promptrec.evaluation.recommender import best_items, load_catalogue
from promptrec.evaluation.split import Histories
from promptrec.experiments.parameters import configure
from promptrec.experiments.registry import MODELS
from promptrec.experiments.run import execute, finished_runs, prepare, restore
from promptrec.predict.recommend import main, open_run, predict

RANKING = ("popularity", "markov", "itemknn", "ease", "gru4rec", "sasrec", "bert4rec", "cl4srec")
READING = ("morec", "mibert")
NOUNS = ("Sea", "Road", "Door", "House", "War")
TITLES = [f"{how} {noun}" for how in ("Red", "Old", "Night", "Lost", "Last") for noun in NOUNS]


def write_shop(folder, n_items, n_users=30, seed=0):
    "A shop of `n_items` books, ids 'b00' and so on, in which every user bought eight."
    folder.mkdir(exist_ok=True)
    g = np.random.default_rng(seed)
    ids = [f"b{i:02d}" for i in range(n_items)]
    items = pd.DataFrame({"item": ids, "title": TITLES[:n_items], "genres": "Novel"})
    items.to_csv(folder / "items.csv", index=False)
    rows = [
        (f"reader {u}", ids[i], int(g.integers(1, 6)), 100 * u + t)
        for u in range(n_users)
        for t, i in enumerate(g.permutation(min(n_items, 20))[:8])
    ]
    table = pd.DataFrame(rows, columns=["user", "item", "rating", "timestamp"])
    table.to_csv(folder / "interactions.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return write_shop(tmp_path_factory.mktemp("data") / "shop", 20)


@pytest.fixture(scope="module")
def trained(shop, tmp_path_factory):
    "Runs of models on the shop by name, each made once."
    out_dir = str(tmp_path_factory.mktemp("runs"))

    @cache
    def trained(model):
        given = {"dataset": str(shop), "model": model, "out_dir": out_dir, "preset": "tiny"}
        if model == "mibert":
            given |= {"text_titles": True}
        run = configure(**given, candidates="uniform-5")
        return execute(run, prepare(run))

    return trained


@pytest.fixture
def histories(shop, tmp_path):
    "The shop's own interactions as a table of histories."
    return shutil.copy(shop / "interactions.csv", tmp_path / "histories.csv")


def folder_of(result):
    return result.path.with_suffix("")


def whole_histories(ds):
    "All that each user did."
    return Histories(ds.item, ds.rating, ds.offsets)


# Every model ----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", (*RANKING, *READING, "p5"))
def test_recommendations_are_those_of_the_model(model, trained, histories, tmp_path):
    result = trained(model)
    predict(folder_of(result), histories, tmp_path / "best.csv", k=4)
    found = pd.read_csv(tmp_path / "best.csv")
    ds = result.model.dataset
    h = whole_histories(ds)
    assert found["user"].drop_duplicates().tolist() == [f"reader {u}" for u in range(30)]
    for user, one in zip(ds.users, best_items(result.model, h, 4)):
        mine = found[found["user"] == user]
        assert mine["title"].tolist() == one["title"].tolist()
        assert mine["rank"].tolist() == [1, 2, 3, 4]
        np.testing.assert_allclose(mine["score"], one["score"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", RANKING + READING)
def test_a_model_loads_where_the_catalogue_has_grown(model, trained):
    "Items that it knows keep their scores, whatever number they have now."
    result = trained(model)
    ds, h = result.model.dataset, whole_histories(result.model.dataset)
    more = pd.DataFrame({"item": ["a-first", "b055", "z-last"], "title": ["A", "B", "C"]})
    grown = add_items(ds, more)
    larger = MODELS[model].build(grown, getattr(result.model, "settings", None), None)
    larger.load(folder_of(result))
    now = pd.Index(grown.items["item_id"]).get_indexer(ds.items["item_id"])
    scores = larger.score(replace(h, item=now[h.item]))
    assert scores.shape == (30, ds.n_items + 3)
    np.testing.assert_allclose(scores[:, now], result.model.score(h), rtol=1e-4, atol=1e-5)


def test_p5_keeps_to_its_items(trained):
    "Its vocabulary is that of their titles."
    result = trained("p5")
    grown = add_items(result.model.dataset, pd.DataFrame({"item": ["z-last"], "title": ["C"]}))
    with pytest.raises(PromptrecError, match="holds 1 items that this model does not know"):
        MODELS["p5"].build(grown, result.model.settings, None).load(folder_of(result))


def test_a_saved_catalogue_is_the_data_without_its_users(trained):
    result = trained("popularity")
    saved, ds = load_catalogue(folder_of(result)), catalogue(result.model.dataset)
    assert saved.items.equals(ds.items) and saved.domain == ds.domain
    assert np.array_equal(saved.all_ratings, ds.all_ratings) and saved.n_users == 0


def test_items_that_are_gone_are_named(trained, tmp_path):
    few = load_dataset(str(write_shop(tmp_path / "few", 12)))
    model = MODELS["popularity"].build(few, None, None)
    with pytest.raises(PromptrecError, match="items that few does not hold, such as 'b12'"):
        model.load(folder_of(trained("popularity")))


# New items ------------------------------------------------------------------------------------


def todays_items(path):
    table = pd.DataFrame({"item": ["b03", "n1", "n2"], "title": ["Old", "Night Sea", "Red Door"]})
    table.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("model", READING)
def test_new_items_are_scored_from_their_titles(model, trained, histories, tmp_path):
    items, out = todays_items(tmp_path / "items.csv"), tmp_path / "best.parquet"
    report = predict(folder_of(trained(model)), histories, out, k=100, items=items)
    found = pd.read_parquet(out)
    assert found["new"].sum() == 60 and set(found[found["new"]]["item"]) == {"n1", "n2"}
    assert report.new.names == ["Night Sea", "Red Door"] and not report.left_out.times
    assert len(found) == 30 * (20 - 8 + 2)  # k is above what may be recommended


def test_models_of_ids_list_new_items_as_left_out(trained, histories, tmp_path):
    items, out = todays_items(tmp_path / "items.csv"), tmp_path / "best.parquet"
    report = predict(folder_of(trained("sasrec")), histories, out, items=items)
    assert report.left_out.names == ["n1", "n2"] and "cannot score" in str(report)
    assert not pd.read_parquet(out)["new"].any()


def test_new_items_may_stand_in_histories_and_among_the_allowed(trained, tmp_path):
    "A model that reads titles reads them there too, and allowed items may be new alone."
    items = todays_items(tmp_path / "items.csv")
    table, out = tmp_path / "histories.csv", tmp_path / "best.csv"
    table.write_text("user,item\nann,n1\nann,b03\n")
    given = {"histories": table, "out": out, "items": items, "allowed": items}
    report = predict(folder_of(trained("morec")), **given)
    assert not report.unknown.times
    assert pd.read_csv(out)["item"].tolist() == ["n2"]


# Odd tables -----------------------------------------------------------------------------------


def test_rows_of_a_user_may_stand_anywhere_and_twice(trained, tmp_path):
    table, out = tmp_path / "histories.csv", tmp_path / "best.csv"
    table.write_text("user,item\nann,b01\nbob,b02\nann,b01\nann,b03\n")
    predict(folder_of(trained("itemknn")), table, out, k=50)
    found = pd.read_csv(out)
    assert found["user"].drop_duplicates().tolist() == ["ann", "bob"]
    assert len(found) == (20 - 2) + (20 - 1)


def test_a_user_without_an_item_is_named_and_gets_nothing(trained, tmp_path):
    table, out = tmp_path / "histories.csv", tmp_path / "best.csv"
    table.write_text("user,item\nann,b01\nbob,\ncleo,x99\n")
    report = predict(folder_of(trained("sasrec")), table, out, k=2)
    assert report.silent.names == ["bob", "cleo"] and report.unknown.names == ["x99"]
    assert set(pd.read_csv(out)["user"]) == {"ann"}
    table.write_text("user,item\nbob,\n")
    report = predict(folder_of(trained("sasrec")), table, out, k=2)
    assert report.rows == 0 and len(pd.read_csv(out)) == 0


def test_models_that_choose_among_candidates_are_refused(trained, tmp_path):
    result = trained("popularity")
    name = result.path.name.replace("popularity", "sbtrec")
    record = result.path.read_text().replace('"popularity"', '"sbtrec"')
    (tmp_path / name).write_text(record)
    with pytest.raises(PromptrecError, match="does not rank a catalogue"):
        open_run(tmp_path / name)


def test_words_of_a_shell(trained, histories, tmp_path, capsys):
    out = tmp_path / "best.csv"
    words = [f"run={folder_of(trained('popularity'))}", f"histories={histories}", f"out={out}"]
    main([*words, "k=2", "progress=false"])
    assert "60 recommendations for 30 users" in capsys.readouterr().out and out.exists()
    with pytest.raises(SystemExit, match="recommend needs out=PATH"):
        main(words[:2])
    with pytest.raises(SystemExit, match="Did you mean 'histories'"):
        main(["history=x"])


# Going on from a run --------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["sasrec", "mibert"])
def test_training_goes_on_from_a_run_on_data_that_grew(model, trained, tmp_path):
    before = trained(model)
    grown = write_shop(tmp_path / "grown", 24, n_users=40)
    given = {"dataset": str(grown), "model": model, "preset": "tiny", "candidates": "uniform-5"}
    if model == "mibert":
        given |= {"text_titles": True}
    given |= {"out_dir": str(tmp_path / "runs")}
    run = configure(**given, start=str(folder_of(before)))
    plain = configure(**given)
    assert run.name != plain.name and run.config["start"].startswith(f"{folder_of(before).name} ")
    data = prepare(run)
    after = execute(run, data)
    again = restore(run, data).score(data.split.histories("test"))
    np.testing.assert_allclose(
        again, after.model.score(data.split.histories("test")), rtol=1e-5, atol=1e-6
    )
    assert run.config == finished_runs(run.out_dir, folders=[grown])[0].config
    first = execute(plain, data).curves["loss"].iloc[0]
    assert after.curves["loss"].iloc[0] != first


def test_a_teacher_teaches_once(shop, tmp_path):
    "A run that goes on from one with a teacher begins with its titles as they are."
    given = {"dataset": str(shop), "preset": "tiny", "candidates": "uniform-5"}
    given |= {"out_dir": str(tmp_path)}
    sasrec = configure(model="sasrec", **given)
    execute(sasrec, prepare(sasrec))
    taught = configure(model="mibert", teacher="sasrec", **given)
    before = execute(taught, prepare(taught))
    start = str(folder_of(before))
    more = configure(
        model="mibert", teacher="sasrec", start=start, lr=1e-12, title_lr=1e-12, **given
    )
    after = execute(more, prepare(more)).model
    np.testing.assert_allclose(
        after.net.titles.weight.detach(), before.model.net.titles.weight.detach(), atol=1e-5
    )


def test_what_cannot_go_on_says_so(trained, shop, tmp_path):
    given = {"dataset": str(shop), "out_dir": str(tmp_path)}
    start = str(folder_of(trained("popularity")))
    with pytest.raises(PromptrecError, match="fitted anew each time"):
        configure(model="popularity", start=start, **given)
    with pytest.raises(PromptrecError, match="there is no trained model in"):
        configure(model="sasrec", start=str(tmp_path / "nothing"), **given)
    assert configure(model="sbtrec", start="text", dataset="llara-movielens").start is None
