"""What errors advise: each is provoked, its advice is taken out of the message and followed, and
then it works. Advice on other encodings, paths of releases, numbers of negatives, `max_tokens` and
changed data is followed in test_files, test_typed, test_repeats, test_texts and test_folders.
"""

import ast
import json
import re
import shutil
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet as pq
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5Model,
)

from promptrec.baselines import linear
from promptrec.baselines.counting import MarkovSettings, Popularity
from promptrec.baselines.linear import Ease, EaseSettings
from promptrec.baselines.sasrec import SasRecNet
from promptrec.core import PromptrecError
from promptrec.data.custom import read_folder
from promptrec.data.dataset import make_dataset
from promptrec.data.filters import keep_users
from promptrec.data.registry import load_dataset
from promptrec.evaluation.candidates import uniform_candidates
from promptrec.evaluation.metrics import evaluate
from promptrec.evaluation.recommender import load_model, recommend, save_model
from promptrec.evaluation.split import by_users, leave_one_out
from promptrec.experiments import engine, grid
from promptrec.experiments.parameters import configure, known_parameters
from promptrec.experiments.records import read_record
from promptrec.experiments.registry import MODELS
from promptrec.experiments.run import build, execute, parse_arguments, prepare, restore, train
from promptrec.experiments.search import chosen, search
from promptrec.mibert.encoder import load_encoder, load_tokenizer
from promptrec.reproduction.rows import read_results
from promptrec.sbtrec.language_model import llm_path, load_llm
from promptrec.testing.datasets import dataset_of
from promptrec.testing.records import invented_record


def said(call, *args, **given):
    "What the error says that `call(*args, **given)` raises."
    with pytest.raises(PromptrecError) as error:
        call(*args, **given)
    return str(error.value)


def named(pattern, text):
    "The groups of a pattern in a message."
    found = re.search(pattern, text)
    assert found, text
    return found.groups()


# Files ----------------------------------------------------------------------------------------

SHOP = [(f"u{user}", f"i{(3 * user + n) % 12}", n) for user in range(6) for n in range(6)]
TIMES = [1_600_000_000 + 86_400 * n for _, _, n in SHOP]
HEAD = "user,item,timestamp"


def table(head, rows, sep=","):
    "Text of a delimited file."
    lines = [head.split(","), *rows]
    return "".join(sep.join(map(str, line)) + "\n" for line in lines)


GOOD = {
    "interactions.csv": table(HEAD, SHOP),
    "items.csv": table("item,title,genres", [(f"i{i}", f"Title {i}", "A|B") for i in range(12)]),
}


def timed(times):
    "Interactions with other times."
    return table(HEAD, [(user, item, time) for (user, item, _), time in zip(SHOP, times)])


def with_first(*row, head=HEAD):
    "Interactions whose first row is another one."
    return table(head, [row, *SHOP[1:]])


def as_parquet(**columns):
    "Interactions in Parquet, with some columns as given."
    user, item, time = zip(*SHOP)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"user": user, "item": item, "timestamp": time} | columns), sink)
    return sink.getvalue().to_pybytes()


def write(folder, files):
    "Files by name (None: not there) in an otherwise empty folder."
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        if content is not None:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def interactions(text):
    return {"interactions.csv": text}


def parquet(content):
    return {"interactions.csv": None, "interactions.parquet": content}


def in_parts(first, second, kind="csv"):
    "Interactions as a folder of two parts."
    parts = {f"interactions.{kind}/part-{i}.{kind}": p for i, p in enumerate((first, second))}
    return {"interactions.csv": None} | parts


def domain(**words):
    return {"domain.json": json.dumps(words)}


DOMAIN = {"prefix": "reading books", "verb": "reads", "noun": "book"}
HALVES = [SHOP[:18], SHOP[18:]]
FLOATS = np.array(TIMES, np.float32)
NO_HEAD = "".join(table("", SHOP).splitlines(True)[1:])
ITEMS_TWICE = GOOD["items.csv"] + "i0,Again,\n"
LEADING = GOOD["items.csv"].replace("i", "0").replace("0tem,t0tle", "item,title")
LEADING = LEADING.replace("T0tle", "Title")
DIGITS = [(user, item[1:], time) for user, item, time in SHOP]

