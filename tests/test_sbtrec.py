"""Paper B's models as runs: a record with every protocol, and the trained model read back; its
figures drawn from records alone.
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

from promptrec.core import PromptrecError, rng, seed_everything
from promptrec.experiments.grid import GRID
from promptrec.experiments.parameters import configure
from promptrec.experiments.registry import MODELS, pick_preset
from promptrec.experiments.run import execute, prepare, restore
from promptrec.sbtrec import language_model
from promptrec.sbtrec import model as sbtrec_model
from promptrec.sbtrec.language_model import load_llm
from promptrec.sbtrec.model import PromptBatches, SbtRec
from promptrec.training import adapters
from promptrec.training.kernels import seed_dropout, use_kernels


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
        "candidates shuffled",
        "titles alone",
        "noise for tokens",
        "no words",
        "another user's token",
        "the target's own token",
    ]
    assert all(len(x) == 4 for x in hit.values())
    assert compare_probes(hit).loc["as it is", "difference"] == 0
    # the probes leave the model as it was
    assert "tokens" not in vars(net) and model.prompts.behaviour == "sequence"
    again = probe_hits(model, h, items)
    assert np.array_equal(again["noise for tokens"], hit["noise for tokens"])
    curve = noise_curve({"sbtrec": model}, h, items, shares=(0, 0.5), draws=2)
    assert curve["hit@1"].iloc[0] == hit["as it is"].mean() and len(curve) == 3
    assert planted_cases({"sbtrec": model}, h, items)["kept"].between(0, 1).all()
    histories, target = sample_interactions(data.dataset, 200, 10)
    for kind in (tokens_and_titles, tokens_before_training):
        assert 0 <= separation(*kind(model, histories, target))["gap"] <= 1


@pytest.fixture(scope="module")
def trained_data(llm, films):
    "A run's data and settings for models that are built by hand."
    run = configure(
        dataset=films, model="sbtrec", preset="tiny", split="users", candidates="uniform-4", llm=llm
    )
    return prepare(run), run.settings


def built(trained_data, variant="sbtrec", **changes):
    "A model, its adapters and codebooks not zero."
    data, settings = trained_data
    seed_everything(0)
    model = SbtRec(data.dataset, replace(settings, **SbtRec.variants[variant], **changes))
    for name, p in model.net.named_parameters():
        if "lora_B" in name or "codebooks" in name:
            torch.nn.init.normal_(p, std=0.1)
    return model


def one_step(model, trained_data, autocast=False):
    "Loss and gradients of a training step, in float32, by name."
    split, settings = trained_data[0].split, model.settings
    batches = PromptBatches(split, model.prompts, model.text, settings, 8, 1, 0)
    x = batches.collate(batches.plan(0)[0] % len(batches), rng(0))
    seed_dropout(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss, _ = model.net.train()(x)
    loss.backward()
    net = model.net
    found = {n: p.grad.float() for n, p in net.named_parameters() if p.grad is not None}
    assert len(found) == sum(p.requires_grad for p in net.parameters())
    return found | {"loss": loss.detach().float()}


def furthest(a, b):
    "The largest difference, as a share of each tensor's largest number."
    assert list(a) == list(b)
    return max(((a[n] - b[n]).abs().max() / a[n].abs().max()).item() for n in a)


@pytest.mark.parametrize("variant", ["sbtrec", "llara", "tallrec"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_step_is_that_of_plain_peft(variant, dropout, trained_data, monkeypatch):
    fused = one_step(built(trained_data, variant, dropout=dropout), trained_data)
    again = one_step(built(trained_data, variant, dropout=dropout), trained_data)
    assert furthest(fused, again) == 0
    # peft's own layers and SDPA, with the same masks of dropout
    monkeypatch.setattr(adapters, "fuse_layers", use_kernels)
    monkeypatch.setattr(sbtrec_model, "tile_attention", lambda lm: None)
    plain = one_step(built(trained_data, variant, dropout=dropout), trained_data)
    assert furthest(plain, fused) < 2e-5
    assert abs(plain["loss"] - fused["loss"]) < 1e-5 * plain["loss"]


@pytest.mark.parametrize("half, autocast", [(False, False), (False, True), (True, True)])
def test_recomputing_changes_nothing(half, autocast, trained_data):
    steps = [
        one_step(
            built(trained_data, dropout=0.1, half_precision=half, recompute=recompute),
            trained_data,
            autocast,
        )
        for recompute in (False, True)
    ]
    assert furthest(*steps) == 0


def test_precisions_agree(trained_data):
    exact = one_step(built(trained_data), trained_data)
    for half in (False, True):
        low = one_step(built(trained_data, half_precision=half), trained_data, True)
        assert abs(low["loss"] - exact["loss"]) < 0.01 * exact["loss"]
        assert all(torch.isfinite(value).all() for value in low.values())


# A language model in four bits ------------------------------------------------------------------


class Packed(nn.Linear):
    "Stands in for a layer in four bits: its weights are bytes, and floats for a product alone."

    def __init__(self, layer):
        super().__init__(layer.in_features, layer.out_features, bias=False)
        self.scale = layer.weight.detach().float().abs().amax(1, keepdim=True) / 7.5
        level = (layer.weight.detach().float() / self.scale + 7.5).round().byte()
        self.weight = nn.Parameter(level[:, ::2] * 16 + level[:, 1::2], requires_grad=False)

    def floats(self):
        level = torch.stack([self.weight // 16, self.weight % 16], -1).flatten(1)
        return (level - 7.5) * self.scale

    def forward(self, x):
        return nn.functional.linear(x, self.floats().to(x.dtype))


def packed_llm(kept_packed):
    "As `load_llm`, the linear layers of the blocks in sixteen levels: packed, or again as floats."

    def load(name, layers, dtype, data_dir, four_bit):
        llm, tokenizer = load_llm(name, layers, dtype, data_dir)
        for block in llm.model.layers:
            for part in (block.self_attn, block.mlp):
                for layer_name, layer in list(part.named_children()):
                    if type(layer) is nn.Linear and kept_packed:
                        setattr(part, layer_name, Packed(layer))
                    elif type(layer) is nn.Linear:
                        layer.weight.data = Packed(layer).floats().to(dtype)
        return llm, tokenizer

    return load


@pytest.mark.parametrize("recompute", [False, True])
def test_a_packed_language_model_trains_as_its_floats_do(recompute, trained_data, monkeypatch):
    steps = []
    for kept_packed in (True, False):
        monkeypatch.setattr(sbtrec_model, "load_llm", packed_llm(kept_packed))
        model = built(trained_data, dropout=0.0, recompute=recompute)
        kinds = {p.dtype for p in model.net.parameters()}
        assert (torch.uint8 in kinds) == kept_packed
        steps.append(one_step(model, trained_data))
    assert furthest(*steps) < 2e-5


def test_the_preset_for_a_small_gpu_says_what_it_lacks(llm, films, tmp_path, monkeypatch):
    given = {"dataset": films, "model": "tallrec", "split": "users", "candidates": "uniform-4"}
    run = configure(**given, preset="small-gpu", llm=llm, out_dir=str(tmp_path))
    assert (run.settings.four_bit, run.loop.accumulate) == (True, 8)
    data = prepare(run)
    monkeypatch.setattr(language_model.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PromptrecError, match="pip install bitsandbytes"):
        execute(run, data)
    monkeypatch.setattr(language_model.importlib.util, "find_spec", lambda name: name)
    cpu = SimpleNamespace(device=torch.device("cpu"))
    monkeypatch.setattr(language_model, "this_process", lambda: cpu)
    with pytest.raises(PromptrecError, match="needs a GPU, and this process has the device cpu"):
        execute(run, data)


def test_nothing_picks_the_small_gpu_by_itself(monkeypatch):
    for gpu in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        assert pick_preset("auto") == ("paper" if gpu else "quick")
    for model in SbtRec.variants:
        for preset in ("paper", "best", "quick", "tiny"):
            assert not configure(model=model, preset=preset).settings.four_bit
    assert not any(given.get("preset") == "small-gpu" for rows in GRID.values() for given in rows)


def test_adapters_are_files_of_peft(trained_data, llm, tmp_path):
    model = built(trained_data)
    model.save(tmp_path)
    saved = load_file(tmp_path / "adapters" / "adapter_model.safetensors")
    own = {n.removeprefix("llm."): p for n, p in model.net.named_parameters() if "lora" in n}
    assert {n.replace(".default", "") for n in own} == set(saved)
    for name, value in own.items():
        assert torch.equal(saved[name.replace(".default", "")], value)
    plain = PeftModel.from_pretrained(load_llm(llm)[0], tmp_path / "adapters").eval()
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(
            plain(ids).logits, model.net.llm.eval()(ids).logits, rtol=1e-5, atol=1e-5
        )


def test_longer_padding_changes_no_score(trained_data, monkeypatch):
    data, model = trained_data[0], built(trained_data)
    h, items = data.split.histories("test"), data.candidates["test"].items
    scores = model.score(h, items)
    monkeypatch.setattr("promptrec.sbtrec.prompts.rounded_length", lambda n: n + 7)
    np.testing.assert_allclose(model.score(h, items), scores, rtol=1e-5, atol=1e-5)
