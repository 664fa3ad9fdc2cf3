"""People who come back to items: how targets are told apart, ranked, and given negatives by each
rule; what an error about candidates advises works.
"""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptrec.core import PromptrecError
from promptrec.data.filters import keep_first
from promptrec.evaluation.candidates import draw_candidates
from promptrec.evaluation.metrics import evaluate, rivals
from promptrec.evaluation.split import REPEATS, Split, leave_one_out
from promptrec.experiments.parameters import configure
from promptrec.experiments.plots import repeat_note, result_table
from promptrec.experiments.records import read_record
from promptrec.experiments.registry import MODELS
from promptrec.experiments.run import execute, prepare, split_of
from promptrec.testing.datasets import dataset_of

SEEN_BEFORE = """
import numpy as np

class SeenBefore:
    "Scores what stands in the history, and knows nothing else."
    def __init__(self, dataset): self.V = dataset.n_items
    def fit(self, split, loop=None, validate=None): pass
    def score(self, histories, candidates=None):
        scores = np.random.default_rng(0).random((len(histories), self.V)).astype(np.float32)
        scores[np.repeat(np.arange(len(histories)), histories.lengths), histories.item] += 1
        return scores if candidates is None else np.take_along_axis(scores, candidates, 1)
    def save(self, folder): pass
    def load(self, folder): pass
"""


def write(folder, sequences, n_items):
    "A folder of own data with these item numbers a user, oldest first."
    folder.mkdir()
    rows = [(f"u{u}", f"i{i}", t) for u, items in enumerate(sequences) for t, i in enumerate(items)]
    table = pd.DataFrame(rows, columns=["user", "item", "timestamp"])
    table.to_csv(folder / "interactions.csv", index=False)
    titles = [f"Title {i}" for i in range(n_items)]
    catalogue = {"item": [f"i{i}" for i in range(n_items)], "title": titles, "genres": "A|B"}
    pd.DataFrame(catalogue).to_csv(folder / "items.csv", index=False)
    return str(folder)


@pytest.fixture
def favourites(tmp_path):
    "Forty people who come back to four of thirty items each; the last ten end with a new one."
    g = np.random.default_rng(0)
    sequences = []
    for user in range(40):
        four = g.permutation(29)[:4]
        again = g.choice(four, 8)
        sequences.append(np.r_[four, again[:7], 29 if user >= 30 else again[7]])
    return write(tmp_path / "favourites", sequences, 30)


@pytest.fixture
def worn(tmp_path):
    "Twenty people who touched all of ten items, twice."
    g = np.random.default_rng(0)
    sequences = [np.r_[g.permutation(10), g.permutation(10)] for _ in range(20)]
    return write(tmp_path / "worn", sequences, 10)


def record_of(**given):
    run = configure(preset="tiny", **given)
    return execute(run, prepare(run)).record


# What a run says


def test_a_run_says_how_many_targets_are_repeated(favourites, tmp_path, notebook):
    given = {"dataset": favourites, "preset": "tiny", "out_dir": tmp_path / "runs"}
    shown = notebook("train", model="itemknn", candidates="uniform-9", **given)
    assert "repeated targets: 75.0% of 40 (repeats=mask" in shown
    assert "repeated, 75.0%" in shown and "new, 25.0%" in shown
    [path] = (tmp_path / "runs").glob("*itemknn*.json")
    about = read_record(path)["repeats"]
    assert [about[k] for k in ("rule", "targets", "repeated", "share")] == ["mask", 40, 30, 0.75]
    parts = {name: part["full"]["mrr"]["value"] for name, part in about["metrics"].items()}
    whole = read_record(path)["metrics"]["test"]["full"]["mrr"]["value"]
    assert 0.25 * parts["new"] + 0.75 * parts["repeated"] == pytest.approx(whole)
    ranks = pd.read_parquet(path.with_suffix(".parquet"))
    assert (1 / ranks["full"][ranks["repeated"]]).mean() == pytest.approx(parts["repeated"])


@pytest.mark.parametrize("rule", ["keep", "drop"])
def test_the_rule_is_a_parameter_of_the_notebook(rule, favourites, tmp_path, notebook):
    given = {"dataset": favourites, "preset": "tiny", "out_dir": tmp_path / "runs"}
    shown = notebook("train", model="mibert", repeats=rule, candidates="full", epochs=1, **given)
    assert f"repeats={rule}" in shown
    for path in (tmp_path / "runs").glob("*.json"):
        record = read_record(path)
        assert record["config"]["repeats"] == record["repeats"]["rule"] == rule
        assert record["repeats"]["repeated"] == {"keep": 30, "drop": 0}[rule]
        assert ("metrics" in record["repeats"]) == (rule == "keep")


