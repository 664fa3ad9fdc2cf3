"""Paper B's models as runs: a record with every protocol, and the trained model read back; its
figures drawn from records alone.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from promptrec.experiments.parameters import configure
from promptrec.experiments.registry import MODELS
from promptrec.experiments.run import execute, prepare, restore
from promptrec.sbtrec.language_model import llm_path
from promptrec.sbtrec.model import SbtRec


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    "A made-up language model with SmolLM2's words."
    folder = tmp_path_factory.mktemp("llm")
    words = AutoTokenizer.from_pretrained(llm_path("smollm2-135m"))
    words.save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=1024,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
        )
    ).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    "60 users of 12 films each, of 200 in ten genres."
    folder, g = tmp_path_factory.mktemp("films"), np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "user": np.repeat(range(60), 12),
            "item": np.concatenate([g.permutation(200)[:12] for _ in range(60)]),
            "rating": 5,
            "timestamp": range(720),
        }
    )
    rows.to_csv(folder / "interactions.csv", index=False)
    genres = [
        "Drama",
        "Comedy",
        "Action",
        "Thriller",
        "Romance",
        "Adventure",
        "Crime",
        "Western",
        "War",
        "Horror",
    ]
    pd.DataFrame(
        {
            "item": range(200),
            "title": [f"Film {i}" for i in range(200)],
            "genres": [genres[i % 10] for i in range(200)],
        }
    ).to_csv(folder / "items.csv", index=False)
    return str(folder)


@pytest.mark.parametrize("model", ["sbtrec", "llara", "tallrec", "llama"])
def test_a_run_writes_its_record_and_its_model_comes_back(model, llm, films, tmp_path):
    run = configure(
        dataset=films,
        model=model,
        preset="tiny",
        split="users",
        candidates="uniform-4",
        max_history=10,
        llm=llm,
        layers=1,
        out_dir=str(tmp_path),
    )
    data = prepare(run)
    result = execute(run, data)
    assert (
        set(result.record["metrics"]["test"]) >= {"score", "generate", "constrained"}
        and len(result.ranks) == 6
    )
    assert (model == "llama") == (len(result.curves) == 0)
    h, items = data.split.histories("test"), data.candidates["test"].items
    assert np.array_equal(restore(run, data).score(h, items), result.model.score(h, items))


def test_every_variant_has_presets_unless_untrained_and_its_own_name():
    presets = ("paper", "quick", "tiny")
    runs = [configure(model=m, preset=p) for m in SbtRec.variants for p in presets]
    assert len({r.name for r in runs}) == len(runs) == 3 * len(SbtRec.variants)
    assert {r.dataset for r in runs} == {"llara-movielens"}
    without = {name for name in SbtRec.variants if MODELS[name].presets is None}
    assert without == set(SbtRec.untrained) == {"llama"}


def test_figures_are_drawn_from_records_alone(notebook, root, tmp_path):
    notebook("figures", records=root / "figures" / "records", out_dir=tmp_path)
    assert {p.name for p in tmp_path.iterdir()} >= {"figure-2.csv", "figure-4.csv", "figure-5.csv"}


def test_trained_models_are_asked_again(llm, films, tmp_path):
    from promptrec.reproduction.probes import compare_probes, noise_curve, planted_cases, probe_hits
    from promptrec.reproduction.token_space import (
        sample_interactions,
        separation,
        tokens_and_titles,
        tokens_before_training,
    )

    run = configure(
        dataset=films,
        model="sbtrec",
        preset="tiny",
        split="users",
        candidates="uniform-20",
        max_history=10,
        llm=llm,
        layers=1,
        out_dir=str(tmp_path),
    )
    data = prepare(run)
    model = execute(run, data).model
    few = slice(0, 4)
    h, items = data.split.histories("test")[few], data.candidates["test"].items[few]
    hit, net = probe_hits(model, h, items), model.net
    assert list(hit) == [
        "as it is",
        "random order",
        "no history",
        "no words",
        "titles alone",
        "noise for a token",
    ]
    assert all(len(x) == 4 for x in hit.values())
    assert compare_probes(hit).loc["as it is", "difference"] == 0
    # the probes leave the model as it was
    assert "tokens" not in vars(net) and model.prompts.behaviour == "sequence"
    again = probe_hits(model, h, items)
    assert np.array_equal(again["noise for a token"], hit["noise for a token"])
    curve = noise_curve({"sbtrec": model}, h, items, shares=(0, 0.5), draws=2)
    assert curve["hit@1"].iloc[0] == hit["as it is"].mean() and len(curve) == 3
    assert planted_cases({"sbtrec": model}, h, items)["kept"].between(0, 1).all()
    histories, target = sample_interactions(data.dataset, 200, 10)
    for kind in (tokens_and_titles, tokens_before_training):
        assert 0 <= separation(*kind(model, histories, target))["gap"] <= 1
