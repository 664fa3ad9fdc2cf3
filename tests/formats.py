"""Every format that is read: what writes a small whole file of it, and what reads it.

`test_faults.py` damages these files, `fuzz.py` makes up others.
"""

import gzip
import json
import lzma
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from torch import nn

from promptrec.baselines.counting import Popularity
from promptrec.data.custom import read_folder
from promptrec.data.dataset import Dataset
from promptrec.data.download import unpack
from promptrec.data.registry import load_dataset
from promptrec.data.safe_pickle import read_pickled_frame
from promptrec.evaluation.recommender import load_catalogue
from promptrec.evaluation.split import leave_one_out
from promptrec.predict.histories import HistoryTable, ItemNumbers, history_parts
from promptrec.testing.datasets import walks
from promptrec.testing.records import invented_record


@dataclass(frozen=True)
class Format:
    "A format, its writer, its reader, and what is promised of damage."

    make: Callable[[Path], Path]  # fills an empty folder; returns the file that is to be damaged
    read: Callable[[Path], Any]  # the file's content, comparable; raises `PromptrecError`
    sealed: bool = False  # a checksum covers each byte: no damage is taken for other content


FORMATS: dict[str, Format] = {}


def rows_of(ds: Dataset) -> tuple:
    "What a data set holds, comparable."
    return ds.hash, ds.titles.tolist(), ds.items["genres"].tolist()


# Tables of one's own ---------------------------------------------------------------------------

USERS = 12
INTERACTIONS = pd.DataFrame(
    {
        "user": [f"u{i % USERS}" for i in range(60)],
        "item": [f"b{i * 7 % 10}" for i in range(60)],
        "timestamp": [1_600_000_000 + 100 * i for i in range(60)],
        "rating": [i % 5 + 1 for i in range(60)],
    }
)
ITEMS = pd.DataFrame(
    {
        "item": [f"b{i}" for i in range(10)],
        "title": [f'Büch "{i}", again' for i in range(10)],
        "genres": ["Drama|Poetry"] * 10,
    }
)


def write_table(table: pd.DataFrame, path: Path) -> Path:
    "A table as the name of the file says."
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False, sep="\t" if ".tsv" in path.name else ",")
    return path


def own_folder(interactions: str, items: str, harmed: str) -> Format:
    "Somebody's two tables in files of these names, of which one is `harmed`."

    def make(folder: Path) -> Path:
        write_table(INTERACTIONS, folder / interactions)
        write_table(ITEMS, folder / items)
        return folder / harmed

    return Format(make, lambda path: rows_of(read_folder(path.parent)))


for _kind in ("csv", "tsv", "csv.gz", "parquet"):
    _name = f"interactions.{_kind}"
    FORMATS[f"own {_name}"] = own_folder(_name, "items.csv", _name)
    _name = f"items.{_kind}"
    FORMATS[f"own {_name}"] = own_folder("interactions.csv", _name, _name)


def atomic_files(harmed: str) -> Format:
    "RecBole's atomic files, of which one is `harmed`."

    def make(folder: Path) -> Path:
        heads = ["user_id:token", "item_id:token", "timestamp:float", "rating:float"]
        INTERACTIONS.set_axis(heads, axis=1).to_csv(folder / "x.inter", sep="\t", index=False)
        heads = ["item_id:token", "title:token_seq", "genres:token_seq"]
        plain = ITEMS.assign(title=[f"Book {i}" for i in range(10)])
        plain.set_axis(heads, axis=1).to_csv(folder / "x.item", sep="\t", index=False)
        return folder / harmed

    return Format(make, lambda path: rows_of(read_folder(path.parent)))


def domain_file() -> Format:
    "The words for one's own data."

    def make(folder: Path) -> Path:
        FORMATS["own interactions.csv"].make(folder)
        words = {"prefix": "reading books", "verb": "reads", "noun": "book"}
        (folder / "domain.json").write_text(json.dumps(words))
        return folder / "domain.json"

    return Format(make, lambda path: read_folder(path.parent).domain)


FORMATS["x.inter"] = atomic_files("x.inter")
FORMATS["x.item"] = atomic_files("x.item")
FORMATS["domain.json"] = domain_file()


# Releases --------------------------------------------------------------------------------------

