"""Texts and ratings of any kind, length and number: shortened, grouped and read as text, so that a
model trains, or an error says what is wrong.
"""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from promptrec.baselines.p5 import P5Prompts
from promptrec.core import PromptrecError
from promptrec.data.dataset import DOMAINS, make_dataset
from promptrec.data.registry import load_dataset
from promptrec.evaluation.split import Histories
from promptrec.experiments.parameters import configure
from promptrec.experiments.run import execute, prepare
from promptrec.mibert.encoder import load_tokenizer
from promptrec.mibert.prompts import PromptEncoder, encode_prompts, truncate_histories
from promptrec.sbtrec.language_model import llm_path
from promptrec.sbtrec.prompts import BEHAVIOUR_MARK, HybridPrompts, batch_prompts

MARKS = ["[MASK]", "[SEP]", "[CLS]", "[PAD]", "</s>", "<s>", "<|im_end|>", BEHAVIOUR_MARK]


def write(folder, titles, genres, rows=None, kind="csv"):
    "A folder of own data; `rows` are (user, item number, time, rating); by default 30 users walk."
    folder.mkdir(exist_ok=True)
    V = len(titles)
    if rows is None:
        rows = [(f"u{u}", (3 * u + t) % V, t, 1 + t % 5) for u in range(30) for t in range(8)]
    table = pd.DataFrame(rows, columns=["user", "item", "timestamp", "rating"])
    table["item"] = "i" + table["item"].astype(str)
    items = {"item": [f"i{i}" for i in range(V)], "title": titles, "genres": genres}
    if kind == "csv":
        table.to_csv(folder / "interactions.csv", index=False)
        pd.DataFrame(items).to_csv(folder / "items.csv", index=False)
    else:
        table.to_parquet(folder / "interactions.parquet")
        pd.DataFrame(items).to_parquet(folder / "items.parquet")
    return str(folder)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    "The folder of a small BERT with letters as word pieces."
    folder = tmp_path_factory.mktemp("encoder")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,:'!?-[]<>|/()_"
    words = "the user is shopping for items shops then genre rating about".split()
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *words]
    vocab += [f"##{letter}" for letter in letters]
    (folder / "vocab.txt").write_text("\n".join(vocab))
    size = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(
        vocab_size=len(vocab), num_hidden_layers=1, max_position_embeddings=128, **size
    )
    BertModel(config).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return str(folder)


def run(folder, model, out_dir, **given):
    "The record and notes of a tiny run."
    given = {"preset": "tiny", "candidates": "full", **given}
    run = configure(dataset=folder, model=model, out_dir=str(out_dir), **given)
    return execute(run, prepare(run)).record


def test_long_genres_stop_no_model(notebook, tmp_path):
    genres = ["very long description " * 150, *["G|H"] * 29]
    folder = write(tmp_path / "shop", [f"Title {i}" for i in range(30)], genres)
    given = {
        "dataset": folder,
        "preset": "tiny",
        "candidates": "full",
        "out_dir": tmp_path / "runs",
    }
    for model in ("popularity", "mibert"):
        shown = notebook("train", model=model, **given)
        assert "shortened to 1,000 characters, such as 'Title 0': 1" in shown
    assert "Title 0, rating is 1." in notebook("train", model="p5", epochs=0, **given)
    for model in ("itemknn", "sasrec"):
        assert run(folder, model, tmp_path)["notes"]


def test_genres_that_do_not_fit_a_prompt_are_left_out(tmp_path, encoder):
    many = "|".join(f"genre {i}" for i in range(60))
    folder = write(tmp_path / "shop", [f"Title {i}" for i in range(30)], [many, *["G|H"] * 29])
    record = run(folder, "mibert", tmp_path, backbone=encoder)
    note = "items whose text was shortened to fit 64 tokens, such as 'Title 0'"
    assert record["notes"] == {note: 1}
    ds = load_dataset(folder)
    enc = PromptEncoder(ds, load_tokenizer(encoder), 64)
    kept = enc.genres[0]
    assert 0 < len(kept) < 60 and kept == ds.items["genres"][0][: len(kept)]
    everything = Histories(ds.item, ds.rating, ds.offsets)
    assert enc.statement_lengths(everything).max() <= enc.budget


class Counting:
    "A tokenizer that counts the texts it is given."

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.texts = 0

    def __call__(self, texts, **options):
        self.texts += 1 if isinstance(texts, str) else len(texts)
        return self.tokenizer(texts, **options)

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)


