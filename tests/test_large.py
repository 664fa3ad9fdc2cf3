"""Data on disk equal data in memory: every format and packing, faults, two processes, changes."""

import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet as pq
from test_amazon import SHOP, ids, levels, stars, styles, times, words, write_shop
from test_amazon import WAYS as AMAZON_WAYS
from test_custom_llara import LAYOUTS, folders, write

from promptrec.core import PromptrecError
from promptrec.data import large, stored
from promptrec.data.amazon import read_amazon
from promptrec.data.custom import read_folder
from promptrec.data.large import open_amazon, open_folder
from promptrec.data.registry import dataset_name, load_dataset
from promptrec.evaluation.candidates import draw_candidates
from promptrec.evaluation.split import leave_one_out

pytest.importorskip("duckdb")


@pytest.fixture(autouse=True, scope="module")
def everything_is_large(tmp_path_factory):
    "The large path for all sizes, with a cache of its own."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMPTREC_LARGE", "0")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def same(one, two):
    "Fail unless two data sets are equal in all that they hold."
    for name in ("user", "item", "rating", "timestamp"):
        a, b = getattr(one, name), getattr(two, name)
        assert a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True), name
    assert list(one.users) == list(two.users)
    pd.testing.assert_frame_equal(one.items, two.items)
    for name in ("name", "domain", "listed", "notes", "steps", "hash"):
        assert getattr(one, name) == getattr(two, name), name


def outcome(read, *where):
    "A data set, or what the error says."
    try:
        return read(*where)
    except PromptrecError as e:
        return str(e)


def agree(one, two):
    "Fail unless two outcomes are equal data sets or equal errors."
    if isinstance(one, str) or isinstance(two, str):
        assert one == two
    else:
        same(one, two)


# ---- data of one's own ----


@settings(max_examples=25, deadline=None)
@given(folders(), st.sampled_from(LAYOUTS), st.sampled_from([50, 1 << 20]))
def test_own_data_are_equal(given, layout, block):
    items, rows, end, last = given
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "_BLOCK", block)
        mine = write(Path(folder) / "mine", layout, rows, items, end, last)
        agree(outcome(open_folder, mine), outcome(read_folder, mine))


TABLE = "user,item,rating,timestamp\nann,m1,4,1700000000\nbob,m1,,1700000001\nbob,m2,3,1700000001\n"
ITEMS = "item,title,genres\nm1,Heat,Crime|Drama\nm2,Jaws,\n"


def packed(text, packing):
    "Bytes of a text, plain or packed."
    if packing == "gz":
        return gzip.compress(text.encode())
    if packing == "zst":
        out = pa.BufferOutputStream()
        with pa.CompressedOutputStream(out, "zstd") as file:
            file.write(text.encode())
        return out.getvalue().to_pybytes()
    return text.encode()


def folder_of(path, interactions, items=ITEMS, name="interactions.csv"):
    "A folder with two tables."
    path.mkdir(parents=True, exist_ok=True)
    raw = interactions if isinstance(interactions, bytes) else interactions.encode()
    (path / name).write_bytes(raw)
    (path / "items.csv").write_text(items)
    return path


def as_json(text):
    "A CSV table as JSON lines, numbers as numbers."
    head, *rows = [line.split(",") for line in text.splitlines()]
    lines = []
    for row in rows:
        cells = []
        for name, cell in zip(head, row):
            value = cell if re.fullmatch("[0-9.]+", cell) else json.dumps(cell or None)
            cells.append(f'"{name}": {value}')
        lines.append("{" + ", ".join(cells) + "}\n")
    return "".join(lines)


