"""Folders of runs: what is unknown here is left out, data that changed are said, and a trained
model is found wherever its data and its pre-trained weights lie.
"""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import BertConfig, BertModel

from promptrec.core import PromptrecError
from promptrec.experiments.grid import check_data
from promptrec.experiments.parameters import configure
from promptrec.experiments.records import leave_out, read_record, read_records, write_record
from promptrec.experiments.run import execute, finished_runs, prepare, restore
from promptrec.mibert.encoder import load_tokenizer
from promptrec.reproduction.rows import read_results

SMALL = {"preset": "tiny", "candidates": "uniform-5"}


def bert(folder, seed):
    "A made-up BERT of one layer in `folder`, with weights that `seed` draws."
    words = load_tokenizer("minilm-l6")
    words.save_pretrained(folder)
    torch.manual_seed(seed)
    size = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(words), num_hidden_layers=1, **size)
    BertModel(config).save_pretrained(folder)
    return folder


def made(run):
    "A run, made."
    return execute(run, prepare(run))


def scores(model, data):
    "What a model says of all items after the test histories."
    return model.score(data.split.histories("test"))


def like_these(folder, record, ranks, **config):
    "Write a record like another into a folder, with another configuration."
    changed = record["config"] | config
    named = {name: changed[name] for name in ("dataset", "model")}
    return write_record(record | named | {"config": changed}, ranks, folder)


# What is unknown here --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def popular(tmp_path_factory):
    "The result of a run of popularity on ml-100k, and a folder with its record."
    out_dir = tmp_path_factory.mktemp("runs")
    return made(configure(dataset="ml-100k", model="popularity", out_dir=str(out_dir))), out_dir