# what is wrong -> (files that differ from GOOD, advice in the message, files as it advises, ...)
FILES = {
    "no header": (interactions(NO_HEAD), "Name the columns so in the first line", {}),
    "other names": (
        interactions(table("wer,was,wann", SHOP)),
        "Name the columns so in the first line",
        {},
    ),
    "no times": (
        interactions(table("user,item", [row[:2] for row in SHOP])),
        "number the rows in their order",
        interactions(timed(range(len(SHOP)))),
    ),
    "a column twice": (
        interactions(table("user,item,timestamp,item", [(*row, row[1]) for row in SHOP])),
        "Leave only one",
        {},
    ),
    "an unknown separator": (
        interactions(table(HEAD, SHOP, "::")),
        "no comma, semicolon, tab or bar separates names of columns",
        *(interactions(table(HEAD, SHOP, sep)) for sep in ",;\t|"),
    ),
    "a short line": (interactions(GOOD["interactions.csv"] + "u1,i3\n"), "Repair the line", {}),
    "a quote": (interactions(GOOD["interactions.csv"] + '"u1"x,i3,5\n'), "Repair the line", {}),
    "no id": (interactions(with_first(" ", "i0", 0)), "Repair the file", {}),
    "no time": (interactions(with_first("u0", "i0", "")), "Repair the file", {}),
    "no number": (interactions(with_first("u0", "i0", "0s")), "Write dates as", {}),
    "no rating": (
        interactions(table(f"{HEAD},rating", [(*row, "5 stars") for row in SHOP])),
        "Repair the file",
        interactions(table(f"{HEAD},rating", [(*row, 5) for row in SHOP])),
        interactions(table(f"{HEAD},rating", [(*row, "") for row in SHOP])),
    ),
    "an endless rating": (
        interactions(table(f"{HEAD},rating", [(*row, "1e60") for row in SHOP])),
        "leave what is unknown empty",
        interactions(table(f"{HEAD},rating", [(*row, "1e6") for row in SHOP])),
        interactions(table(f"{HEAD},rating", [(*row, "") for row in SHOP])),
    ),
    "no such day": (interactions(with_first("u0", "i0", "2024-02-31")), "Write dates as", {}),
    "digits lost": (
        interactions(timed([f"{time:.1E}" for time in TIMES])),
        "Write whole numbers or ISO dates",
        interactions(timed(TIMES)),
        interactions(timed([pd.Timestamp(time, unit="s").isoformat() for time in TIMES])),
    ),
    "short floats": (
        parquet(as_parquet(timestamp=FLOATS)),
        "whole numbers, float64 or dates",
        parquet(as_parquet(timestamp=TIMES)),
        parquet(as_parquet(timestamp=np.array(TIMES, np.float64))),
        parquet(as_parquet(timestamp=pd.to_datetime(TIMES, unit="s"))),
    ),
    "ids that are fractions": (
        parquet(as_parquet(user=[float(row[0][1:]) for row in SHOP])),
        "ids are whole numbers or text",
        parquet(as_parquet(user=[int(row[0][1:]) for row in SHOP])),
        parquet(as_parquet(user=[row[0][1:] for row in SHOP])),
    ),
    "an item twice": ({"items.csv": ITEMS_TWICE}, "Repair the file", {}),
    "no rows": (interactions(HEAD + "\n"), "Write it again", {}),
    "an empty file": ({"items.csv": ""}, "Fetch it again", {}),
    "a cut file": (parquet(as_parquet()[:-50]), "Write it again", parquet(as_parquet())),
    "two kinds": (
        {"interactions.parquet": as_parquet()},
        "Leave only the one that is meant",
        {},
        parquet(as_parquet()),
    ),
    "another compression": (
        {"interactions.csv": None, "interactions.csv/part-0.csv.bz2": b"BZh9"},
        "Write CSV or JSON lines, plain or with gzip or zstd, or Parquet",
        in_parts(*(table(HEAD, half) for half in HALVES)),
        parquet(as_parquet()),
    ),
    "parts with other columns": (
        in_parts(table(HEAD, HALVES[0]), table(f"{HEAD},rating", [(*r, 1) for r in HALVES[1]])),
        "Write all parts alike",
        in_parts(*(table(HEAD, half) for half in HALVES)),
    ),
    "parts with other types": (
        in_parts(as_parquet(), as_parquet(user=range(len(SHOP))), "parquet"),
        "Write all parts alike",
        in_parts(as_parquet(), as_parquet(), "parquet"),
    ),
    "other ids": (
        interactions(table(HEAD, [(user, f"x{item}", time) for user, item, time in SHOP])),
        "Use the same ids in both",
        {},
    ),
    "ids without their zeros": (
        {"items.csv": LEADING} | interactions(table(HEAD, DIGITS)),
        "Write it again with ids as text",
        {"items.csv": LEADING}
        | interactions(table(HEAD, [(user, f"0{item}", time) for user, item, time in DIGITS])),
    ),
    "half a mark": (
        {"items.csv": GOOD["items.csv"].encode("utf-16")[:-1]},
        "Save it as UTF-8",
        {},
    ),
    "a word too many": (
        domain(**DOMAIN, place="library"),
        "not an object with prefix, verb and noun, if you like rating, and no other",
        domain(**DOMAIN),
        domain(**DOMAIN, rating="is rated {}"),
    ),
    "no text": (domain(**DOMAIN | {"noun": 3}), "'noun' must be some text", domain(**DOMAIN)),
    "not JSON": ({"domain.json": "{prefix}"}, "Repair the file", domain(**DOMAIN)),
    "too few each": (
        interactions(table(HEAD, [row for row in SHOP if row[2] < 4])),
        "Give more data, or rows that pass it",
        {},
    ),
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_was_repaired_is_read(what, tmp_path):
    wrong, advice, *right = FILES[what]
    assert advice in said(lambda: load_dataset(str(write(tmp_path / "shop", GOOD | wrong))))
    for files in right:
        ds = load_dataset(str(write(tmp_path / "shop", GOOD | files)))
        assert (ds.n_users, ds.n_items) == (6, 12) and len(ds) in (len(SHOP), 2 * len(SHOP))
        assert ds.items["title"].str.startswith("Title").all()


def test_dates_as_they_are_advised(tmp_path):
    files = interactions(timed(["31/05/2024"] * len(SHOP)))
    advised = named("Write dates as (\\S+) or (\\S+)[.]", said(lambda: as_read(tmp_path, files)))
    for date in advised:
        ds = as_read(tmp_path, interactions(timed([date] * len(SHOP))))
        assert pd.Timestamp(ds.timestamp[0], unit="s").isoformat().startswith(date)


def as_read(folder, files):
    "The data set in GOOD with some other files, unfiltered."
    return read_folder(write(folder / "shop", GOOD | files))


@pytest.mark.parametrize("table_name", ["interactions", "items"])
def test_every_name_that_a_file_may_have(table_name, tmp_path):
    text = GOOD[f"{table_name}.csv"]
    files = {f"{table_name}.csv": None}
    listed = named("has no (.*)[.]$", said(lambda: as_read(tmp_path, files)))[0]
    names = re.split(", | or ", listed)
    assert len(names) > 4
    frame = pd.read_csv(write(tmp_path / "x", GOOD) / f"{table_name}.csv")
    for name in names:
        folder = write(tmp_path / "shop", GOOD | files)
        if name == "*.inter":
            text = table("user_id:token,item_id:token,timestamp:float", SHOP, "\t")
            (folder / "shop.inter").write_text(text)
        elif "parquet" in name:
            frame.to_parquet(folder / name)
        elif "jsonl" in name:
            frame.to_json(folder / name, orient="records", lines=True)
        else:
            frame.to_csv(folder / name, sep="\t" if "tsv" in name else ",", index=False)
        assert len(read_folder(folder)) == len(SHOP)


def test_a_table_without_ids_or_rows():
    rows = pd.DataFrame(SHOP, columns=HEAD.split(","))
    items = pd.DataFrame({"item": [f"i{i}" for i in range(12)]})
    words = DOMAIN_OF_BOOKS

    def made(table):
        return make_dataset("shop", words, table, items)

    assert "Give a table with at least one row" in said(lambda: made(rows[:0]))
    assert len(made(rows[:1])) == 1
    without = rows.assign(user=[None, *rows["user"][1:]])
    assert "Repair the row or leave it out" in said(lambda: made(without))
    assert len(made(without[1:])) == len(rows) - 1


DOMAIN_OF_BOOKS = dataset_of([[0]]).domain


def test_own_data_called_as_a_known_data_set(tmp_path):
    folder = write(tmp_path / "ml-1m", GOOD)
    advice = "Give a folder of your own data another name"
    assert advice in said(lambda: load_dataset(str(folder)))
    assert load_dataset(str(folder.rename(tmp_path / "my-films"))).n_users == 6


@pytest.fixture
def movielens(tmp_path):
    "A made-up MovieLens 1M, zipped: the folder of the archive, and its two files."
    rows = [(user, item, 5, 9 * user + item) for user in range(1, 7) for item in range(1, 7)]
    films = [(item, f"Film {item} (1990)", "Drama") for item in range(1, 7)]
    texts = {
        name: "".join("::".join(map(str, row)) + "\n" for row in lines)
        for name, lines in {"ratings.dat": rows, "movies.dat": films}.items()
    }
    folder = write(tmp_path / "data", {})
    folder.mkdir()
    with zipfile.ZipFile(folder / "ml-1m.zip", "w") as archive:
        for name, text in texts.items():
            archive.writestr(f"ml-1m/{name}", text)
    return folder, texts


def test_an_archive_that_is_another(movielens):
    folder, texts = movielens
    text = said(load_dataset, "ml-1m", folder)
    [called] = named("unpack it by hand into a folder called (.+)[.]$", text)
    write(folder / called, texts)
    assert load_dataset("ml-1m", folder).n_users == 6
    (folder / called / "movies.dat").unlink()
    [lacking] = named("lacks (.+), which ml-1m needs. Put it", said(load_dataset, "ml-1m", folder))
    (folder / called / lacking).write_text(texts[lacking])
    assert load_dataset("ml-1m", folder).n_users == 6
    assert "Name one that is there" in said(load_dataset, "ml-1m", folder / "elsewhere")


# Splits and candidates ------------------------------------------------------------------------


@pytest.fixture
def run_on(own, tmp_path):
    "Configure, and prepare, a run on somebody's own data."

    def run(**given):
        usual = {"dataset": str(own), "model": "popularity", "preset": "tiny"}
        usual |= {"candidates": "uniform-5", "out_dir": str(tmp_path / "runs")}
        made = configure(**usual | given)
        return made, prepare(made)

    return run


def made(run):
    "The result of a run that is configured and prepared."
    return execute(*run)


def timed_shop(folder, *times, users=6):
    "A folder of data whose users act at these times, one after the other."
    rows = [(f"u{u}", f"i{(3 * u + n) % 12}", t) for u in range(users) for n, t in enumerate(times)]
    return str(write(folder / "timed", GOOD | interactions(table(HEAD, rows))))


@pytest.mark.parametrize("times", [[0, 1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4, 0.5], [7] * 5])
def test_times_of_a_split(times, run_on, tmp_path):
    given = {"dataset": timed_shop(tmp_path, *times), "candidates": "full"}
    text = said(run_on, **given, split="time", t1=50.0, t2=60.0)
    first, last, other = named(r"needs (\S+) < t1 < t2 <= (\S+), not .*such as split='(.+)'", text)
    assert float(first) == min(times) and float(last) == max(times)
    t1, t2 = np.quantile(times, [0.4, 0.8])
    if float(first) < t1:
        assert run_on(**given, split="time", t1=float(t1), t2=float(t2))[1].split.valid.size
    assert run_on(**given, split=other)[1].split.name == other


def test_a_part_that_is_left_empty(run_on, tmp_path):
    given = {"dataset": timed_shop(tmp_path, 1, 2, 3, 4, 5, users=4), "candidates": "full"}
    for protocol in ({"split": "time", "t1": 4.2, "t2": 4.4}, {"split": "users"}):
        text = said(run_on, **given, **protocol)
        [other] = named(r"leaves nothing for validation. .*such as split='(.+)', or give", text)
        assert run_on(**given, split=other)[1].split.name == other


def test_times_belong_to_a_split_by_time(run_on):
    [split] = named("belong to split='(.+)'", said(run_on, t1=5.0))
    assert run_on(t1=5.0, t2=7.0, split=split)[1].split.name == "time 5 7"


def test_users_that_are_too_short():
    ds = dataset_of([[0, 1, 2, 3]] * 20 + [[0]] * 20)
    for split in (leave_one_out, by_users):
        [least] = named(r"apply keep_users\(ds, (\d)\) first", said(split, ds))
        assert len(split(keep_users(ds, int(least))).test)


def test_data_without_repeats(run_on, tmp_path):
    rows = [(f"u{u}", f"i{n % 2}", n) for u in range(6) for n in range(6)]
    files = GOOD | interactions(table(HEAD, rows))
    given = {"dataset": str(write(tmp_path / "two", files)), "candidates": "full"}
    text = said(run_on, **given, repeats="drop")
    for rule in named("Choose repeats='(.+)' or repeats='(.+)'", text):
        assert run_on(**given, repeats=rule)


@pytest.mark.parametrize("model", ["sasrec", "mibert", "p5"])
def test_too_few_interactions_to_train_on(model, run_on, tmp_path):
    rows = [(f"u{u}", f"i{(u + n) % 3}", n) for u in range(6) for n in range(6)]
    files = GOOD | interactions(table(HEAD, rows))
    given = {"dataset": str(write(tmp_path / "three", files)), "candidates": "full"}
    given["repeats"] = "drop"
    [other] = named(
        "or use (.+), which needs one", said(lambda: made(run_on(**given, model=model)))
    )
    assert made(run_on(**given, model=other)).record["metrics"]


@pytest.mark.parametrize("model", ["sbtrec", "chat", "popularity"])
def test_few_items_for_every_kind_of_model(model, run_on, tmp_path):
    "'full' is advised where a model ranks all items, and 'uniform-20' where it does not."
    given = {"dataset": timed_shop(tmp_path, *range(6)), "model": model}
    text = said(run_on, **given, candidates="uniform-20")
    [largest] = named("ask for candidates='(.+)', or for 'full' where the model ranks all", text)
    assert run_on(**given, candidates=largest)
    if MODELS[model].full_parts:
        assert not run_on(**given, candidates="full")[1].candidates
    else:
        text = said(run_on, **given, candidates="full")
        [usual] = named("give candidates, such as '(.+)', not 'full'", text)
        assert configure(model=model, candidates=usual).candidates == usual


def test_candidates_of_another_split():
    split, other = (leave_one_out(dataset_of([range(4), range(2, n)] * 2)) for n in (9, 8))
    model = Popularity(split.dataset)
    assert "call fit or load first" in said(evaluate, model, split, full=True)
    model.fit(split)
    assert "give candidates, or full=True" in said(evaluate, model, split, full=False)
    assert len(evaluate(model, split, full=True))
    given = {"split": split, "part": "test"}
    wrong, right = (uniform_candidates(s, n=1) for s in (other, split))
    text = said(lambda: evaluate(model, **given, candidates=wrong))
    assert "draw them for this split and part" in text
    assert len(evaluate(model, **given, candidates=right))


# Parameters -----------------------------------------------------------------------------------


def least_of(model, name, low):
    "The least value of a parameter, as the error for a `low` one names it; None if there is none."
    try:
        configure(model=model, **{name: low})
    except PromptrecError as error:
        found = re.search(rf"{name}=-7\S* must be (\S+) or more", str(error))
        return found and float(found[1])


@pytest.mark.parametrize("model", MODELS)
def test_the_least_value_of_every_parameter(model):
    followed = {}
    for name in known_parameters(model):
        for kind in (int, float):
            if name != "model" and (least := least_of(model, name, kind(-7))) is not None:
                followed[name] = kind(least)
    assert {"max_history", "tuned"} <= set(followed)
    if "experts" in followed:  # of which no more are chosen than there are
        text = said(configure, model=model, experts=1)
        [most] = named("use top_k=(.+) or fewer", text)
        followed["top_k"] = int(most)
    unread = getattr(configure(model=model).settings, "unread", {})
    assert configure(model=model, **{k: v for k, v in followed.items() if k not in unread})


def test_types_are_named():
    kinds = {"float": 0.5, "int": 3, "str": "ndcg@10", "bool": True}
    for name, wrong in {"lr": "high", "epochs": 2.5, "monitor": True, "resume": "yes"}.items():
        text = said(configure, model="sasrec", **{name: wrong})
        [kind] = named(f"Parameter {name}=.* must be of type (\\w+)", text)
        assert configure(model="sasrec", **{name: kinds[kind]})


def test_a_metric_of_the_full_catalogue():
    given = {"model": "sasrec", "candidates": "full"}
    text = said(configure, **given, monitor="ndcg@10")
    [monitor] = named("Did you mean '(.+)'", text)
    assert configure(**given, monitor=monitor).monitor == monitor


def test_seeds_and_words(run_on):
    [seed] = named("such as (\\d+)", said(run_on, seed=-1))
    assert run_on(seed=int(seed))
    [words] = named("such as '(.+)'", said(run_on, rating="played"))
    assert run_on(rating=words)[1].dataset.domain.rating == words
    assert "give a word, or leave it out" in said(run_on, verb=" ")
    assert run_on(verb="reads") and run_on(verb=None)
    mask = {"model": "mibert", "verb": "[MASK]"}
    assert "use other words" in said(lambda: build(*run_on(**mask)))
    assert build(*run_on(**mask | {"verb": "masks"}))


def test_limits_of_the_encoder(run_on):
    def built(**given):
        return build(*run_on(model="mibert-pb", **given))

    [most] = named("Use at most (\\d+), or", said(built, max_tokens=9999))
    assert built(max_tokens=int(most)).prompts.max_tokens == int(most)
    [least] = named("use max_tokens >= (\\d+)", said(built, max_tokens=1))
    assert built(max_tokens=int(least))
    low, high = named("Use (\\d+) to (\\d+), or None", said(built, layers=99))
    assert built(layers=int(low)) and built(layers=int(high))
    text = said(built, verb="reads " * 600, max_tokens=512)
    assert "the model reads 512: use shorter words for prefix, verb and rating" in text
    assert built(verb="reads", max_tokens=512)
    [most] = named("use top_k=(.+) or fewer", said(built, top_k=9))
    assert built(top_k=int(most))


def test_hyperparameters_above_0(run_on):
    assert "must be above 0" in said(lambda: made(run_on(model="ease", regularisation=0.0)))
    assert made(run_on(model="ease", regularisation=1e-3)).record
    assert "must be above 0" in said(lambda: made(run_on(model="markov", prior=0.0)))
    assert made(run_on(model="markov", prior=MarkovSettings().prior)).record


def test_ease_on_data_that_are_too_regular_or_too_large(run_on, monkeypatch):
    split = leave_one_out(dataset_of([range(9)] * 9 + [range(8)] * 9))
    flat = Ease(split.dataset, EaseSettings(1e-300))
    assert "raise regularisation" in said(lambda: flat.fit(split))
    Ease(split.dataset, EaseSettings(1.0)).fit(split)
    monkeypatch.setattr(linear, "free_memory", lambda: 0)
    [other] = named("Use (\\w+), which", said(lambda: made(run_on(model="ease"))))
    assert made(run_on(model=other)).record


def test_a_loss_that_overflows(run_on):
    def trained(**given):
        return train(*run_on(model="sasrec", epochs=1, **given))

    text = said(trained, lr=1e38, batch_size=4)
    assert "Use a smaller lr or clip, or precision='no'" in text
    assert "use a smaller lr or clip" in said(trained, lr=1e38, batch_size=64)
    for batch_size in (4, 64):
        assert trained(lr=1e-3, clip=0.5, precision="no", batch_size=batch_size)


def test_too_little_memory(run_on, monkeypatch):
    "A device that has room for eight examples."
    usual = SasRecNet.forward

    def forward(self, batch):
        if len(next(iter(batch.values()))) > 8:
            raise torch.OutOfMemoryError
        return usual(self, batch)

    monkeypatch.setattr(SasRecNet, "forward", forward)
    text = said(lambda: train(*run_on(model="sasrec", batch_size=32)))
    assert train(*run_on(model="sasrec", batch_size=8))
    [pieces] = named("larger (\\w+),", text)
    assert train(*run_on(model="sasrec", batch_size=32, **{pieces: 4}))
    fewer = "fewer (\\w+), (\\w+) or (\\w+), (\\w+)=True or (\\w+)="
    for name in named(f"smaller (\\w+) or, .* {fewer}", text):
        has = [model for model in MODELS if name in known_parameters(model)]
        given = {name: True if name in ("recompute", "half_precision") else 8}
        for model in has:
            by_tokens = name == "max_tokens" and "reading" in known_parameters(model)
            assert configure(model=model, **given, **{"reading": "tokens"} if by_tokens else {})
        assert has


# Pre-trained models ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    "Folders with a made-up encoder, language model and T5, of one layer each."
    top = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    words, llm_words = (
        load_tokenizer("minilm-l6"),
        AutoTokenizer.from_pretrained(llm_path("smollm2-135m")),
    )
    size = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    small = {"d_model": 16, "d_ff": 16, "d_kv": 8, "num_layers": 1, "num_heads": 2}
    kinds = {
        "bert": (words, BertModel(BertConfig(vocab_size=len(words), num_hidden_layers=1, **size))),
        "llama": (
            llm_words,
            LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=len(llm_words),
                    num_hidden_layers=1,
                    bos_token_id=llm_words.bos_token_id,
                    eos_token_id=llm_words.eos_token_id,
                    **size,
                )
            ),
        ),
        "t5": (words, T5Model(T5Config(vocab_size=len(words), **small))),
    }
    for name, (tokenizer, model) in kinds.items():
        tokenizer.save_pretrained(top / name)
        model.save_pretrained(top / name)
    return {name: str(top / name) for name in kinds}