def test_a_guess_at_what_was_seen_is_perfect_only_where_the_rest_is_masked(favourites, tmp_path):
    (tmp_path / "seen.py").write_text(SEEN_BEFORE)
    given = {"dataset": favourites, "model": f"{tmp_path}/seen.py:SeenBefore"}
    found = {}
    for rule in REPEATS:
        record = record_of(
            **given, repeats=rule, candidates="uniform-9", out_dir=f"{tmp_path}/runs"
        )
        metrics = record["repeats"].get("metrics", {"new": record["metrics"]["test"]})
        found[rule] = {group: part["full"]["recall@5"]["value"] for group, part in metrics.items()}
        hits = {group: part["score"]["hit@1"]["value"] for group, part in metrics.items()}
        if rule == "mask":
            ranks = pd.read_parquet(next((tmp_path / "runs").glob("*.parquet")))
            assert (ranks["full"][ranks["repeated"]] == 1).all() and hits["repeated"] == 1
        if rule == "keep":
            assert hits["repeated"] < 1
    assert found["mask"]["repeated"] == found["keep"]["repeated"] == 1
    assert found["mask"]["new"] < 0.5 and found["keep"]["new"] < 0.5 and found["drop"]["new"] < 0.5


def test_the_default_is_the_rule_of_older_records(favourites):
    plain, masked = (configure(model="ease", dataset=favourites, repeats=r) for r in (None, "mask"))
    assert plain.name == masked.name and "repeats" not in masked.config
    assert split_of(plain).hash == split_of(masked).hash
    kept = configure(model="ease", dataset=favourites, repeats="keep")
    assert kept.name != plain.name and split_of(kept).hash != split_of(plain).hash
    with pytest.raises(PromptrecError, match="Did you mean 'mask'"):
        configure(repeats="masks")


def test_a_record_without_the_share_is_still_read(root):
    path = min((root / "figures/records/ml-100k").glob("ml-100k-popularity-seed0*.json"))
    record = read_record(path)
    assert record.pop("repeats") == {"rule": "mask", "targets": 943, "repeated": 0, "share": 0.0}
    assert "targets" not in result_table([record])


def test_lastfm(real_data):
    "People give an artist several tags, and each is an interaction."
    run = configure(model="popularity", dataset="lastfm", data_dir=str(real_data))
    split = split_of(run)
    assert (split.repeated("test").sum(), len(split.test)) == (288, 1275)
    new = leave_one_out(keep_first(split.dataset))
    assert not new.repeated("test").any() and not new.repeated("valid").any()


# Any data, by the definitions


@given(
    st.lists(st.lists(st.integers(0, 6), min_size=3, max_size=9), min_size=1, max_size=6),
    st.sampled_from(["mask", "keep"]),
    st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_ranks_and_negatives_by_definition(sequences, rule, seed):
    ds = dataset_of([*sequences, range(9)])
    n = np.diff(ds.offsets)
    last = ds.offsets[1:] - 1
    split = Split(ds, "last", n - 2, last - 1, last, repeats=rule)
    scores = np.random.default_rng(seed).integers(0, 5, (len(n), ds.n_items)).astype(np.float32)

    class Fixed:
        dataset = ds

        def score(self, histories, candidates=None):
            return scores

    repeated, ranks = split.repeated("test"), evaluate(Fixed(), split)["full"]
    candidates = None
    try:
        candidates = draw_candidates(split, "uniform-2")["test"].items
    except PromptrecError:
        assert rule == "mask"
    for u in range(len(n)):
        *past, target = ds.item[ds.offsets[u] : ds.offsets[u + 1]].tolist()
        out = set(past) - {target} if rule == "mask" else set()
        others = [i for i in range(ds.n_items) if i not in out and i != target]
        assert repeated[u] == (target in past)
        assert rivals(split)[u] == len(others)
        assert ranks[u] == 1 + sum(scores[u, i] >= scores[u, target] for i in others)
        if candidates is not None:
            assert candidates[u, 0] == target and len(set(candidates[u])) == 3
            assert rule == "keep" or not set(candidates[u, 1:]) & {*past, target}


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=9), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_data_without_repeats_by_definition(sequences):
    ds = dataset_of(sequences)
    wanted = [list(dict.fromkeys(s)) for s in sequences]
    wanted = [s for s in wanted if len(s) >= 3]
    if not wanted:
        with pytest.raises(PromptrecError, match="Choose repeats='mask'"):
            keep_first(ds)
        return
    new = keep_first(ds)
    raw = new.items["item_id"].to_numpy()[new.item]
    found = np.split(raw, new.offsets[1:-1])
    raw_ids = sorted({i for s in sequences for i in s})
    names = dict(zip(raw_ids, sorted(set(ds.items["item_id"]))))
    assert [f.tolist() for f in found] == [[names[i] for i in s] for s in wanted]


