"""Numbers that only a deliberate change may change: names of runs, draws, statistics, first losses.

Where a change is meant, delete `same_numbers.json`: the tests write it anew, and fail once. A name
of a run holds a hash of all its settings, so the names pin defaults and presets. Losses are
compared to a thousandth, since machines round differently.
"""

import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest

from promptrec.core import PromptrecError, rng, sha256
from promptrec.evaluation.candidates import negatives_of, popularity_candidates, uniform_candidates
from promptrec.evaluation.split import in_random_order, leave_one_out, with_mixed_ratings
from promptrec.evaluation.stats import (
    bootstrap,
    compare,
    mcnemar_p,
    mcnemar_power,
    sign_flip,
    smallest_difference,
    smallest_hit_difference,
    wilson,
)
from promptrec.experiments.parameters import configure
from promptrec.experiments.registry import MODELS, PRESETS
from promptrec.experiments.run import prepare, train
from promptrec.sbtrec.model import PromptBatches, SbtRec
from promptrec.sbtrec.prompts import shuffled
from promptrec.testing.datasets import tastes, walks
from promptrec.training.batches import SequenceBatches
from promptrec.training.loop import length_buckets

KEPT = Path(__file__).with_name("same_numbers.json")


def names():
    "Names of the runs of each model at each preset it has, on one data set, a CPU with bfloat16."
    found = {}
    with (
        patch("torch.cuda.is_available", return_value=False),
        patch("torch.cpu._is_avx512_bf16_supported", return_value=True, create=True),
    ):
        for model in MODELS:
            found[model] = []
            for preset in PRESETS:
                try:
                    run = configure(dataset="ml-100k", model=model, preset=preset)
                except PromptrecError:  # not every model has the preset for a small GPU
                    continue
                found[model].append(run.name)
    return found


def draws():
    "Hashes of what is drawn at random."
    split = leave_one_out(walks(60))
    h = split.histories("test")
    weight = np.arange(1, split.dataset.n_items + 1)
    found = {
        "popular candidates": popularity_candidates(split, n=10).items,
        "uniform candidates": uniform_candidates(split, n=10, seed=1).items,
        "negatives": negatives_of(split, split.train_rows[:50], 3, weight, rng(0)),
        "random order": in_random_order(h).item,
        "mixed ratings": with_mixed_ratings(h).rating,
        "order of candidates": shuffled(np.arange(40).reshape(4, 10), seed=3),
        "tastes": tastes(20).item,
    }
    return {name: sha256(np.asarray(array)) for name, array in found.items()}


def statistics():
    "Statistics of made-up ranks."
    g = np.random.default_rng(0)
    one, other = g.integers(1, 101, 300), g.integers(1, 101, 300)
    d = (one <= 10) * 1.0 - (other <= 10)
    return {
        "bootstrap": bootstrap(one)["ndcg@10"],
        "compare": compare(pd.Series(one), pd.Series(other), ("recall@10",)).iloc[0].to_dict(),
        "sign flip": sign_flip(d),
        "mcnemar": float(mcnemar_p(7, 19)),
        "power": mcnemar_power(95, 0.1, 0.3),
        "least difference of hits": smallest_hit_difference(95, 0.3),
        "least difference": smallest_difference(d),
        "wilson": list(wilson(7, 95)),
    }


def plans():
    "Hashes of the batches of two epochs."
    split = leave_one_out(walks(60))
    found = {"lengths": length_buckets(np.arange(3, 53), 8, rng(0))}
    for name, given in {
        "users": {},
        "each": {"each": True},
        "pieces": {"pieces": True, "negatives": 2},
    }.items():
        batches = SequenceBatches(split, 4, 8, 0, **given)
        first = batches.collate(batches.plan(1)[0], rng(0))
        found[name] = [*batches.plan(0), *batches.plan(1), *(t.numpy() for t in first.values())]
    return {name: sha256(*map(np.asarray, arrays)) for name, arrays in found.items()}