def test_backbones_that_are_at_hand(folders, run_on, tmp_path):
    text = said(lambda: build(*run_on(model="mibert", backbone="nobody/bert")))
    [listed] = named("Without a hub: (.+), or a folder that holds config.json", text)
    for name in [*listed.split(", "), folders["bert"]]:
        assert load_tokenizer(name) and load_encoder(name, layers=1)
    text = said(lambda: run_on(model="mibert", backbone=str(tmp_path / "nowhere")))
    assert "give the path of one that holds a model, its name in data_dir, or the name" in text
    here = run_on(model="mibert", backbone=folders["bert"])[0]
    at = folders["bert"].removesuffix("/bert")
    assert run_on(model="mibert", backbone="bert", data_dir=at)[0].settings == here.settings
    assert run_on(model="mibert", backbone="minilm-l6")


def test_an_encoder_that_cannot_ask_for_a_title(folders, run_on):
    text = said(lambda: build(*run_on(model="mibert", backbone=folders["llama"])))
    assert "Use an encoder of the BERT family" in text
    assert build(*run_on(model="mibert", backbone=folders["bert"]))


def test_language_models_that_are_at_hand(folders):
    for wrong, pattern in (
        ("nobody/llama", "Without a hub: (.+), or a folder that holds"),
        (folders["bert"], "use (.+), a folder with such a model, or a hub's"),
    ):
        [listed] = named(pattern, said(load_llm, wrong))
        assert "smollm2-135m" in listed.split(", ")
    assert load_llm("smollm2-135m", layers=1) and load_llm(folders["llama"])
    low, high = named("Use (.+) to (.+), or", said(load_llm, folders["llama"], layers=9))
    assert load_llm(folders["llama"], layers=int(low)) and load_llm(folders["llama"], int(high))