# Candidates that cannot be had


def advice(error):
    "The parameters that an error asks for, as (name, value) of each way out."
    text = str(error)
    ways = [
        dict(re.findall(r"(repeats|candidates)='([^']+)'", part)) for part in text.split(" or ")
    ]
    if "or for 'full'" in text:
        ways.append({"candidates": "full"})
    return [way for way in ways if way]


@pytest.mark.parametrize("model", ["popularity", "itemknn", "sasrec", "mibert"])
def test_what_is_advised_works_where_everybody_touched_everything(model, worn, tmp_path):
    given = {"dataset": worn, "model": model, "out_dir": f"{tmp_path}/runs"}
    with pytest.raises(PromptrecError, match="user u0 has 0 items left") as e:
        record_of(**given)
    ways = advice(e.value)
    assert [sorted(way) for way in ways] == [["candidates", "repeats"], ["candidates"]]
    for way in ways:
        record = record_of(**given, **way)
        assert record["config"]["candidates"] == way["candidates"]
    for candidates in ("uniform-1", "popularity-100000"):
        with pytest.raises(PromptrecError, match="largest n possible is 0"):
            record_of(**given, candidates=candidates)


def test_a_ranking_without_rivals_is_pointed_out(worn, tmp_path, notebook):
    shown = notebook(
        "train", dataset=worn, model="popularity", candidates="full", out_dir=tmp_path / "runs"
    )
    assert "20 targets have no item left to be ranked against" in shown


@pytest.mark.parametrize("rule", REPEATS)
@pytest.mark.parametrize("candidates", ["popularity-100000", "uniform-99999999999999999999"])
def test_more_negatives_than_items(candidates, rule, favourites, tmp_path):
    given = {"dataset": favourites, "model": "popularity", "repeats": rule}
    given["out_dir"] = f"{tmp_path}/runs"
    with pytest.raises(PromptrecError, match="largest n possible is") as e:
        record_of(**given, candidates=candidates)
    ways = advice(e.value)
    assert len(ways) == 2
    for way in ways:
        assert record_of(**given | way)["config"]["candidates"] == way["candidates"]


@pytest.mark.parametrize(
    "candidates",
    [
        "popularity-0",
        "uniform-abc",
        "popularity--5",
        "uniform-1.5",
        "full-3",
        "random",
        20,
        -1,
        0.5,
    ],
)
def test_candidates_that_mean_nothing(candidates):
    with pytest.raises(PromptrecError) as e:
        configure(model="popularity", candidates=candidates)
    named = re.findall(r"ask for '([\w-]+)'", str(e.value)) or re.findall(
        r"Known: (\w+)", str(e.value)
    )
    assert configure(model="popularity", candidates=named[0]).candidates


@pytest.mark.parametrize("seed", [-1, 2**32, 2**70, True, 1.5, "one"])
def test_a_seed_is_checked_alike_for_all_models(seed):
    said = set()
    for model in MODELS:
        with pytest.raises(PromptrecError) as e:
            configure(model=model, seed=seed)
        said.add(str(e.value))
    assert said == {
        f"Parameter seed={seed!r} must be a whole number from 0 to 4294967295, such as 0."
    }
    assert configure(model="popularity", seed=2**32 - 1).seed == 2**32 - 1


@pytest.mark.parametrize("items, advice", [(1, "use data with several items"), (2, "repeats=keep")])
def test_what_is_advised_where_any_model_ranks_first(items, advice):
    ds = dataset_of([[n % items for n in range(6)] for _ in range(4)])
    assert repeat_note(leave_one_out(ds)).endswith(advice)
    assert items == 1 or "first" not in repeat_note(replace(leave_one_out(ds), repeats="keep"))
