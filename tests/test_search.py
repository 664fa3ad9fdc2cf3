"""Searches on validation: equal, resumable, blind to the test part."""

import json

import pytest

from promptrec.core import PromptrecError
from promptrec.experiments import run as run_module
from promptrec.experiments import search as search_module
from promptrec.experiments.parameters import configure
from promptrec.experiments.run import validation
from promptrec.experiments.search import SPACES, chosen, search, searches, trials
from promptrec.reproduction.rows import read_results
from promptrec.training.loop import Diverged


def found_by(tmp_path, own, n=3, model="ease", candidates="uniform-5"):
    return search(
        str(own),
        model,
        n,
        "tiny",
        records=tmp_path / "records",
        out_dir=tmp_path / "runs",
        candidates=candidates,
    )


def without_seconds(found):
    "The trials of a search but for the time that they took."
    return [{k: v for k, v in t.items() if k != "seconds"} for t in found["trials"]]


def test_an_interrupted_search_ends_as_an_uninterrupted_one(own, tmp_path, monkeypatch):
    whole = found_by(tmp_path / "whole", own, 4, "gru4rec")
    epochs = []

    def interrupted(*args, **more):
        validate = validation(*args, **more)

        def stopped():
            epochs.append(1)
            if len(epochs) == 3:
                raise KeyboardInterrupt
            return validate()

        return stopped

    monkeypatch.setattr(run_module, "validation", interrupted)
    with pytest.raises(KeyboardInterrupt):
        found_by(tmp_path, own, 4, "gru4rec")
    [path] = (tmp_path / "records").rglob("search-*.json")
    assert len(json.loads(path.read_text())["trials"]) == 2
    again = found_by(tmp_path, own, 4, "gru4rec")
    assert without_seconds(again) == without_seconds(whole)
    assert again == json.loads(path.read_text())


def test_the_test_part_is_not_looked_at(own, tmp_path, monkeypatch):
    parts, usual = [], run_module.evaluate
    monkeypatch.setattr(
        run_module,
        "evaluate",
        lambda model, split, part, *rest: parts.append(part) or usual(model, split, part, *rest),
    )
    found_by(tmp_path, own, 2, "sasrec")
    assert set(parts) == {"valid"}


def test_a_trial_that_breaks_counts_and_is_not_chosen(own, tmp_path, monkeypatch):
    usual = search_module.train

    def train(run, data, progress):
        if run.settings.regularisation == SPACES["ease"]["regularisation"][0]:
            raise Diverged("The loss is not finite")
        return usual(run, data, progress)

    monkeypatch.setattr(search_module, "train", train)
    found = found_by(tmp_path, own, 7)
    failed = [t["failed"] for t in found["trials"] if "failed" in t]
    assert len(found["trials"]) == 7 and failed == ["The loss is not finite"]
    assert chosen(found, 7)["tuned"] == 7
    assert searches(tmp_path / "records")["trials"].tolist() == [7]
    assert chosen(found, 9)["tuned"] == 9  # the space has no more


def test_what_the_machine_lacks_stops_the_search(own, tmp_path, monkeypatch):
    def train(run, data, progress):
        raise PromptrecError("The device has too little memory")

    monkeypatch.setattr(search_module, "train", train)
    with pytest.raises(PromptrecError, match="too little memory"):
        found_by(tmp_path, own)
    monkeypatch.undo()
    assert not list((tmp_path / "records").rglob("search-*"))


def test_more_trials_do_not_change_what_fewer_chose(own, tmp_path):
    few = found_by(tmp_path, own, 3, "itemknn")
    many = found_by(tmp_path, own, 6, "itemknn")
    assert chosen(many, 3) == chosen(few, 3) and chosen(many, 6)["tuned"] == 6
    with pytest.raises(PromptrecError, match="3 of 6 trials"):
        chosen(few, 6)


def test_a_search_of_another_space_is_not_gone_on_with(own, tmp_path, monkeypatch):
    found_by(tmp_path, own)
    monkeypatch.setitem(SPACES, "ease", {"regularisation": (1.0, 2.0)})
    with pytest.raises(PromptrecError, match="another space"):
        found_by(tmp_path, own)


@pytest.mark.parametrize("model", SPACES)
def test_as_many_trials_for_each_model(model):
    n = len(trials(model, 7))
    assert n == 7 and len({json.dumps(t, sort_keys=True) for t in trials(model, 7)}) == 7
    for given in trials(model, 12):
        configure(model=model, preset="paper", **given)


def test_the_notebook_tunes_and_runs_what_was_best(notebook, tmp_path):
    notebook(
        "tune",
        model="itemknn,ease",
        preset="tiny",
        trials=3,
        seeds=1,
        records=tmp_path / "records",
        out_dir=tmp_path / "runs",
    )
    assert sorted(read_results(tmp_path / "records", "a").runs) == [
        ("ml-100k", m, "tiny-tuned-3") for m in ("ease", "itemknn")
    ]
    assert searches(tmp_path / "records")["model"].tolist() == ["ease", "itemknn"]
    with pytest.raises(PromptrecError, match="Known: mibert"):
        notebook("tune", model="popularity", records=tmp_path / "records", out_dir=tmp_path)