def test_p5_and_its_backbone(folders, run_on):
    def built(**given):
        return build(*run_on(model="p5", **given))

    sizes = {"backbone": folders["t5"], "layers": 1}
    [preset] = named("leave them out, and give preset='(.+)'", said(built, **sizes))
    assert preset in said(built, backbone=folders["t5"])  # the preset has sizes
    assert built(backbone=folders["t5"], preset=preset).net
    text = said(built, backbone=folders["bert"], preset=preset)
    assert "use t5-small, t5-base, a folder with such a model, or None" in text
    assert built(backbone=None)
    assert "d=10 is no multiple of heads=3" in said(built, d=10, heads=3)
    assert built(d=9, heads=3)


def test_sbtrec_on_few_items_and_users(folders, run_on):
    small = {"split": "users", "epochs": 1, "encoder_epochs": 1, "examples": 4}

    def trained(**given):
        given = {"model": "sbtrec", "llm": folders["llama"], "negatives": 5} | small | given
        return train(*run_on(**given))

    [least] = named("ask for negatives=(\\d+) or fewer", said(trained, negatives=99))
    assert trained(negatives=int(least), codes=4)
    [most] = named("use at most (\\d+) codes", said(trained, codes=9999))
    model = trained(codes=int(most))[0]
    split = run_on(split="users")[1].split
    assert "give candidates [B, C]" in said(model.score, split.histories("test"))
    targets = split.targets("test")[:, None]
    assert model.score(split.histories("test"), targets).shape == targets.shape