ASINS = [f"B{i:09}" for i in range(10)]
REVIEWS = [
    {"reviewerID": f"A{i % 6}", "asin": ASINS[i % 7], "overall": 4.0, "unixReviewTime": 1388534400}
    for i in range(90)
]
PRODUCTS = [{"asin": a, "title": f"Soap {a}", "categories": [["Beauty", "Bath"]]} for a in ASINS]
GAMES = [{"id": str(i), "title": f"Game {i}", "genres": ["Action"]} for i in range(10)]
POSTED = [
    {
        "user_id": f"g{u}",
        "reviews": [{"item_id": str(i), "posted": "Posted May 1, 2014."} for i in range(u, u + 6)],
    }
    for u in range(4)
]


def lines(things: list) -> str:
    "Objects, one a line, in JSON."
    return "".join(json.dumps(thing) + "\n" for thing in things)


RELEASES: dict[str, tuple[str, dict[str, str]]] = {
    # data set -> its folder, and its files' texts
    "ml-100k": (
        "ml-100k",
        {
            "u.data": "".join(
                f"{i % 7 + 1}\t{i % 9 + 1}\t4\t88125094{i % 10}\n" for i in range(60)
            ),
            "u.item": "".join(
                f"{i + 1}|Film {i} (1995)|01-Jan-1995||http://x|0|1\n" for i in range(9)
            ),
            "u.genre": "unknown|0\nAction|1\n\n",
        },
    ),
    "ml-1m": (
        "ml-1m",
        {
            "ratings.dat": "".join(
                f"{i % 7 + 1}::{i % 9 + 1}::5::97830{i:04}\n" for i in range(60)
            ),
            "movies.dat": "".join(f"{i + 1}::Film {i} (1995)::Drama|War\n" for i in range(9)),
        },
    ),
    "ml-20m": (
        "ml-20m",
        {
            "ratings.csv": "userId,movieId,rating,timestamp\n"
            + "".join(f"{i % 7 + 1},{i % 9 + 1},4.5,11124{i:05}\n" for i in range(60)),
            "movies.csv": "movieId,title,genres\n"
            + "".join(f'{i + 1},"Film, the {i} (1995)",Drama|War\n' for i in range(9)),
        },
    ),
    "beauty": (
        "amazon-2014",
        {
            "ratings_Beauty.csv": "".join(
                f"{r['reviewerID']},{r['asin']},4.0,1388534400\n" for r in REVIEWS
            ),
            "meta_Beauty.json.gz": lines(PRODUCTS),
        },
    ),
    "beauty-5core": (
        "amazon-2014",
        {"reviews_Beauty_5.json.gz": lines(REVIEWS), "meta_Beauty.json.gz": lines(PRODUCTS)},
    ),
    "lastfm": (
        "hetrec2011-lastfm-2k",
        {
            "artists.dat": "id\tname\turl\tpictureURL\n"
            + "".join(f"{i}\tArtist {i}\thttp://x\thttp://y\n" for i in range(9)),
            "tags.dat": "tagID\ttagValue\n1\tmetal\n2\tfolk\n",
            "user_artists.dat": "userID\tartistID\tweight\n1\t1\t5\n",
            "user_taggedartists-timestamps.dat": "userID\tartistID\ttagID\ttimestamp\n"
            + "".join(f"{i % 6}\t{i % 9}\t1\t12385368{i:05}\n" for i in range(40)),
        },
    ),
    "steam-australian": (
        "steam",
        {
            "australian_user_reviews.json.gz": "".join(f"{u!r}\n" for u in POSTED),
            "steam_games.json.gz": lines(GAMES),
        },
    ),
}


def release(name: str, harmed: str) -> Format:
    "The files of a data set, as its makers lay them out, of which one is `harmed`."

    def make(folder: Path) -> Path:
        inner, files = RELEASES[name]
        (folder / inner).mkdir()
        for file, text in files.items():
            raw = text.encode()
            raw = gzip.compress(raw, mtime=0) if file.endswith(".gz") else raw
            (folder / inner / file).write_bytes(raw)
        return folder / inner / harmed

    return Format(make, lambda path: rows_of(load_dataset(name, path.parents[1])))


for _name, (_, _files) in RELEASES.items():
    for _file in _files:
        if _file not in ("u.genre", "user_artists.dat"):
            FORMATS[f"{_name} {_file}"] = release(_name, _file)


def pickled_frame(pack: Callable[[bytes], bytes], name: str) -> Format:
    "A pickled table, packed."

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(pack(pickle.dumps(INTERACTIONS)))
        return folder / name

    return Format(make, lambda path: read_pickled_frame(path).to_dict("list"))


