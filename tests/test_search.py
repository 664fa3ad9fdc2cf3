"""Searches on validation: equal, resumable, blind to the test part."""

import json
import multiprocessing
import os
import signal
import sys
import time

import pandas as pd
import pytest

from promptrec.core import PromptrecError
from promptrec.experiments import run as run_module
from promptrec.experiments import search as search_module
from promptrec.experiments.parameters import configure
from promptrec.experiments.run import validation
from promptrec.experiments.search import SPACES, STARTUP, chosen, search, searches, trials
from promptrec.reproduction.rows import read_results
from promptrec.training.loop import Diverged


def found_by(tmp_path, own, n=3, model="ease", candidates="uniform-5", sampler="design"):
    return search(
        str(own),
        model,
        n,
        "tiny",
        records=tmp_path / "records",
        out_dir=tmp_path / "runs",
        candidates=candidates,
        sampler=sampler,
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

    def train(run, data, progress, stop, check):
        if run.settings.regularisation == SPACES["ease"]["regularisation"][0]:
            raise Diverged("The loss is not finite")
        return usual(run, data, progress, stop)

    monkeypatch.setattr(search_module, "train", train)
    found = found_by(tmp_path, own, 7)
    failed = [t["failed"] for t in found["trials"] if "failed" in t]
    assert len(found["trials"]) == 7 and failed == ["The loss is not finite"]
    assert chosen(found, 7)["tuned"] == 7
    assert searches(tmp_path / "records")["trials"].tolist() == [7]
    assert chosen(found, 9)["tuned"] == 9  # the space has no more


def test_what_the_machine_lacks_stops_the_search(own, tmp_path, monkeypatch):
    def train(run, data, progress, stop, check):
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


# By TPE ---------------------------------------------------------------------------------------


def settings_of(found):
    return [t["settings"] for t in found["trials"]]


def journals(tmp_path):
    "Optuna's journals under a folder of runs."
    return sorted((tmp_path / "runs").rglob("optuna.journal"))


@pytest.fixture
def curves(monkeypatch):
    """Training without training: each run has 20 epochs, their metric is `of(run, epoch)`. Returns
    the names of the runs made, and how many epochs each had.
    """
    made = []

    def use(of):
        def train(run, data, progress, stop, check):
            rows = []
            while len(rows) < 20 and not (stop and stop(rows)):
                epoch = len(rows) + 1
                rows.append({"epoch": epoch, run.monitor: of(run, epoch)})
            made.append((run.name, len(rows)))
            return None, pd.DataFrame(rows), 0.1

        monkeypatch.setattr(search_module, "train", train)
        return made

    return use


def test_an_unknown_sampler(own, tmp_path):
    with pytest.raises(PromptrecError, match="Unknown sampler 'tpa'.*Known: design, tpe"):
        found_by(tmp_path, own, sampler="tpa")


def test_without_optuna(own, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(PromptrecError, match=r"pip install \"promptrec\[tune\]\""):
        found_by(tmp_path, own, sampler="tpe")
    assert found_by(tmp_path, own, sampler="design")["trials"]
    assert not journals(tmp_path)


def test_the_same_trials_each_time_and_the_designs_first(own, tmp_path):
    design = found_by(tmp_path, own, STARTUP, "itemknn")
    found = found_by(tmp_path, own, 9, "itemknn", sampler="tpe")
    again = found_by(tmp_path / "again", own, 9, "itemknn", sampler="tpe")
    assert without_seconds(again) == without_seconds(found)
    for by_design, by_tpe in zip(design["trials"], found["trials"]):
        assert {name: by_tpe[name] for name in without_seconds(design)[0]} == {
            name: by_design[name] for name in without_seconds(design)[0]
        } | {"settings": by_tpe["settings"]}
    assert settings_of(found)[:STARTUP] == settings_of(design) == trials("itemknn", STARTUP)
    assert settings_of(found) != trials("itemknn", 9)
    names = {configure(model="itemknn", **settings).name for settings in settings_of(found)}
    assert len(names) == 9
    assert sorted(p.name for p in (tmp_path / "records").rglob("*.json")) == [
        "search-itemknn-tiny-tpe.json",
        "search-itemknn-tiny.json",
    ]


def test_a_space_is_searched_to_its_end(own, tmp_path):
    "Six runs: the model's own settings are among the six values."
    found = found_by(tmp_path, own, 9, sampler="tpe")
    assert len(found["trials"]) == len(SPACES["ease"]["regularisation"])
    assert chosen(found, 9)["sampler"] == "tpe"
    with pytest.raises(PromptrecError, match="5 of 9 trials"):
        chosen(found | {"trials": found["trials"][:5]}, 9)


def test_tpe_goes_on_and_the_best_is_found(own, tmp_path, curves):
    "The metric is the number of the run's layers and dropouts that are lowest."

    def of(run, epoch):
        s = run.settings
        return 0.1 * ((s.layers == 1) + (s.dropout == 0) + (s.dropout_embed == 0) + (s.d == 64))

    made = curves(of)
    few = found_by(tmp_path, own, 6, "gru4rec", sampler="tpe")
    assert len(made) == 6
    more = found_by(tmp_path, own, 24, "gru4rec", sampler="tpe")
    assert more["trials"][:6] == few["trials"] and chosen(more, 6) == chosen(few, 6)
    assert len(made) == len({name for name, _ in made}) == 24
    assert max(t["value"] for t in more["trials"]) == 0.4
    table = searches(tmp_path / "records")
    assert table[["sampler", "trials"]].values.tolist() == [["tpe", 24]]


def test_a_pruned_trial_stops_early_and_is_recorded_so(own, tmp_path, curves):
    def of(run, epoch):
        return 0.01 * epoch * (1.0 if run.settings.layers == 1 else 0.5)

    made = curves(of)
    found = found_by(tmp_path, own, 12, "gru4rec", sampler="tpe")
    pruned = [t for t in found["trials"] if t["state"] == "pruned"]
    patience = configure(model="gru4rec", preset="tiny").loop.patience
    assert pruned and all(t["settings"]["layers"] == 2 for t in pruned)
    assert all(t["epochs"] == len(t["values"]) == patience for t in pruned)
    assert {t["epochs"] for t in found["trials"] if t["state"] == "complete"} == {20}
    assert [t["state"] for t in found["trials"][:STARTUP]] == ["complete"] * STARTUP
    assert [epochs for _, epochs in made] == [t["epochs"] for t in found["trials"]]
    assert {t["budget"] for t in found["trials"]} == {1}  # of the preset
    assert searches(tmp_path / "records")["pruned"].tolist() == [len(pruned)]
    best = max(found["trials"], key=lambda t: t["value"])
    best["state"] = "pruned"
    assert chosen(found, 12) != best["settings"] | {"tuned": 12, "sampler": "tpe"}


def test_a_loss_that_overflows_by_tpe(own, tmp_path, curves):
    def of(run, epoch):
        if run.loop.lr > 1e-3 and epoch == 2:
            raise Diverged("The loss is not finite")
        return 0.1

    curves(of)
    found = found_by(tmp_path, own, 8, "gru4rec", sampler="tpe")
    failed = [t for t in found["trials"] if t["state"] == "failed"]
    assert failed and all(t["failed"] == "The loss is not finite" for t in failed)
    assert all(t["values"] == [0.1] and "value" not in t for t in failed)
    assert len(found["trials"]) == 8 and chosen(found, 8)["tuned"] == 8


def test_a_journal_that_is_lost_or_broken(own, tmp_path):
    whole = found_by(tmp_path / "whole", own, 8, "itemknn", sampler="tpe")
    found = found_by(tmp_path, own, 6, "itemknn", sampler="tpe")
    [journal] = journals(tmp_path)
    journal.write_text("half a line\n" * 3)
    with pytest.raises(PromptrecError, match="no readable journal of Optuna.*Delete it") as error:
        found_by(tmp_path, own, 8, "itemknn", sampler="tpe")
    assert str(journal) in str(error.value)
    journal.unlink()
    more = found_by(tmp_path, own, 8, "itemknn", sampler="tpe")
    assert more["trials"][:6] == found["trials"]
    assert without_seconds(more) == without_seconds(whole)
    [path] = (tmp_path / "records").rglob("search-*.json")
    path.unlink()
    anew = found_by(tmp_path, own, 2, "itemknn", sampler="tpe")
    assert len(anew["trials"]) == 2 and len(journals(tmp_path)) == 2


# Several processes ----------------------------------------------------------------------------


def in_processes(n, target, *args):
    "Run `target` in `n` processes at once, which begin as this one is; returns them, ended."
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=target, args=args) for _ in range(n)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return processes


def test_two_processes_share_a_search(own, tmp_path, curves):
    log = tmp_path / "log"

    def of(run, epoch):
        if epoch == 1:
            with log.open("a") as file:
                file.write(f"{os.getpid()} {run.name}\n")
        time.sleep(0.01)
        return 0.01 * (run.settings.d + epoch)

    curves(of)
    processes = in_processes(2, found_by, tmp_path, own, 12, "gru4rec", "uniform-5", "tpe")
    assert [p.exitcode for p in processes] == [0, 0]
    lines = [line.split() for line in log.read_text().splitlines()]
    assert len(lines) == len({name for _, name in lines}) == 12
    assert len({pid for pid, _ in lines}) == 2
    [path] = (tmp_path / "records").rglob("search-*.json")
    found = json.loads(path.read_text())
    assert len(found["trials"]) == 12 and "open" not in {t["state"] for t in found["trials"]}
    assert settings_of(found)[:STARTUP] == trials("gru4rec", STARTUP)
    assert found == found_by(tmp_path, own, 12, "gru4rec", sampler="tpe")


def test_the_trial_of_a_killed_process_is_taken_up_again(own, tmp_path, monkeypatch):
    whole = found_by(tmp_path / "whole", own, 7, "gru4rec", sampler="tpe")

    def killed():
        usual, seen = search_module._validated, []

        def validated(run, *args):
            seen.append(run.name)
            if len(seen) == 6:
                os.kill(os.getpid(), signal.SIGKILL)
            return usual(run, *args)

        monkeypatch.setattr(search_module, "_validated", validated)
        found_by(tmp_path, own, 7, "gru4rec", sampler="tpe")

    [process] = in_processes(1, killed)
    assert process.exitcode == -signal.SIGKILL
    began = time.perf_counter()
    again = found_by(tmp_path, own, 7, "gru4rec", sampler="tpe")
    assert time.perf_counter() - began < 15  # nobody waits for a lock that was left behind
    assert without_seconds(again) == without_seconds(whole)


def test_a_search_interrupted_in_a_notebook_goes_on(own, tmp_path, curves, monkeypatch):
    "What was raised is kept, as a notebook keeps it, and with it all that its frames hold."
    curves(lambda run, epoch: 0.5)
    usual, seen = search_module._validated, []

    def interrupted(run, *args):
        seen.append(run.name)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return usual(run, *args)

    monkeypatch.setattr(search_module, "_validated", interrupted)
    with pytest.raises(KeyboardInterrupt) as kept:
        found_by(tmp_path, own, 3, "gru4rec", sampler="tpe")
    found = found_by(tmp_path, own, 3, "gru4rec", sampler="tpe")
    assert [t["state"] for t in found["trials"]] == ["complete"] * 3 and kept.traceback


def test_a_trial_is_told_to_tpe_as_it_is_made():
    "Where the protocol limits histories, presets have other values."
    base = {"dataset": "llara-movielens", "model": "sasrec", "preset": "paper"}
    run = configure(**base)
    told = search_module._values_in_space(base, {})
    assert told["blocks"] == run.settings.blocks == 1 and told["d"] == run.settings.d == 64


def test_the_notebook_tunes_by_tpe(notebook, tmp_path):
    given = {"model": "itemknn", "preset": "tiny", "trials": 6, "seeds": 1, "sampler": "tpe"}
    notebook("tune", **given, records=tmp_path / "records", out_dir=tmp_path / "runs")
    assert [key[2] for key in read_results(tmp_path / "records", "a").runs] == ["tiny-tuned-6-tpe"]
    with pytest.raises(PromptrecError, match="Known: design, tpe"):
        notebook("tune", **given | {"sampler": "random"}, out_dir=tmp_path / "runs")