def test_a_server_and_what_it_may_cost():
    text = said(configure, model="chat", url="localhost:8000")
    [url] = named("such as (\\S+),", text)
    assert configure(model="chat", url=url)
    text = said(configure, model="chat", send="temperature")
    one, other, free = named("send (\\w+) or (\\w+), or set price_out=(.+)[.]$", text)
    for send in (one, other, f"temperature {one}"):
        assert configure(model="chat", send=send)
    assert configure(model="chat", send="temperature", price_out=float(free))


# Records, weights, checkpoints ----------------------------------------------------------------


@pytest.mark.parametrize(
    "text, advice",
    [
        ("", "Delete it and run again"),
        ("[]", "Delete it and run again"),
        ({"schema_version": 1}, "Delete it and run again"),
        ({"seed": "zero"}, "Correct it, or delete it and run again"),
    ],
    ids=str,
)
def test_a_record_that_is_deleted_is_made_again(text, advice, run_on):
    run = run_on()
    path = made(run).path
    whole = path.read_text()
    path.write_text(text if isinstance(text, str) else json.dumps(json.loads(whole) | text))
    assert advice in said(lambda: made(run))
    path.write_text(whole)  # corrected
    assert made(run).path == path
    path.unlink()
    assert read_record(made(run).path)["metrics"]