@pytest.mark.parametrize("packing", ["", "gz", "zst"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_every_format_and_packing(tmp_path, kind, packing):
    text = {"csv": TABLE, "tsv": TABLE.replace(",", "\t"), "jsonl": as_json(TABLE)}[kind]
    name = f"interactions.{kind}" + f".{packing}" * bool(packing)
    mine = folder_of(tmp_path / "mine", packed(text, packing), name=name)
    plain = folder_of(tmp_path / "plain" / "mine", TABLE)
    ds = open_folder(mine)
    assert isinstance(ds.item, np.memmap) and isinstance(ds.timestamp, np.memmap)
    same(ds, read_folder(mine))
    same(ds, read_folder(plain))


HARD = {  # what reads differently where something else stands further down
    "an id that is no number": "user,item,timestamp\n7,1,5\n8,2,6\nx,3,7\n",
    "zeros before an id": "user,item,timestamp\n7,1,5\n8,2,6\n9,03,7\n",
    "a line break in quotes": 'user,item,timestamp\n"a\nb",1,5\n"a\nb",2,4\nc,"3\n\n",7\n',
    "quotes doubled": 'user,item,timestamp\n"a""b",1,5\nc,2,6\n"d,",3,7\n',
    "quotes with backslashes": 'user,item,timestamp\na,1,5\nc,2,6\n"a\\"b",3,7\n"x\\\\y",3,8\n',
    "a quote within a field": 'user,item,timestamp\na,1,5\n5" disk,2,6\n"c",3,7\nd,4,8\n',
    "decimal commas": "user;item;timestamp;rating\na;1;5;4\nb;2;6;3\nc;3;7;4,5\n",
    "a point and a comma": "user;item;timestamp;rating\na;1;5;1.234\nb;2;6;3\nc;3;7;4,5\n",
    "decimal times": "user,item,timestamp\na,1,5\na,2,4\na,3,4.5\na,4,4.25\n",
    "times that are no whole seconds": "user,item,timestamp\na,1,5\na,2,1e1\na,3,4.5\n",
    "milliseconds": "user,item,timestamp\na,1,1700000000007\na,2,1700000000005\n",
    "nanoseconds": "user,item,timestamp\na,1,1700000000000000300\na,2,1700000000000000100\n",
    "the same time twice": "user,item,timestamp\na,2,5\na,1,5\na,2,5\na,2,6\na,1,5\n",
    "dates": "user,item,timestamp\na,1,2024-05-02\na,2,2024-05-01T10:00:00Z\nb,1,2024-05-03\n",
    "dates of nanoseconds": "user,item,timestamp\na,1,2024-05-02\n"
    "a,2,2024-05-01T10:00:00.000000002Z\na,3,2024-05-01T10:00:00.000000001Z\n",
    "a date that cannot be": "user,item,timestamp\na,1,2024-05-02\na,2,2024-02-30\n",
    "numbers, then dates": "user,item,timestamp\na,1,5\na,2,2024-02-30\n",
    "two clocks": "user,item,timestamp\na,1,1700000000\na,2,1700000000000\nb,1,1700000001\n",
    "lost digits": "user,item,timestamp\na,1,1.7E+12\na,2,1.7001E+12\n",
    "the middle of two units": "user,item,timestamp\na,1,9e9\na,2,1.2e10\n",
    "an impossible time": "user,item,timestamp\n"
    + "".join(f"u{n},1,{1_700_000_000 + n}\n" for n in range(30))
    + "x,2,0\n",
    "impossible times": "user,item,timestamp\n"
    + "".join(f"u{n},1,{1_700_000_000 + n}\n" for n in range(30))
    + "x,2,5\nx,3,6\n",
    "blank lines": "user,item,timestamp\n\na,1,5\n\n\nb,2,6\n\n",
    "Windows": "\ufeffuser,item,timestamp\r\na,1,5\r\nb,2,6",
    "a short line": "user,item,timestamp\na,1,5\nb,2,6\nc,3\n",
    "a long line": "user,item,timestamp\na,1,5\nb,2,6\nc,3,7,8\n",
    "no item": "user,item,timestamp\na,1,5\nb,2,6\nc, ,7\n",
    "no time": "user,item,timestamp\na,1,5\nb,2,6\nc,3,\n",
    "a rating that is none": "user,item,timestamp,rating\na,1,5,4\nb,2,6,five\n",
    "quotes that do not end": 'user,item,timestamp\na,1,5\n"b,2,6\nc,3,7\n',
    "text after quotes": 'user,item,timestamp\na,1,5\n"b"x,2,6\nc,3,7\n',
    "no column of times": "user,item\na,1\n",
    "two columns of items": "user,item,Item,timestamp\na,1,1,5\n",
    "a header alone": "user,item,timestamp\n",
    "nothing": "",
    "a spreadsheet": "PK\x03\x04",
    "one column": "user item timestamp\na 1 5\n",
    "other items": "user,item,timestamp\na,x1,5\n",
}


@pytest.mark.parametrize("block", [40, 1 << 20])
@pytest.mark.parametrize("what", HARD)
def test_hard_tables_are_read_alike(tmp_path, monkeypatch, what, block):
    monkeypatch.setattr(large, "_BLOCK", block)
    items = "item,title\n" + "".join(f"{n},Book {n}\n" for n in range(9))
    mine = folder_of(tmp_path / "mine", HARD[what], items)
    agree(outcome(open_folder, mine), outcome(read_folder, mine))


def test_a_line_that_is_not_utf_8_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(large, "_BLOCK", 30)
    mine = folder_of(tmp_path / "mine", TABLE.encode() + b"caf\xe9,m1,3,1700000000\n")
    assert "line 5: not utf-8" in outcome(open_folder, mine)
    agree(outcome(open_folder, mine), outcome(read_folder, mine))


@pytest.mark.parametrize(
    "line, says",
    [
        ('{"user": "x", "item": "m1", "timestamp": [1]}', "line 4: field 'timestamp' is not"),
        ('{"user": {"a": 1}, "item": "m1", "timestamp": 1}', "line 4: field 'user' is not string"),
        ('{"user": "x", "item": "m1"}', "line 4, column 'timestamp': an empty time"),
        ('["x", "m1", 1]', "line 4: not an object with named fields"),
        ('{"user": "x"', "line 4: not JSON"),
        ('{"user": "\\ud800", "item": "m1", "timestamp": 1}', "line 4: field 'user' is not string"),
    ],
)
def test_bad_json_lines_are_named(tmp_path, line, says):
    mine = folder_of(tmp_path / "mine", as_json(TABLE) + line + "\n", name="interactions.jsonl")
    found = outcome(open_folder, mine)
    assert says in found and "interactions.jsonl" in found
    agree(found, outcome(read_folder, mine))


def test_parts_and_types_of_parquet(tmp_path):
    mine = folder_of(tmp_path / "mine", TABLE, name="unused.csv")
    (mine / "unused.csv").unlink()
    (mine / "interactions.parquet").mkdir()
    when = pa.array([1_700_000_000_000_000_003, 1_700_000_000_000_000_001], pa.timestamp("ns"))
    for n in (0, 10, 9):
        table = {
            "user": pa.array(["ann", f"u{n}"]).dictionary_encode(),
            "item": ["m1", "m2"],
            "timestamp": when,
            "rating": pa.array([n, None], pa.int8()),
        }
        pq.write_table(pa.table(table), mine / f"interactions.parquet/part-{n}.parquet")
    same(open_folder(mine), read_folder(mine))


DAYS = pa.array([1_700_000_000_000_000, 1_700_000_001_000_000], pa.timestamp("us"))


@pytest.mark.parametrize(
    "one, other",
    [
        ({"timestamp": DAYS}, {"timestamp": [1, 2]}),
        ({"timestamp": [1, 2]}, {"timestamp": DAYS}),
        ({"timestamp": [1, 2]}, {"timestamp": [1.5, 2.5]}),
        ({"timestamp": ["1", "2"]}, {"timestamp": [1, 2]}),
        ({"user": ["u1", "u2"]}, {"user": [1, 2]}),
        ({"rating": ["4", "5"]}, {"rating": [4.5, 1e39]}),
        ({"rating": [4, 5]}, {"rating": [4.5, 1e39]}),
    ],
)
def test_parts_of_different_types_are_read_or_refused_alike(tmp_path, one, other):
    mine = folder_of(tmp_path / "mine", "", name="unused.csv")
    (mine / "interactions.parquet").mkdir()
    usual = {"user": ["u1", "u2"], "item": ["m1", "m2"], "timestamp": [1, 2]}
    for n, part in enumerate((one, other)):
        pq.write_table(pa.table(usual | part), mine / f"interactions.parquet/part-{n}.parquet")
    agree(outcome(open_folder, mine), outcome(read_folder, mine))


def test_ids_of_two_kinds(tmp_path):
    "Numbers in one file and text in the other are compared as text, and sorted so."
    numbers = "user,item,timestamp\n1,10,1\n2,9,2\n"
    mine = folder_of(tmp_path / "mine", numbers, "item,title\n10,Heat\n9,Jaws\nx,Alien\n")
    ds = open_folder(mine)
    assert ds.items["item_id"].tolist() == ["10", "9"] and ds.users.tolist() == [1, 2]
    same(ds, read_folder(mine))
    texts = folder_of(tmp_path / "b" / "mine", numbers + "3,x,3\n", "item,title\n10,Heat\n9,Jaws\n")
    same(open_folder(texts), read_folder(texts))


# ---- Amazon ----


@settings(max_examples=25, deadline=None)
@given(st.data(), st.sampled_from(AMAZON_WAYS), styles, st.sampled_from(["\n", "\r\n"]))
def test_amazon_is_equal(data, where, style, end):
    name, way = where
    unknown = st.none() if not any(".csv" in f for f in way.files) else st.nothing()
    review = st.tuples(ids, ids, stars | unknown, times)
    reviews = data.draw(st.lists(review, min_size=1, max_size=12))
    product = st.tuples(ids, st.none() | words, levels)
    products = data.draw(st.lists(product, min_size=1, max_size=6))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "_BLOCK", 60)
        write_shop(folder, name, way, reviews, products, style=style, end=end, last=end)
        same(open_amazon(name, folder), read_amazon(name, folder))


@pytest.mark.parametrize(
    "fault",
    [
        "A1,B1,5.0,1318896000,7",
        "A1,B1,six,1318896000",
        ",B1,5.0,1318896000",
        "A1,B1,0,1318896000",
        "A1,B1,5.0,13188960000",
        "",
        "caf\xe9,B1,5.0,1318896000",
    ],
)
@pytest.mark.parametrize("often", [1, 3])
def test_faults_in_reviews_are_named_alike(tmp_path, monkeypatch, fault, often):
    monkeypatch.setattr(large, "_BLOCK", 50)
    [way, *_] = [way for name, way in AMAZON_WAYS if name == "beauty"]
    path, _ = write_shop(tmp_path, "beauty", way, *SHOP)
    lines = [f"A{n},B1,5.0,{1318896000 + n}" for n in range(150)]
    for n in range(often):
        lines.insert(7 + 40 * n, fault)
    path.write_bytes("\n".join(lines).encode("latin-1"))
    agree(outcome(open_amazon, "beauty", tmp_path), outcome(read_amazon, "beauty", tmp_path))


@pytest.mark.parametrize("kind", ["timestamp", "last_out"])
@pytest.mark.parametrize("end", [".csv.gz", ".csv"])
def test_the_parts_of_the_official_5_core_are_all_its_reviews(tmp_path, kind, end):
    header = "user_id,parent_asin,rating,timestamp\n"
    lines = [f"A{n % 9},B{n % 7},{n % 5 + 1}.0,{1_600_000_000_000 + n // 3}\n" for n in range(90)]
    meta = "\n".join(json.dumps({"parent_asin": f"B{n}", "title": f"Ball {n}"}) for n in range(7))
    name, pack = (
        "sports-and-outdoors-5core-2023",
        packed if end == ".csv.gz" else lambda t, _: t.encode(),
    )

    def put(path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pack(text, "gz"))

    for folder in ("parts", "whole"):
        top = tmp_path / folder / "amazon-2023"
        last = ".jsonl.gz" if end == ".csv.gz" else ".jsonl"
        put(top / f"raw/meta_categories/meta_Sports_and_Outdoors{last}", meta)
    for part, some in (("train", lines[:70]), ("valid", lines[70:80]), ("test", lines[80:])):
        path = f"parts/amazon-2023/benchmark/5core/{kind}/Sports_and_Outdoors.{part}{end}"
        put(tmp_path / path, header + "".join(some))
    path = f"whole/amazon-2023/benchmark/5core/rating_only/Sports_and_Outdoors{end}"
    put(tmp_path / path, header + "".join(lines))
    parts, whole = (read_amazon(name, tmp_path / folder) for folder in ("parts", "whole"))
    same(parts, whole)
    for folder in ("parts", "whole"):
        same(open_amazon(name, tmp_path / folder), whole)
    written = "amazon-2023-Sports_and_Outdoors-5core"
    assert dataset_name(written) == name


# ---- once, whole, and again where the source changed ----


def made(name):
    "Folders and files of the cache, also half-made ones."
    return sorted(p.name for p in (stored.cache_dir() / "large").glob(f"*{name}*"))


def test_made_once_and_again_for_a_changed_source(tmp_path):
    mine = folder_of(tmp_path / "changing", TABLE)
    first = open_folder(mine)
    assert len([p for p in made("changing") if not p.startswith(".")]) == 1
    stamp = (mine / "interactions.csv").stat()
    (mine / "interactions.csv").write_text(TABLE.replace("bob,m2,3", "bob,m2,4"))
    os.utime(mine / "interactions.csv", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    second = open_folder(mine)  # of the same size and date
    assert first.hash != second.hash
    same(second, read_folder(mine))
    (mine / "items.csv").write_text(ITEMS.replace("Heat", "Cold"))
    same(open_folder(mine), read_folder(mine))
    assert len([p for p in made("changing") if not p.startswith(".")]) == 3


@pytest.mark.parametrize(
    "file", [*(f"{c}.npy" for c in stored._COLUMNS), "users.arrow", "items.parquet", "dataset.json"]
)
@pytest.mark.parametrize("fault", ["cut", "flipped", "gone"])
def test_a_damaged_folder_is_an_error_and_made_again(tmp_path, file, fault):
    mine = folder_of(tmp_path / "damaged", TABLE)
    whole = open_folder(mine)
    [folder] = [p for p in (stored.cache_dir() / "large").glob("damaged-*") if p.is_dir()]
    path = folder / file
    raw = path.read_bytes()
    path.unlink()
    if fault != "gone":
        at = len(raw) // 2
        path.write_bytes(
            raw[:-1] if fault == "cut" else raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        )
    try:
        same(stored.open_stored(folder), whole)
    except PromptrecError as e:
        assert str(folder) in str(e) and "is made again" in str(e)
    else:
        assert file == "dataset.json"
    same(open_folder(mine), read_folder(mine))


def test_an_interrupted_conversion_leaves_nothing(tmp_path, monkeypatch):
    mine = folder_of(tmp_path / "interrupted", TABLE)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(large, "write_facts", interrupt)
        with pytest.raises(KeyboardInterrupt):
            open_folder(mine)
    assert [p for p in made("interrupted") if not p.endswith(".lock")] == []
    same(open_folder(mine), read_folder(mine))


CHILD = """
import os, sys, time
from promptrec.data import large
usual = large.write_facts
def slowly(*args):
    print("writing", flush=True)
    time.sleep(float(sys.argv[2]))
    usual(*args)
large.write_facts = slowly
print(large.open_folder(sys.argv[1]).hash, flush=True)
"""


def test_a_killed_conversion_is_cleaned_up(tmp_path):
    mine = folder_of(tmp_path / "killed", TABLE)
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(mine), "60"], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"writing\n"
    child.kill()
    child.wait()
    assert any(p.startswith(".killed") and not p.endswith(".lock") for p in made("killed"))
    same(open_folder(mine), read_folder(mine))
    assert not any(p.startswith(".killed") and not p.endswith(".lock") for p in made("killed"))


def test_two_processes_at_once(tmp_path):
    mine = folder_of(tmp_path / "shared", TABLE)
    command = [sys.executable, "-c", CHILD, str(mine), "1"]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [child.communicate()[0].split() for child in children]
    assert sorted(map(len, said)) == [1, 2]  # one of them wrote
    assert {words[-1] for words in said} == {read_folder(mine).hash}


def test_a_source_that_changes_meanwhile_is_an_error(tmp_path, monkeypatch):
    mine = folder_of(tmp_path / "restless", TABLE)
    usual = large.write_facts

    def meanwhile(*args):
        (mine / "interactions.csv").write_text(TABLE + "eve,m1,2,1700000009\n")
        usual(*args)

    monkeypatch.setattr(large, "write_facts", meanwhile)
    with pytest.raises(PromptrecError, match="interactions.csv changed while it was read"):
        open_folder(mine)
    assert [p for p in made("restless") if not p.endswith(".lock")] == []


@pytest.fixture
def small_disk(tmp_path):
    "A file system of some KB in memory; the test is skipped where it cannot be mounted."

    def mount(kilobytes):
        run = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(tmp_path / "disk")]
        (tmp_path / "disk").mkdir(exist_ok=True)
        if subprocess.run(run, capture_output=True).returncode:
            pytest.skip("needs root to mount a small disk")
        return tmp_path / "disk"

    yield mount
    subprocess.run(["umount", str(tmp_path / "disk")], capture_output=True)