FORMATS["pickled table"] = pickled_frame(bytes, "t.pkl")
FORMATS["pickled table in gzip"] = pickled_frame(gzip.compress, "t.pkl.gz")
FORMATS["pickled table in xz"] = pickled_frame(lzma.compress, "t.pkl.xz")


NUMBERS = count()


def archive() -> Format:
    "A zip archive, or a wheel, which is one."

    def make(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "toy.zip", "w", zipfile.ZIP_DEFLATED) as z:
            z.writestr("toy/a.txt", "hello\n" * 20)
            z.writestr("toy/b/c.txt", "!")
        return folder / "toy.zip"

    def read(path: Path) -> dict[str, bytes]:
        folder = path.parent / f"out-{next(NUMBERS)}"  # not into the same folder twice
        unpack(path, folder, "toy")
        found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.txt")}
        return found

    return Format(make, read)


FORMATS["archive"] = archive()


# Histories -------------------------------------------------------------------------------------


def histories(name: str) -> Format:
    "A table of histories."

    def read(path: Path) -> list:
        table, ds = HistoryTable(path), walks(4, 10)
        ds.items["item_id"] = [f"b{i}" for i in range(10)]
        found = []
        for part in history_parts(table, ItemNumbers(ds, "item" not in table.names), path.parent):
            h = part.histories
            found.append((part.users.to_pylist(), h.item.tolist(), h.offsets.tolist()))
        return found

    return Format(lambda folder: write_table(INTERACTIONS, folder / name), read)


for _kind in ("csv", "tsv", "csv.gz", "parquet"):
    FORMATS[f"histories.{_kind}"] = histories(f"histories.{_kind}")


# What runs write -------------------------------------------------------------------------------


def checkpoint() -> Format:
    "A checkpoint of the loop."
    from promptrec.training.loop import LoopSettings, LoopState, Stepper, load_state, save_state

    def stepper(seed: int) -> Stepper:
        torch.manual_seed(seed)
        model = nn.Linear(4, 3)
        return Stepper(model, [{"params": model.parameters(), "lr": 0.1}], LoopSettings())

    def make(folder: Path) -> Path:
        state = LoopState(epoch=3, step=2, sums={"loss": 0.5}, curves=[{"epoch": 1, "loss": 2.0}])
        save_state(folder / "checkpoint.pt", state, stepper(0), {"code": "abc"})
        return folder / "checkpoint.pt"

    def read(path: Path) -> tuple:
        new = stepper(1)
        state = load_state(path, new, {"code": "abc"})
        weights = [w.tolist() for w in new.model.state_dict().values()]
        return state, weights, str(new.optimizer.state_dict())

    return Format(make, read, sealed=True)


GIVEN = {"dataset": "ml-100k", "model": "popularity"}


def record_json() -> Format:
    "The record of a run."
    from promptrec.experiments.records import read_record

    return Format(lambda folder: invented_record(folder, GIVEN, 0.5, users=30), read_record)


def ranks() -> Format:
    "Each user's ranks, beside a record."
    from promptrec.experiments.records import read_record
    from promptrec.reproduction.rows import read_users

    def make(folder: Path) -> Path:
        return invented_record(folder, GIVEN, 0.5, users=30).with_suffix(".parquet")

    def read(path: Path) -> dict:
        json_file = path.with_suffix(".json")
        return read_users(json_file, read_record(json_file)).to_dict("list")

    return Format(make, read, sealed=True)


def saved_model(harmed: str, sealed: bool = True) -> Format:
    "A saved model and its catalogue, of which one file is `harmed`."

    def make(folder: Path) -> Path:
        model = Popularity(walks(20, 8))
        model.fit(leave_one_out(model.dataset))
        model.save(folder)
        return folder / harmed

    def read(path: Path) -> tuple:
        own = load_catalogue(path.parent)
        model = Popularity(own)
        model.load(path.parent)
        return (
            own.name,
            own.domain,
            own.titles.tolist(),
            own.all_ratings.size,
            model.counts.tolist(),
        )

    return Format(make, read, sealed)


def search_file() -> Format:
    "What a search tried."
    from promptrec.experiments.search import searches

    def make(folder: Path) -> Path:
        trial = {"settings": {"d": 50}, "value": 0.25, "epoch": 2, "epochs": 3, "seconds": 1.5}
        about = {"dataset": "my-books", "model": "sasrec", "preset": "tiny", "monitor": "ndcg@10"}
        found = about | {
            "space": {"d": [50, 64]},
            "trials": [trial, {"settings": {}, "failed": "x"}],
        }
        path = folder / "search-sasrec-tiny.json"
        path.write_text(json.dumps(found, indent=1))
        return path

    return Format(make, lambda path: searches(path.parent).astype(str).to_dict("list"))