def test_a_model_without_its_weights_is_made_again(run_on):
    run, data = run_on()
    made((run, data))
    shutil.rmtree(run.folder)
    [out_dir] = named("make the run again, with out_dir=(.+)[.]$", said(restore, run, data))
    made(run_on(out_dir=out_dir))
    assert restore(run, data)
    (run.folder / "model.json").unlink()
    assert "fit and save the model first" in said(restore, run, data)
    made((run, data))
    assert restore(run, data)


def test_weights_of_other_settings(run_on, tmp_path):
    narrow, wide = (build(*run_on(model="sasrec", d=d)) for d in (8, 16))
    (tmp_path / "saved").mkdir()
    save_model(tmp_path / "saved", narrow)
    text = said(load_model, tmp_path / "saved", wide)
    assert "Use the settings that it was trained with" in text
    kept = json.loads((tmp_path / "saved" / "model.json").read_text())  # which says them
    load_model(tmp_path / "saved", build(*run_on(model="sasrec", d=kept["d"])))


@pytest.mark.parametrize("follow", ["Delete it", "run without resume"])
def test_a_checkpoint_that_cannot_be_read(follow, run_on):
    given = {"model": "sasrec", "epochs": 1, "resume": True}
    run = run_on(**given)
    checkpoint = run[0].folder / "checkpoint.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text("cut off")
    text = said(lambda: made(run))
    assert follow in text and "weights_only" not in text
    if follow == "Delete it":
        checkpoint.unlink()
    else:
        run = run_on(**given | {"resume": False})
    assert made(run).record["metrics"]