def test_ratings_of_many_values_are_grouped(tmp_path, encoder, notebook):
    g = np.random.default_rng(0)
    hours = np.round(g.lognormal(3, 1, (60, 20)), 2)
    rows = [
        (f"u{u}", (7 * u + t) % 200, t, h)
        for u, of_user in enumerate(hours)
        for t, h in enumerate(of_user)
    ]
    folder = write(
        tmp_path / "hours", [f"Game {i}" for i in range(200)], [f"G{i}|H" for i in range(200)], rows
    )
    ds = load_dataset(folder)
    tokenizer = Counting(load_tokenizer("minilm-l6"))
    enc = PromptEncoder(ds, tokenizer, 64)
    assert tokenizer.texts < 2 * ds.n_items + 50
    assert len(enc.right_at) < ds.n_items + 30
    given = {"dataset": folder, "preset": "tiny", "candidates": "uniform-5"}
    words = {"rating": "played for {} hours", "prefix": "playing games", "verb": "plays"}
    shown = notebook("train", **given, **words, backbone=encoder, out_dir=tmp_path / "runs")
    assert re.search(r"genre is G\d+, H, played for about \d+ hours\.", shown)
    n = len(np.unique(hours.astype(np.float32)))
    assert re.search(rf"different ratings, said in 20 groups such as 'about \d+': {n:,}", shown)


@pytest.mark.parametrize("value", [1e300, -1e300])
def test_an_endless_rating_is_named(tmp_path, value):
    rows = [("u", i, i, value if i == 2 else 3.0) for i in range(5)]
    folder = write(tmp_path / "d", [f"T{i}" for i in range(5)], [""] * 5, rows)
    said = f"line 4, column 'rating': this is no rating: '{value:g}'"
    with pytest.raises(PromptrecError, match=re.escape(said)):
        load_dataset(folder)


# ---- marks ----