def journal() -> Format:
    "Optuna's journal of a search that processes share."
    from filelock import FileLock

    from promptrec.experiments.search import _study_in, load_optuna

    def study(path: Path) -> Any:
        lock = FileLock(path.with_suffix(".lock"))
        return _study_in(path, lock, 1, path.with_name("search.json"))

    def make(folder: Path) -> Path:
        path = folder / "optuna.journal"
        space = {"d": load_optuna().distributions.CategoricalDistribution((50, 64))}
        made = study(path)
        for value in (0.1, 0.3):
            asked = made.ask(space)
            asked.report(value, 1)
            made.tell(asked, value)
        return path

    def read(path: Path) -> list:
        return [(t.number, t.value, t.params, t.state.name) for t in study(path).trials]

    return Format(make, read)


def piece(harmed: str) -> Format:
    "A piece of a prediction that was interrupted: read whole, or made again."
    from promptrec.predict.recommend import Pieces

    table = pa.table({"user": ["a", "b"], "rank": [1, 1], "item": ["x", "y"]})

    def make(folder: Path) -> Path:
        pieces = Pieces(folder / "out.csv", {"weights": "abc"})
        pieces.write(0, table)
        return next(pieces.folder.glob(harmed))

    def read(path: Path) -> str:
        out = path.parent.with_name("out.csv")
        pieces = Pieces(out, {"weights": "abc"})
        if not pieces.has(0):
            pieces.write(0, table)
        pieces.join()
        return out.read_text()

    return Format(make, read, sealed=True)


def answer() -> Format:
    "A stored answer of a model behind a server."
    from promptrec.sbtrec.chat import _stored_answer

    def make(folder: Path) -> Path:
        path = folder / "answer.json"
        path.write_text(json.dumps({"answer": "Jaws", "request": {"model": "m"}}))
        return path

    return Format(make, _stored_answer)


FORMATS["checkpoint"] = checkpoint()
FORMATS["record"] = record_json()
FORMATS["ranks"] = ranks()
for _file in ("model.safetensors", "items.parquet", "catalogue.json"):
    FORMATS[f"saved {_file}"] = saved_model(_file)
FORMATS["saved model.json"] = saved_model("model.json", sealed=False)
FORMATS["search"] = search_file()
FORMATS["optuna.journal"] = journal()
FORMATS["piece"] = piece("*.parquet")
FORMATS["plan of pieces"] = piece("plan.json")
FORMATS["stored answer"] = answer()


# Pre-trained models ----------------------------------------------------------------------------


@cache
def words() -> Any:
    "A tokenizer of a few words."
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
    plain = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, "[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = {f"{m}_token": f"[{m.upper()}]" for m in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="[SEP]", **marks)


SMALL = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)


def backbone(harmed: str) -> Format:
    "An encoder's folder, of which one file is `harmed`."
    from transformers import BertConfig, BertModel

    from promptrec.mibert.encoder import load_encoder, load_tokenizer

    def make(folder: Path) -> Path:
        torch.manual_seed(0)
        (folder / "bert").mkdir()
        BertModel(BertConfig(vocab_size=7, **SMALL)).save_pretrained(folder / "bert")
        words().save_pretrained(folder / "bert")
        return folder / "bert" / harmed

    def read(path: Path) -> tuple:
        encoder = load_encoder(str(path.parent))
        load_tokenizer(str(path.parent))
        return type(encoder).__name__, len(list(encoder.parameters()))

    return Format(make, read)


def language_model(harmed: str) -> Format:
    "A language model's folder, of which one file is `harmed`."
    from transformers import LlamaConfig, LlamaForCausalLM

    from promptrec.sbtrec.language_model import load_llm

    def make(folder: Path) -> Path:
        torch.manual_seed(0)
        (folder / "llama").mkdir()
        LlamaForCausalLM(LlamaConfig(vocab_size=7, **SMALL)).save_pretrained(folder / "llama")
        words().save_pretrained(folder / "llama")
        return folder / "llama" / harmed

    def read(path: Path) -> tuple:
        model, tokenizer = load_llm(str(path.parent))
        return type(model).__name__, len(list(model.parameters())), len(tokenizer)

    return Format(make, read)


for _file in ("config.json", "model.safetensors", "tokenizer.json"):
    FORMATS[f"backbone {_file}"] = backbone(_file)
    FORMATS[f"language model {_file}"] = language_model(_file)