def test_data_that_come_back(own, run_on, monkeypatch):
    "'Resume as it was begun', 'give the data that it was trained on'."
    given = {"model": "sasrec", "epochs": 2, "resume": True}
    table, whole = own / "interactions.csv", (own / "interactions.csv").read_text()
    with monkeypatch.context() as context:  # stopped before anything is evaluated
        context.setattr("promptrec.experiments.run.evaluate_run", None)
        with pytest.raises(TypeError):
            made(run_on(**given))
    table.write_text(f"{whole}reader 0,b29,99\n")
    text = said(lambda: made(run_on(**given)))
    assert "Resume as it was begun, or delete it" in text
    table.write_text(whole)
    assert made(run_on(**given)).record["curves"]
    table.write_text(f"{whole}reader 0,b29,99\n")
    assert "Give the data that it was trained on" in said(restore, *run_on(**given))
    table.write_text(whole)
    assert restore(*run_on(**given))


def test_records_that_do_not_go_together(tmp_path):
    assert "give the folder of records, or make some" in said(read_results, tmp_path, "a")
    path = invented_record(tmp_path, {"model": "markov"}, 0.0)
    shutil.copytree(tmp_path, tmp_path / "again")
    assert "are the same run. Keep one of them" in said(read_results, tmp_path, "a")
    shutil.rmtree(tmp_path / "again")
    pd.read_parquet(path.with_suffix(".parquet"))[::2].to_parquet(path.with_suffix(".parquet"))
    assert "Delete both and run again" in said(read_results, tmp_path, "a")
    path.unlink()
    path.with_suffix(".parquet").unlink()
    invented_record(tmp_path, {"model": "markov"}, 0.0)
    assert len(read_results(tmp_path, "a").runs) == 1


def test_a_folder_that_cannot_be_written(run_on, tmp_path):
    (tmp_path / "file").touch()
    text = said(lambda: made(run_on(out_dir=str(tmp_path / "file" / "runs"))))
    assert "Choose another folder" in text
    assert made(run_on(out_dir=str(tmp_path / "others"))).path.exists()


# A model of one's own -------------------------------------------------------------------------

OWN = """
import numpy as np

class Mine:
    def __init__(self, dataset): self.V = dataset.n_items
    def fit(self, split, loop=None, validate=None): pass
    def score(self, histories, candidates=None):
        return np.zeros((len(histories), self.V) if candidates is None else candidates.shape)
    def save(self, folder): pass
    def load(self, folder): pass
"""