def prompts(folder, llm):
    "Hashes of batches of paper B's prompts."
    given = {"preset": "tiny", "split": "users", "candidates": "uniform-4", "max_history": 10}
    run = configure(dataset=folder, model="sbtrec", llm=llm, **given)
    data, found = prepare(run), {}
    for users, examples in ((1, None), (1, 6), (2, 6)):
        words = {"place": "middle" if users == 1 else "last", "history_words": users == 1}
        s = replace(run.settings, users_per_list=users, examples=examples, **words)
        model = SbtRec(data.dataset, s)
        batches = PromptBatches(data.split, model.prompts, model.text, s, 4, 2, 0)
        first = batches.collate(batches.plan(1)[0], rng(0))
        arrays = [*batches.plan(0), *batches.plan(1), *(t.numpy() for t in first.values())]
        found[f"{users} a list, {examples} examples"] = sha256(*map(np.asarray, arrays))
    return found


def losses(folder, llm):
    "Losses of the first epoch of models at their smallest."
    given = {"dataset": folder, "preset": "tiny", "epochs": 1, "candidates": "uniform-4"}
    found = {}
    for model, more in {
        "mibert": {"reading": "tokens"},
        "mibert by statement": {"reading": "statements", "local_layers": 1, "layers": 2},
        "sasrec": {},
        "gru4rec": {},
        "sbtrec": {"split": "users", "max_history": 10, "llm": llm},
    }.items():
        run = configure(model=model.partition(" ")[0], **given, **more)
        found[model] = train(run, prepare(run))[1]["loss"].tolist()
    return found


def folder_of(ds, folder):
    "The path of a folder with the tables of a data set."
    users, rows = np.repeat(range(ds.n_users), np.diff(ds.offsets)), np.arange(len(ds))
    table = {"user": users, "item": ds.item, "rating": 1 + ds.item % 5, "timestamp": rows}
    pd.DataFrame(table).to_csv(folder / "interactions.csv", index=False)
    items = {"item": range(ds.n_items), "title": [f"Film {i}" for i in range(ds.n_items)]}
    pd.DataFrame(items).to_csv(folder / "items.csv", index=False)
    return str(folder)


def numbers(folder, llm):
    "All of them."
    own = folder_of(walks(60), folder)
    return {
        "names": names(),
        "draws": draws(),
        "statistics": statistics(),
        "plans": plans(),
        "prompts": prompts(own, llm),
        "losses": losses(own, llm),
    }


@pytest.fixture(scope="module")
def now(tmp_path_factory, llm):
    found = json.dumps(numbers(tmp_path_factory.mktemp("walks"), llm), indent=1)
    if not KEPT.exists():
        KEPT.write_text(found + "\n")
        pytest.fail(f"{KEPT.name} was not there and is written anew: look at what changed.")
    return json.loads(found)


def close(now, kept, tolerance):
    "Whether numbers, in lists and dicts, are as kept, each to a share of itself."
    if isinstance(kept, dict):
        return now.keys() == kept.keys() and all(
            close(now[name], kept[name], tolerance) for name in kept
        )
    if isinstance(kept, list):
        return len(now) == len(kept) and all(map(close, now, kept, [tolerance] * len(kept)))
    return now == kept or bool(np.isclose(now, kept, rtol=tolerance, atol=0, equal_nan=True))


@pytest.mark.parametrize("kind", ["names", "draws", "plans", "prompts"])
def test_what_is_drawn_and_named_is_as_it_was(kind, now):
    assert now[kind] == json.loads(KEPT.read_text())[kind]


@pytest.mark.parametrize("kind, tolerance", [("statistics", 1e-9), ("losses", 1e-3)])
def test_what_is_computed_is_as_it_was(kind, tolerance, now):
    kept = json.loads(KEPT.read_text())[kind]
    assert close(now[kind], kept, tolerance), (now[kind], kept)