UNKNOWN = {
    "model": {"model": "model-of-next-year"},
    "data set": {"dataset": "shop-of-a-friend"},
    "preset": {"preset": "gigantic"},
    "split": {"split": "by-moon"},
    "parameter": {"gravity": 9.81},
    "setting": {"settings": {"gravity": 9.81}},
    "own model": {"model": "mymodel", "model_sha256": "0" * 64},
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_a_record_of_what_is_unknown_here_is_left_out_and_said_once(
    popular, tmp_path, capsys, what
):
    result, source = popular
    out_dir = tmp_path / "runs"
    shutil.copytree(source, out_dir)
    odd = like_these(out_dir, result.record, result.ranks, **UNKNOWN[what])
    odd.with_suffix("").mkdir()
    assert [run.model for run in finished_runs(out_dir)] == ["popularity"]
    said = capsys.readouterr().out
    assert said.count(odd.name) == 1
    assert [run.model for run in finished_runs(out_dir)] == ["popularity"]
    assert odd.name not in capsys.readouterr().out
    rows = [model for _, model, _ in read_results(out_dir, "a").runs]
    assert "popularity" in rows
    assert len(read_records(out_dir)) == 2


@pytest.mark.parametrize("text", ["", "[]", "3", '{"model": 1}', "\x00"])
def test_a_broken_record_does_not_hide_the_other_runs(popular, tmp_path, capsys, text):
    out_dir = tmp_path / "runs"
    shutil.copytree(popular[1], out_dir)
    (out_dir / "ml-100k-sasrec-seed0-00000000.json").write_text(text)
    assert [run.model for run in finished_runs(out_dir)] == ["popularity"]
    assert "ml-100k-sasrec-seed0-00000000.json" in capsys.readouterr().out
    with pytest.raises(PromptrecError, match="ml-100k-sasrec-seed0-00000000"):
        read_records(out_dir)


def test_records_of_another_version_are_left_out_of_tables_and_grids(popular, tmp_path, capsys):
    result, _ = popular
    folder = tmp_path / "records" / "ml-100k"
    write_record(result.record, result.ranks, folder)
    old = like_these(folder, result.record, result.ranks, seed=5)
    old.write_text(old.read_text().replace('"schema_version": 2', '"schema_version": 1'))
    assert len(read_results(tmp_path / "records", "a").runs) == 1
    assert len(read_records(tmp_path / "records")) == 1
    check_data([{"dataset": "ml-100k", "model": "sasrec"}], tmp_path / "records")
    assert capsys.readouterr().out.count(old.name) == 1


def test_what_is_left_out_is_said_in_one_line(tmp_path, capsys):
    leave_out(tmp_path / "a.json", f"{tmp_path / 'a.json'}: Unknown model 'x'. Known: y, z.")
    assert capsys.readouterr().out == "Left out: a.json: Unknown model 'x'.\n"


# Data that changed -----------------------------------------------------------------------------


def one_more_row(folder):
    "Change somebody's data."
    with open(folder / "interactions.csv", "a") as file:
        file.write("reader 0,b29,99\n")


def test_after_data_changed_each_advice_works(own, tmp_path):
    given = dict(SMALL, dataset=str(own), model="sasrec", out_dir=str(tmp_path / "runs"))
    before = made(configure(**given)).record
    one_more_row(own)
    run = configure(**given)
    with pytest.raises(PromptrecError, match="on other data called 'my-books'") as error:
        made(run)
    for advice in ("choose another out_dir", "delete it"):
        assert advice in str(error.value)

    other = made(configure(**given | {"out_dir": str(tmp_path / "others")})).record
    assert other["data_hash"] != before["data_hash"]
    with pytest.raises(PromptrecError, match="trained on other data than my-books holds now"):
        restore(run, prepare(run))

    run.folder.with_name(f"{run.name}.json").unlink()
    again = made(run)
    assert again.record["metrics"] == other["metrics"]
    data = prepare(run)
    assert np.array_equal(scores(restore(run, data), data), scores(again.model, data))


def test_a_checkpoint_of_other_data_is_not_gone_on_from(own, tmp_path, monkeypatch):
    given = dict(SMALL, dataset=str(own), model="sasrec", out_dir=str(tmp_path), epochs=3)
    run = configure(**given)
    with monkeypatch.context() as context:  # stopped before anything is evaluated
        context.setattr("promptrec.experiments.run.evaluate_run", None)
        with pytest.raises(TypeError):
            made(run)
    checkpoint = run.folder / "checkpoint.pt"
    assert checkpoint.is_file()
    one_more_row(own)
    resumed = configure(**given, resume=True)
    with pytest.raises(PromptrecError, match=f"{checkpoint} was begun with other data"):
        made(resumed)
    checkpoint.unlink()
    assert made(resumed).record["metrics"]["test"]


def test_a_grid_says_what_to_do_after_data_changed(own, tmp_path):
    given = dict(SMALL, dataset=str(own), model="popularity")
    runs, records = [given | {"seed": 1}], tmp_path / "records"
    result = made(configure(**given, out_dir=str(tmp_path / "runs")))
    write_record(result.record, result.ranks, records / "my-books")
    check_data(runs, records)
    one_more_row(own)
    with pytest.raises(PromptrecError, match="another folder of records and another out_dir"):
        check_data(runs, records)
    check_data(runs, tmp_path / "records-2")
    assert made(configure(**given, out_dir=str(tmp_path / "runs-2"))).record


# Where things lie ------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["popularity", "sasrec"])
def test_a_trained_model_is_found_when_its_data_have_moved_or_another_name(own, tmp_path, model):
    given = dict(SMALL, model=model, out_dir=str(tmp_path / "runs"))
    result = made(configure(**given, dataset=str(own)))
    assert str(tmp_path) not in json.dumps(result.record["config"])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for moved in (elsewhere / "my-books", elsewhere / "my-books-2026"):
        own = own.rename(moved)
        run = configure(**given, dataset=str(moved))
        data = prepare(run)
        assert np.array_equal(scores(restore(run, data), data), scores(result.model, data))
    own.rename(elsewhere / "my-books")
    [found] = finished_runs(tmp_path / "runs", elsewhere)
    assert found.name == result.path.stem
    [found] = finished_runs(tmp_path / "runs", folders=[elsewhere / "my-books"])
    data = prepare(found)
    assert np.array_equal(scores(restore(found, data), data), scores(result.model, data))
    assert finished_runs(tmp_path / "runs") == []
    other = configure(**given, dataset=str(elsewhere / "my-books"), seed=3)
    with pytest.raises(PromptrecError, match="No trained model in"):
        restore(other, prepare(other))


@pytest.mark.parametrize("model", ["mibert-pb", "morec"])
def test_a_backbone_may_move_and_be_renamed_but_not_change(own, tmp_path, model):
    first = bert(tmp_path / "a" / "bert", 0)
    given = dict(SMALL, dataset=str(own), model=model, out_dir=str(tmp_path / "runs"))
    run = configure(**given, backbone=str(first))
    result = made(run)
    assert result.record["config"]["settings"]["backbone"] == "bert"
    kept = json.loads((run.folder / "model.json").read_text())["base_weights"]
    assert result.record["base_weights"] == kept
    for moved in (tmp_path / "b" / "bert", tmp_path / "b" / "reader"):
        moved.parent.mkdir(exist_ok=True)
        first = first.rename(moved)
        again = configure(**given, backbone=str(moved))
        data = prepare(again)
        assert np.array_equal(scores(restore(again, data), data), scores(result.model, data))
    first.rename(tmp_path / "b" / "bert")
    folders = [own, tmp_path / "b" / "bert"]
    assert [r.name for r in finished_runs(tmp_path / "runs", folders=folders)] == [run.name]
    in_data_dir = configure(**given, backbone="bert", data_dir=str(tmp_path / "b"))
    assert in_data_dir.name == run.name

    other = configure(**given, backbone=str(bert(tmp_path / "c" / "bert", 1)))
    assert other.name == run.name
    with pytest.raises(PromptrecError, match="trained from other pre-trained weights"):
        restore(other, data)
    with pytest.raises(PromptrecError, match="this run on other pre-trained weights") as error:
        made(other)
    assert "choose another out_dir" in str(error.value)
    by_another_name = configure(**given, backbone=str(bert(tmp_path / "c" / "bert-2", 1)))
    with pytest.raises(PromptrecError, match="No trained model in"):
        restore(by_another_name, data)
    out_dir = str(tmp_path / "others")
    assert made(configure(**given | {"out_dir": out_dir}, backbone=str(tmp_path / "c/bert"))).record


def test_records_from_before_weights_had_hashes_are_found_by_the_backbone_s_name(own, tmp_path):
    "Older records have the path of a folder, which has moved since."
    first = bert(tmp_path / "a" / "bert", 0)
    given = dict(SMALL, dataset=str(own), model="mibert-pb", out_dir=str(tmp_path / "runs"))
    result = made(configure(**given, backbone=str(first)))
    folder = result.path.with_suffix("")
    record = read_record(result.path)
    del record["base_weights"]
    record["config"]["settings"]["backbone"] = str(first)
    older = write_record(record, pd.read_parquet(folder.with_suffix(".parquet")), tmp_path / "runs")
    about = json.loads((folder / "model.json").read_text())
    del about["base_weights"]
    (folder / "model.json").write_text(json.dumps(about))
    folder.rename(older.with_suffix(""))
    result.path.unlink()
    first.rename(tmp_path / "bert")
    [run] = finished_runs(tmp_path / "runs", folders=[own, tmp_path / "bert"])
    data = prepare(run)
    assert np.array_equal(scores(restore(run, data), data), scores(result.model, data))