def test_a_model_of_ones_own(tmp_path, run_on):
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    [given] = named("add the class, such as (.+):MyModel", said(lambda: run_on(model=str(file))))
    [name] = named("Did you mean '(.+)'", said(run_on, model=f"{given}:Mein"))
    assert made(run_on(model=f"{given}:{name}")).record["model"] == "mine"
    shutil.copy(file, tmp_path / "mine.txt")
    text = said(run_on, model=f"{tmp_path}/mine.txt:Mine")
    assert "its name must end in .py" in text


@pytest.mark.parametrize(
    "old, new, pattern",
    [
        ("def load", "def read", "a model has .*(load)"),
        (", candidates=None", "", r"score must take \((.+)\)"),
        ("(self, dataset)", "(self)", r"is made from \((\w+)\): let __init__ take it"),
    ],
)
def test_methods_of_a_model_of_ones_own(old, new, pattern, tmp_path, run_on):
    file = tmp_path / "mine.py"
    file.write_text(OWN.replace(old, new, 1))
    [wanted] = named(pattern, said(run_on, model=f"{file}:Mine"))
    source = file.read_text()
    if wanted == "load":
        source = source.replace(new, f"def {wanted}")
    elif wanted == "dataset":
        source = source.replace(new, f"(self, {wanted})", 1)
    else:
        source = re.sub(r"def score\(.*\)", f"def score({wanted})", source)
    file.write_text(source)
    assert run_on(model=f"{file}:Mine")


def test_a_name_that_is_taken(tmp_path, run_on):
    file = tmp_path / "mine.py"
    file.write_text(OWN.replace("Mine", "SasRec"))
    assert "Choose another name" in said(run_on, model=f"{file}:SasRec")
    file.write_text(OWN.replace("Mine", "MySasRec"))
    assert run_on(model=f"{file}:MySasRec")[0].model == "mysasrec"


# Recommendations, searches --------------------------------------------------------------------


def test_histories_as_they_are_advised(run_on):
    model = made(run_on(model="itemknn")).model
    titles = model.dataset.titles
    for wrong in (titles[0], [], 3):
        [such] = named(r"such as (\[.+\])", said(recommend, model, wrong))
        assert len(recommend(model, ast.literal_eval(such), k=3)) == 3
    [such] = named("such as '(.+)'", said(recommend, model, [0]))
    assert len(recommend(model, [such]))
    text = said(recommend, model, [titles[5].lower()])
    for near in named("Nearest: (.+)[.]$", text)[0].split("; "):
        assert len(recommend(model, [near]))
    assert "give one rating a title" in said(lambda: recommend(model, titles[:2].tolist(), [1]))
    assert len(recommend(model, titles[:2].tolist(), [1, None]))


def test_ratings_that_a_data_set_has(run_on, tmp_path):
    rated = [(*row, 1 + row[2] % 3) for row in SHOP]
    files = GOOD | interactions(table(f"{HEAD},rating", rated))
    given = {"dataset": str(write(tmp_path / "rated", files)), "candidates": "full"}
    model = build(*run_on(**given, model="mibert-pb"))
    text = said(recommend, model, ["Title 1"], [9])
    for rating in named("Known: (.+)[.]$", text)[0].split(", "):
        assert len(recommend(model, ["Title 1"], [float(rating)], k=2)) == 2


def test_a_search_on_few_items(own, tmp_path):
    where = {"records": tmp_path / "records", "out_dir": tmp_path / "runs"}

    def searched(n=2, **given):
        return search(str(own), "ease", n, "tiny", **where, **given)

    [largest] = named("ask for candidates='(.+)', or", said(searched))
    found = searched(candidates=largest)
    assert "go on with the search" in said(lambda: chosen(found, 3))
    assert chosen(searched(3, candidates=largest), 3)
    text = said(searched, candidates="full")
    [path] = named("^(.+) is a search of .* Delete it to begin again", " ".join(text.split()))
    (tmp_path / path).unlink()
    assert searched(candidates="full")["monitor"] == "full ndcg@10"
    [least] = named("must be a whole number, (\\d+) or more", said(searched, 0))
    assert len(searched(int(least), candidates="full")["trials"]) == 2


def test_tuning_on_few_items(own, notebook, tmp_path, monkeypatch):
    runs = []
    monkeypatch.setattr(engine, "run_all", lambda todo, *_: runs.extend(todo) or todo[:0])
    given = {"dataset": own, "model": "ease", "preset": "tiny", "trials": 1, "seeds": 1}
    given |= {"records": tmp_path / "records", "out_dir": tmp_path / "runs"}
    [largest] = named("ask for candidates='(.+)', or", said(lambda: notebook("tune", **given)))
    notebook("tune", **given, candidates=largest)
    assert [run["candidates"] for run in runs] == [largest]


def test_words_of_a_command():
    assert "'epochs' is not name=value" in said(parse_arguments, ["epochs"])
    assert parse_arguments(["epochs=3"]) == {"epochs": 3}


def test_shards(tmp_path):
    [shards] = named("such as (.+)[.]$", said(lambda: grid.missing([], tmp_path, "3")))
    for shard in shards.split(" or "):
        assert grid.missing([], tmp_path, shard) == []