def appends_end_mark():
    "A causal model's tokenizer that begins a text with a mark, and ends it with one."
    t = Tokenizer(models.BPE(unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    t.model = models.BPE({"<unk>": 0, **{c: i + 1 for i, c in enumerate(letters)}}, [])
    t.add_special_tokens(["<s>", "</s>"])
    ends = [(mark, t.token_to_id(mark)) for mark in ("<s>", "</s>")]
    t.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=t, bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="<unk>"
    )


def marked(n_items=6):
    "A data set whose titles and genres hold marks."
    titles = [f"{mark} of {mark}s" for mark in MARKS]
    rows = [(f"u{u}", i, i) for u in range(3) for i in range(len(titles))]
    interactions = pd.DataFrame(rows, columns=["user", "item", "timestamp"])
    items = pd.DataFrame({"item": range(len(titles)), "title": titles})
    items["genres"] = [(mark, "a") for mark in MARKS]
    return make_dataset("marked", DOMAINS["movies"], interactions, items)


def whole_histories(ds):
    return Histories(ds.item, ds.rating, ds.offsets)


def test_no_mark_of_a_text_is_one_in_mibert_and_p5():
    ds, tokenizer = marked(), load_tokenizer("minilm-l6")
    specials = set(tokenizer.all_special_ids)
    prompts = encode_prompts(PromptEncoder(ds, tokenizer, 512), whole_histories(ds))
    ids = np.delete(prompts.tokens, prompts.title_at)
    # [CLS], [MASK] and [SEP] of each prompt
    assert np.isin(ids, list(specials)).sum() == 3 * len(prompts)
    p5 = P5Prompts(ds, tokenizer, 512)
    batch = p5.batch(truncate_histories(p5, whole_histories(ds)))
    ids = p5.kept[batch["input_ids"][batch["attention_mask"]]]
    assert np.isin(ids, list(specials)).sum() == 2 * len(batch["input_ids"])


@pytest.mark.parametrize("behaviour", ["none", "items", "sequence"])
def test_no_mark_inside_a_prompt_of_paper_b(behaviour):
    ds = marked()
    candidates = np.tile(np.arange(4), (3, 1))
    for tokenizer in (appends_end_mark(), AutoTokenizer.from_pretrained(llm_path("smollm2-135m"))):
        p = HybridPrompts(ds, tokenizer, behaviour, 2048)
        x = batch_prompts(p, whole_histories(ds), candidates, candidates[:, 0])
        begins = tokenizer.bos_token_id is not None and "<s>" in tokenizer.get_vocab()
        for b in range(3):
            ids = x["input_ids"][b][x["attention_mask"][b] & ~x["marks"][b]]
            marks = np.isin(ids, tokenizer.all_special_ids)
            assert marks[-1] and marks.sum() == 1 + begins and marks[0] == begins
        per_prompt = {"none": 0, "sequence": 1, "items": len(ds.titles) + 4}[behaviour]
        assert x["marks"].sum() == 3 * per_prompt
        assert tokenizer.decode(p.titles(np.array([6]))[0][:-1]).strip() == p.names[6]


# ---- advice ----


def needed(build):
    "The max_tokens that the error of `build(max_tokens)` advises, for one that is too small."
    with pytest.raises(PromptrecError, match="max_tokens") as error:
        build(12)
    return int(re.search(r"use max_tokens >= (\d+)", str(error.value)).group(1))


def long_titles(n_items=30, length=10_000):
    "A data set whose titles differ in their first letters alone, and go on for ever."
    rows = [(f"u{u}", (u + t) % n_items, t, 0.5 * u + t) for u in range(20) for t in range(6)]
    interactions = pd.DataFrame(rows, columns=["user", "item", "timestamp", "rating"])
    titles = [f"{i % 3} " + "a long story, " * (length // 14) for i in range(n_items)]
    items = pd.DataFrame({"item": range(n_items), "title": titles})
    items["genres"] = [tuple(f"genre {j}" for j in range(2000))] * n_items
    return make_dataset("long", DOMAINS["movies"], interactions, items)


def test_advice_on_max_tokens_works():
    ds, tokenizer = long_titles(), load_tokenizer("minilm-l6")
    histories = whole_histories(ds)
    for kind in (PromptEncoder, P5Prompts):

        def build(max_tokens, kind=kind):
            return kind(ds, tokenizer, max_tokens)

        least = needed(build)
        enc = build(least)
        assert enc.statement_lengths(histories).max() <= enc.budget
        with pytest.raises(PromptrecError):
            build(least - 1)
        if kind is P5Prompts:
            names = np.split(enc.pieces, enc.at[1:-1])[: ds.n_items]
            assert len({tuple(name) for name in names}) == ds.n_items
    llm = appends_end_mark()
    candidates = np.tile(np.arange(21), (20, 1))

    def ask(max_tokens):
        return batch_prompts(HybridPrompts(ds, llm, "items", max_tokens), histories, candidates)

    least = needed(ask)
    x = ask(least)
    assert x["attention_mask"].sum(1).max() <= least and x["marks"].sum() == len(x["items"])


def test_words_too_long_for_the_encoder(tmp_path, encoder):
    folder = write(tmp_path / "d", [f"T{i}" for i in range(30)], [""] * 30)
    with pytest.raises(PromptrecError, match="shorter words for prefix, verb and rating"):
        run(folder, "mibert", tmp_path, backbone=encoder, verb="x" * 90, max_tokens=128)
    with pytest.raises(PromptrecError, match=r"Parameter verb='\[MASK\]' holds"):
        run(folder, "mibert", tmp_path, backbone=encoder, verb="[MASK]")
    with pytest.raises(PromptrecError, match="must have {} once"):
        run(folder, "popularity", tmp_path, rating="played for hours")


def test_p5_trains_on_long_titles(tmp_path):
    titles = [f"{i % 3} " + "a long story, " * 700 for i in range(30)]
    folder = write(tmp_path / "long", titles, ["|".join(map(str, range(2000)))] * 30)
    record = run(folder, "p5", tmp_path)
    assert list(record["notes"].values()) == [30, 30]
    assert record["metrics"]["test"]["full"]


# ---- anything ----

letters = st.characters(exclude_categories=["Cs"])
texts = st.one_of(
    st.text(letters, max_size=12),
    st.sampled_from(["", " ", "same", *MARKS, "a" * 10_000, "long story " * 900, "日本" * 600]),
)
ratings = st.one_of(
    st.just(st.just(None)),
    st.just(st.sampled_from([1.0, 2.5, 5.0])),
    st.just(st.floats(-1e30, 1e30)),
    st.just(st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))),
)


@st.composite
def tables(draw):
    "Titles, genres and rows of a small shop; most of its users have enough interactions to stay."
    V = draw(st.integers(1, 9))
    titles = draw(st.lists(texts, min_size=V, max_size=V))
    genres = draw(st.lists(st.lists(texts, max_size=3).map("|".join), min_size=V, max_size=V))
    rating = draw(ratings)
    row = st.tuples(st.integers(0, V - 1), st.integers(0, 20), rating)
    each = st.lists(row, min_size=draw(st.sampled_from([1, 5, 6])), max_size=8)
    users = draw(st.lists(each, min_size=1, max_size=6))
    return titles, genres, [(f"u{u}", *row) for u, rows in enumerate(users) for row in rows]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(tables(), st.sampled_from(["csv", "parquet"]), st.sampled_from(["full", "uniform-1"]))
def test_any_table_trains_or_says_why(tmp_path_factory, encoder, table, kind, candidates):
    titles, genres, rows = table
    folder = tmp_path_factory.mktemp("any")
    data = write(folder / "shop", titles, genres, rows, kind)
    try:
        ds = load_dataset(data)
        for model in ("popularity", "itemknn", "mibert"):
            given = {"backbone": encoder, "max_tokens": 80} if model == "mibert" else {}
            record = run(data, model, folder / "runs", candidates=candidates, **given)
            assert record["metrics"]["test"]["full"]
    except PromptrecError as e:  # it names a line, a user, a value or a parameter
        assert re.search(r"line \d|interaction \d|user \S+ has|'[^']+'|\w+=", str(e)), e
        return
    # texts are counted by items and ratings, and never by their product
    tokenizer = Counting(load_tokenizer(encoder))
    enc = PromptEncoder(ds, tokenizer, 80)
    several = len(enc.scale.text)
    halvings = 12  # to find how many genres fit
    assert tokenizer.texts <= (2 + halvings) * ds.n_items + several + 5
    assert len(enc.right_at) <= ds.n_items + several + 2
