"Paper A's model reading by statement: whole runs, with any encoder, and going on where it stopped."

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
)

from promptrec.core import PromptrecError
from promptrec.experiments.parameters import configure
from promptrec.experiments.records import read_record
from promptrec.experiments.run import execute, prepare, restore, train
from promptrec.mibert.encoder import load_tokenizer

STATEMENTS = {"model": "mibert", "preset": "tiny", "reading": "statements", "balanced": True}
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 48}


def small_run(own, out_dir, **given):
    "A run by statements on a folder of data, at its smallest."
    given = {"candidates": "uniform-5", "layers": 2, **STATEMENTS, **given}
    return configure(dataset=str(own), out_dir=str(out_dir), **given)


def test_a_run_by_statements_goes_on_where_it_was_interrupted(own, tmp_path, interrupted_at):
    def run(folder, resume=False):
        run = small_run(own, tmp_path / folder, epochs=3, batch_size=8, resume=resume)
        model, curves, _ = train(run, prepare(run))
        return [w.clone() for w in model.net.state_dict().values()], curves

    whole, curves = run("whole")
    with interrupted_at(1, 1):
        run("stopped")
    again, resumed = run("stopped", resume=True)
    assert all(map(torch.equal, whole, again))
    assert curves["loss"].tolist() == resumed["loss"].tolist()


def test_a_record_has_probes_and_a_restored_model_its_scores(own, tmp_path):
    run = small_run(own, tmp_path, epochs=1)
    data = prepare(run)
    result = execute(run, data)
    probes = read_record(result.path)["probes"]
    assert list(probes) == [
        *(f"without {branch}" for branch in ("main", "short", "long")),
        *("random routing", "last item alone", "shuffled", "mixed ratings"),
    ]
    for found in probes.values():
        assert set(found) == {"score", "full"} and list(found["score"]) == ["hit@1"]
        for metric in found["full"].values():
            assert metric["low"] <= metric["value"] <= metric["high"]
    histories = data.split.histories("test")
    np.testing.assert_array_equal(
        restore(run, data).score(histories), result.model.score(histories)
    )


def modernbert(tokenizer):
    "A small ModernBERT that reads 2,048 tokens, from a random start."
    marks = {"bos_token_id": None, "eos_token_id": None, "local_attention": 8}
    marks |= {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
    marks |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    return ModernBertModel(ModernBertConfig(**SIZES, **marks, max_position_embeddings=2048))


@pytest.mark.parametrize("reading", ["tokens", "statements"])
@pytest.mark.parametrize("name", ["bert", "modernbert", "mpnet"])
def test_encoders_of_the_bert_family_train(name, reading, own, tmp_path):
    tokenizer = load_tokenizer("minilm-l6")
    words = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    if name == "bert":
        model = BertModel(BertConfig(**SIZES, **words), add_pooling_layer=False)
    elif name == "mpnet":
        model = MPNetModel(MPNetConfig(**SIZES, **words), add_pooling_layer=False)
    else:
        model = modernbert(tokenizer)
    folder = tmp_path / name
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    given = {"backbone": str(folder), "layers": 3, "epochs": 6, "reading": reading}
    run = small_run(own, tmp_path / "runs", **given, lr=3e-3, precision="no")
    model, curves, _ = train(run, prepare(run))
    assert np.isfinite(curves["loss"]).all()
    if reading == "statements":  # ask for enough to learn from so few users
        assert curves["loss"].iloc[-1] < curves["loss"].iloc[0]
    # what comes after a history, or is padded beside it, changes nothing of its scores
    histories = prepare(run).split.histories("test")[:4]
    together = model.score(histories)
    alone = np.concatenate([model.score(histories[[b]]) for b in range(4)])
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_a_long_context_encoder_reads_whole_histories(own, tmp_path):
    g = np.random.default_rng(0)
    rows = [
        (f"reader {user}", f"b{book}", time)
        for user in range(3)
        for time, book in enumerate(g.integers(30, size=270))
    ]
    table = pd.DataFrame(rows, columns=["user", "item", "timestamp"])
    table.to_csv(own / "interactions.csv", index=False)
    tokenizer = load_tokenizer("minilm-l6")
    for part in (modernbert(tokenizer), tokenizer):
        part.save_pretrained(tmp_path / "modernbert")
    given = {"backbone": str(tmp_path / "modernbert"), "layers": 2, "max_tokens": 2048}
    run = small_run(own, tmp_path / "runs", **given, reading="tokens", repeats="keep", batch_size=2)
    data = prepare(run)
    model, curves, _ = train(run, data)
    read = model.input.to_score(data.split.histories("test"), 4096)
    lengths = np.concatenate([batch["attention_mask"].sum(1) for _, batch in read])
    assert 1900 < lengths.min() and lengths.max() <= 2048
    assert np.isfinite(curves["loss"]).all()
    first = data.split.histories("test")[[0]].last(150)
    assert not np.array_equal(model.score(first), model.score(first.last(149)))  # the oldest counts


def test_titles_can_start_with_a_teachers_vectors(own, tmp_path):
    taught = small_run(own, tmp_path, epochs=1, teacher="sasrec")
    data = prepare(taught)
    with pytest.raises(PromptrecError, match="teacher=sasrec must be trained first"):
        train(taught, data)
    asked = {"dataset": str(own), "candidates": "uniform-5", "out_dir": str(tmp_path)}
    execute(configure(model="sasrec", preset="tiny", **asked), data)
    execute(configure(model="popularity", preset="tiny", **asked), data)
    record = execute(taught, data).record
    assert record["config"]["settings"]["teacher"] == "sasrec"
    alone = execute(small_run(own, tmp_path, epochs=1), data).record
    assert "teacher" not in alone["config"]["settings"]
    assert record["curves"][0]["loss"] != alone["curves"][0]["loss"]
    with pytest.raises(PromptrecError, match="popularity has no vectors of items"):
        train(small_run(own, tmp_path, epochs=1, teacher="popularity"), data)