@pytest.mark.parametrize("kilobytes", [4, 64, 300, 600, 1000])
def test_a_full_disk_is_a_clear_error(tmp_path, monkeypatch, small_disk, kilobytes):
    "The disk is full at another step each time: the lock, the database, a column."
    rows = "".join(f"u{n % 97},m{n % 2 + 1},3,{1_700_000_000 + n}\n" for n in range(60_000))
    mine = folder_of(tmp_path / "full", "user,item,rating,timestamp\n" + rows)
    disk = small_disk(kilobytes)
    monkeypatch.setenv("XDG_CACHE_HOME", str(disk))
    with pytest.raises(PromptrecError, match=r"Cannot write the data set in .*: .*XDG_CACHE_HOME"):
        open_folder(mine)
    assert [p.name for p in disk.rglob("*") if p.is_file() and p.suffix != ".lock"] == []


def test_without_duckdb_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(PromptrecError, match=r'pip install "promptrec\[large\]"'):
        open_folder(folder_of(tmp_path / "lacking", TABLE))


def test_below_the_size_the_readers_in_memory_are_used(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPTREC_LARGE", "1_000_000")
    ds = open_folder(folder_of(tmp_path / "small", TABLE))
    assert not isinstance(ds.item, np.memmap) and made("small") == []
    files = [tmp_path / "small" / "interactions.csv", tmp_path / "small" / "items.csv"]
    size = sum(file.stat().st_size for file in files)
    for most, beyond in ((size, False), (size - 1, True)):
        monkeypatch.setenv("PROMPTREC_LARGE", str(most))
        assert large.is_large(files) == beyond


# ---- what comes after ----


def test_filters_splits_and_candidates_of_data_on_disk(tmp_path):
    generator = np.random.default_rng(0)
    rows = [f"u{u},m{i},{t}" for u, i, t in generator.integers(0, (60, 90, 5000), (900, 3))]
    items = "item,title\n" + "".join(f"m{n},Book {n}\n" for n in range(90))
    mine = folder_of(tmp_path / "shop", "user,item,timestamp\n" + "\n".join(rows), items)
    stored = load_dataset(str(mine))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMPTREC_LARGE", "1_000_000")
        plain = load_dataset(str(mine))
    same(stored, plain)
    assert isinstance(stored.item, np.memmap)
    one, two = leave_one_out(stored), leave_one_out(plain)
    assert one.hash == two.hash
    for part, c in draw_candidates(two, "popularity-10").items():
        mapped = draw_candidates(one, "popularity-10")[part]
        assert isinstance(mapped.items, np.memmap) and mapped.hash == c.hash
        assert draw_candidates(one, "popularity-10")[part].hash == c.hash  # read back
    histories = [split.histories("test") for split in (one, two)]
    assert np.array_equal(histories[0].item, histories[1].item)
