"""Own data and LLaRA's splits: all layouts agree, faults are named, released windows come back."""

import csv
import gzip
import io
import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet as pq

from promptrec.core import PromptrecError
from promptrec.data.custom import read_folder
from promptrec.data.download import locate, sources_at_hand
from promptrec.data.llara import LLARA_RELEASES, read_llara, rebuild_movielens
from promptrec.data.movielens import read_movielens
from promptrec.data.safe_pickle import read_pickled_frame
from promptrec.experiments.parameters import configure
from promptrec.experiments.run import execute, prepare
from promptrec.training.batches import SequenceBatches

REAL = os.environ.get("PROMPTREC_DATA")
real = pytest.mark.skipif(
    not REAL, reason="set PROMPTREC_DATA to a folder with the official files to check their counts"
)


# ---- data of one's own ----

LAYOUTS = ["csv", "csv.gz", "parquet", "atomic"]


def to_csv(head, rows, sep=",", end="\n", last=True):
    "Bytes of a delimited file; with commas, fields are quoted where they must be."
    if sep == "\t":
        text = end.join("\t".join(map(str, r)) for r in [head, *rows])
    else:
        out = io.StringIO(newline="")
        csv.writer(out, lineterminator=end).writerows([head, *rows])
        text = out.getvalue().removesuffix(end)
    return (text + end * last).encode()


def id_column(values):
    "Ids as a column of numbers, or of text where one is text."
    if any(isinstance(v, str) for v in values):
        return pa.array([str(v) for v in values])
    return pa.array(values, pa.int64())


def write_parquet(folder, rows, items):
    "Both tables in Parquet."
    interactions = {
        "user": id_column([r[0] for r in rows]),
        "item": id_column([r[1] for r in rows]),
        "rating": pa.array([r[2] for r in rows], pa.float64()),
        "timestamp": pa.array([r[3] for r in rows], pa.int64()),
    }
    genres = [list(g) for _, g in items.values()]
    catalogue = {
        "item": id_column(list(items)),
        "title": [t for t, _ in items.values()],
        "genres": pa.array(genres, pa.list_(pa.string())),
    }
    pq.write_table(pa.table(interactions), folder / "interactions.parquet")
    pq.write_table(pa.table(catalogue), folder / "items.parquet")


def write_atomic(folder, rows, items, end, last):
    "Both tables as RecBole's atomic files."
    head = ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
    (folder / "x.inter").write_bytes(to_csv(head, rows, "\t", end, last))
    head = ["item_id:token", "title:token_seq", "genre:token_seq"]
    catalogue = [(i, t, " ".join(g)) for i, (t, g) in items.items()]
    (folder / "x.item").write_bytes(to_csv(head, catalogue, "\t", end, last))


def write(folder, layout, rows, items, end="\n", last=True):
    "Write rows (user, item, rating or None, seconds) and items {id: (title, genres)}."
    folder.mkdir(parents=True, exist_ok=True)
    if layout == "parquet":
        write_parquet(folder, rows, items)
        return folder
    cells = [(u, i, "" if r is None else r, t) for u, i, r, t in rows]
    if layout == "atomic":
        write_atomic(folder, cells, items, end, last)
        return folder
    pack = gzip.compress if layout == "csv.gz" else bytes
    interactions = to_csv(["user", "item", "rating", "timestamp"], cells, ",", end, last)
    (folder / f"interactions.{layout}").write_bytes(pack(interactions))
    catalogue = [(i, t, "|".join(g)) for i, (t, g) in items.items()]
    catalogue = to_csv(["item", "title", "genres"], catalogue, ",", end, last)
    (folder / f"items.{layout}").write_bytes(pack(catalogue))
    return folder


def ordered(*columns):
    "Ids as the reader counts them: numbers if all are plain whole numbers, else text."
    if all(re.fullmatch(r"0|-?[1-9][0-9]{0,17}", str(i)) for c in columns for i in c):
        return int
    return str


LETTER = st.characters(max_codepoint=0x1FFFF, exclude_categories=["C", "Z"], exclude_characters="|")
IDS = st.one_of(
    st.integers(-5, 10**12),
    st.sampled_from(["007", "7", "x,y", 'a"b', "-0", "1.0", "nan"]),
    st.text(LETTER, min_size=1, max_size=4),
)
TITLES = st.text(st.one_of(LETTER, st.just(" ")), max_size=12)


@st.composite
def folders(draw):
    "Items, rows (ties and repeats among them), and how lines end."
    ids = draw(st.lists(IDS, min_size=1, max_size=5, unique_by=str))
    items = {
        i: (
            draw(TITLES),
            tuple(draw(st.lists(st.sampled_from(["Drama", "War", "Sci-Fi"]), max_size=2))),
        )
        for i in ids
    }
    users = draw(st.lists(IDS, min_size=1, max_size=3, unique_by=str))
    row = st.tuples(
        st.sampled_from(users),
        st.sampled_from([*ids, "missing"]),
        st.one_of(st.none(), st.integers(1, 10).map(lambda n: n / 2)),
        st.integers(0, 3),
    )
    first = (users[0], ids[0], 3.0, draw(st.integers(0, 2**31)))
    return (
        items,
        [first, *draw(st.lists(row, max_size=12))],
        draw(st.sampled_from(["\n", "\r\n"])),
        draw(st.booleans()),
    )


@settings(max_examples=100, deadline=None)
@given(folders())
def test_layouts_agree(tmp_path_factory, given):
    items, rows, end, last = given
    sets = [
        read_folder(write(tmp_path_factory.mktemp("t") / "mine", layout, rows, items, end, last))
        for layout in LAYOUTS
    ]
    user, item = ordered([r[0] for r in rows]), ordered([r[1] for r in rows], items)
    kept = {}
    for u, i, r, t in rows:
        kept.setdefault(
            (user(u), item(i), t), (user(u), item(i), r, t)
        )  # the first of equal ones stays
    kept = sorted(
        kept.values(), key=lambda k: (k[0], k[3])
    )  # stable: ties keep the order of the file
    names = {item(i): v for i, v in items.items()}
    for ds in sets:
        assert ds.hash == sets[0].hash and ds.notes == sets[0].notes and ds.name == "mine"
        got = list(
            zip(
                ds.users[ds.user].tolist(),
                ds.items["item_id"].to_numpy()[ds.item].tolist(),
                ds.rating.tolist(),
                ds.timestamp.tolist(),
            )
        )
        assert str(got) == str(
            [(u, i, float("nan") if r is None else float(r), float(t)) for u, i, r, t in kept]
        )
        seen = sorted({k[1] for k in kept})
        assert ds.titles.tolist() == [names.get(i, ("", ()))[0].strip() or str(i) for i in seen]
        assert ds.items["genres"].tolist() == [names.get(i, ("", ()))[1] for i in seen]
        assert ds.notes.get("duplicate rows dropped", 0) == len(rows) - len(kept)
        assert ds.notes.get("items without a title", 0) == sum(
            not names.get(i, ("", ()))[0].strip() for i in seen
        )


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from(LAYOUTS))
def test_order_of_rows_does_not_matter(tmp_path_factory, data, layout):
    times = data.draw(st.lists(st.integers(0, 10**10), min_size=1, max_size=12, unique=True))
    rows = [
        (data.draw(st.sampled_from("ab")), data.draw(st.sampled_from(["m1", "m2"])), 3.0, t)
        for t in times
    ]
    items = {"m1": ("Heat", ()), "m2": ("Jaws", ("War",))}
    one = read_folder(write(tmp_path_factory.mktemp("t"), layout, rows, items))
    two = read_folder(
        write(
            tmp_path_factory.mktemp("t"),
            layout,
            data.draw(st.permutations(rows)),
            dict(reversed(items.items())),
        )
    )
    assert one.hash == two.hash


ROWS = [("ann", "m1", 4.0, 100), ("bob", "m1", 3.0, 101), ("bob", "m2", None, 102)]
ITEMS = {"m1": ('Amelie: "Le, la" (2001)', ("Drama",)), "m2": ("Heat", ())}


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(["interactions", "items"]))
def test_gzip_cut_short(tmp_path_factory, data, stem):
    folder = write(tmp_path_factory.mktemp("t"), "csv.gz", ROWS, ITEMS)
    whole, path = read_folder(folder).hash, folder / f"{stem}.csv.gz"
    raw = path.read_bytes()
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))])
    try:
        assert read_folder(folder).hash == whole
    except PromptrecError as e:
        assert path.name in str(e)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(LAYOUTS))
def test_a_changed_byte_is_an_error_or_data(tmp_path_factory, data, layout):
    "Whatever one byte becomes: a data set, or a PromptrecError, and nothing else."
    folder = write(tmp_path_factory.mktemp("t"), layout, ROWS, ITEMS)
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    raw = bytearray(path.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        read_folder(folder)
    except PromptrecError:
        pass


@pytest.mark.parametrize(
    "wrong, says",
    [
        ("ann,m1,5", "line 3: 3 fields, not 4"),
        ("ann,m1,5,100,7", "line 3: 5 fields, not 4"),
        ("ann,m1,five,100", "line 3, column 'rating': not a number: 'five'"),
        ("ann,m1,4/5,100", "line 3, column 'rating': not a number"),
        ("ann,m1,1e999,100", "line 3, column 'rating': not a finite number"),
        (",m1,5,100", "line 3, column 'user': an empty id"),
        ("ann, ,5,100", "line 3, column 'item': an empty id"),
        ("ann,m1,5,", "line 3, column 'timestamp': an empty time"),
        ("ann,m1,5,2020-01-01", "line 3, column 'timestamp': not a number"),
        ("ann,m1,5,now", "line 3, column 'timestamp': not a number"),
        ('"ann,m1,5,100', "line 3: not CSV"),
        ('"ann"x,m1,5,100', "line 3: not CSV"),
        ("\xff,m1,5,100", "line 3: not utf-8"),
    ],
)
def test_bad_line_is_named(tmp_path, wrong, says):
    write(tmp_path, "csv", ROWS, ITEMS)
    (tmp_path / "interactions.csv").write_bytes(
        f"user,item,rating,timestamp\nann,m1,4,99\n{wrong}\nbob,m2,3,101\n".encode("latin-1")
    )
    with pytest.raises(PromptrecError, match=re.escape(says)) as e:
        read_folder(tmp_path)
    assert str(tmp_path / "interactions.csv") in str(e.value)


@pytest.mark.parametrize(
    "times, seconds",
    [
        (["1970-01-01", "1970-01-01T00:00:01Z", "1970-01-01 02:00:00+02:00"], [0, 1, 0]),
        (["0.5", "1e1", "-3"], [0.5, 10, -3]),
        (["9999-12-31T23:59:59", "1500-01-01"], [253402300799, -14831769600]),
        (
            ["2024-02-29T12:00:00.250", "2024-02-29T13:00:00.250+01:00", "2024-02-29"],
            [1709208000.25, 1709208000.25, 1709164800],
        ),
    ],
)
def test_times(tmp_path, times, seconds):
    write(tmp_path, "csv", ROWS, ITEMS)
    (tmp_path / "interactions.csv").write_text(
        "timestamp,item,user\n" + "\n".join(f"{t},m1,u{n}" for n, t in enumerate(times))
    )
    assert read_folder(tmp_path).timestamp.tolist() == seconds


@pytest.mark.parametrize(
    "time", ["now", "today", "20:00", "2024-02-30", "2024-13-01", "31.12.2024", "yesterday", "NaT"]
)
def test_bad_date(tmp_path, time):
    write(tmp_path, "csv", ROWS, ITEMS)
    (tmp_path / "interactions.csv").write_text(
        f"user,item,timestamp\nann,m1,2020-01-01\nbob,m1,{time}\n"
    )
    with pytest.raises(PromptrecError, match="line 3, column 'timestamp'"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    "kind",
    [
        pa.timestamp("ns"),
        pa.timestamp("ms", "Europe/Paris"),
        pa.date32(),
        pa.int32(),
        pa.float64(),
        pa.string(),
    ],
)
def test_parquet_times(tmp_path, kind):
    write(tmp_path, "parquet", ROWS, ITEMS)
    day = {pa.string(): ["1970-01-02"], pa.int32(): [86400], pa.float64(): [86400.0]}.get(
        kind, [pd.Timestamp("1970-01-02", tz="UTC").to_pydatetime()]
    )
    if kind == pa.date32():
        day = [day[0].date()]
    pq.write_table(
        pa.table(
            {
                "user": ["ann"],
                "item": pa.array(["m1"]).dictionary_encode(),
                "timestamp": pa.array(day, kind),
            }
        ),
        tmp_path / "interactions.parquet",
    )
    assert read_folder(tmp_path).timestamp.tolist() == [86400]


def test_ids_of_two_kinds(tmp_path):
    "Numbers in one file and text in the other are compared as text."
    write(
        tmp_path, "parquet", [(1, 10, 4.0, 1), (2, 9, 3.0, 2)], {10: ("Heat", ()), 9: ("Jaws", ())}
    )
    (tmp_path / "items.parquet").unlink()
    (tmp_path / "items.csv").write_text("item,title\n10,Heat\n9,Jaws\nx,Alien\n")
    ds = read_folder(tmp_path)
    assert (
        ds.items["item_id"].tolist() == ["10", "9"]
        and ds.titles.tolist() == ["Heat", "Jaws"]
        and ds.users.tolist() == [1, 2]
    )


def test_titles_that_look_like_nothing(tmp_path):
    (tmp_path / "interactions.csv").write_text(
        "user,item,timestamp\n" + "\n".join(f"NA,{i},1" for i in ("null", "None", "NaN"))
    )
    (tmp_path / "items.csv").write_text("title,item\nNA,null\nnull,None\n#N/A,NaN\n")
    ds = read_folder(tmp_path)
    assert (
        ds.titles.tolist() == ["#N/A", "null", "NA"]
        and ds.users.tolist() == ["NA"]
        and ds.notes == {}
    )


@pytest.mark.parametrize(
    "domain",
    [
        "",
        "{",
        "[]",
        '{"prefix": "reading", "verb": "reads"}',
        '{"prefix": "a", "verb": "b", "noun": ""}',
        '{"prefix": "a", "verb": "b", "noun": 3}',
        '{"prefix": "a", "verb": "b", "noun": "c", "more": "d"}',
    ],
)
def test_bad_domain(tmp_path, domain):
    (write(tmp_path, "csv", ROWS, ITEMS) / "domain.json").write_text(domain)
    with pytest.raises(PromptrecError, match="domain.json"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    "head, says",
    [
        ("user_id:token\titem_id:token\ttimestamp", "'timestamp' is not name:type"),
        ("user_id:token\titem_id:token\trating:float", "no column 'timestamp'"),
        ("user_id:token\titem_id:token\ttimestamp:int", "'timestamp:int' is not name:type"),
        ("user_id:token\tuser_id:token\titem_id:token\ttimestamp:float", "two columns for 'user'"),
    ],
)
def test_bad_atomic_header(tmp_path, head, says):
    (tmp_path / "x.inter").write_text(f"{head}\n1\t2\t3\n")
    with pytest.raises(PromptrecError, match=says):
        read_folder(tmp_path)


def test_atomic_without_items(tmp_path):
    (tmp_path / "x.inter").write_text(
        "item_id:token\tuser_id:token\ttimestamp:float\n7\t1\t3.5\n8\t1\t2"
    )
    ds = read_folder(tmp_path)
    assert (ds.titles.tolist(), ds.item.tolist(), ds.notes) == (
        ["7", "8"],
        [1, 0],
        {"items without a title": 2},
    )
    (tmp_path / "y.inter").write_text("")
    with pytest.raises(PromptrecError, match="x.inter and y.inter"):
        read_folder(tmp_path)


def test_recbole_ml_100k(monkeypatch, tmp_path):
    "RecBole's own files, where the cache has them, have the interactions of MovieLens 100K."
    monkeypatch.delenv("PROMPTREC_DATA", raising=False)
    if (
        "ml-100k" not in sources_at_hand()["dataset"]
        or not (locate("ml-100k") / "ml-100k.inter").is_file()
    ):
        pytest.skip("RecBole's wheel is not in the cache")
    ds, known = read_folder(locate("ml-100k")), read_movielens("ml-100k")
    for field in ("users", "user", "item", "rating", "timestamp"):
        assert np.array_equal(getattr(ds, field), getattr(known, field))
    other = [
        (t, k) for t, k in zip(ds.titles, known.titles) if t != k
    ]  # what RecBole has in the column of years there is no year
    third = "Land Before Time III: The Time of the Great Giving (1995)"
    assert other == [("unkonwn", "unknown"), (third, f"{third} (V)")]


def test_long_fields_with_quotes(tmp_path):
    write(tmp_path, "csv", ROWS, ITEMS)
    (tmp_path / "items.csv").write_text(
        f'item,title,description\nm1,Heat,"{"long, " * 40_000}"\nm2,Jaws,\n'
    )
    assert read_folder(tmp_path).titles.tolist() == ["Heat", "Jaws"]


# ---- LLaRA's splits ----


def cut(sequence, every_item, padding):
    "Windows of a sequence as LLaRA has them: one for every item, or only for the last."
    targets = range(len(sequence)) if every_item else [len(sequence) - 1]
    for i in targets:
        seq = sequence[max(0, i - 10) : i]
        filled = seq + [padding] * (10 - len(seq))
        yield {"seq": filled, "len_seq": max(1, len(seq)), "next": sequence[i]}


def frames(name, parts):
    "The three tables of a release."
    padding = (LLARA_RELEASES[name][1], 0) if name == "llara-movielens" else LLARA_RELEASES[name][1]
    return [
        pd.DataFrame([w for s in part for w in cut(s, i == 0, padding)])
        for i, part in enumerate(parts)
    ]


def release(folder, name, parts, titles, form="pickle", protocol=4):
    "Write `parts`, three lists of sequences, in LLaRA's layout."
    folder = folder / name
    folder.mkdir(parents=True)
    for i, frame in enumerate(frames(name, parts)):
        if form == "pickle":
            frame.to_pickle(
                folder / ["train_data.df", "Val_data.df", "Test_data.df"][i], protocol=protocol
            )
        else:
            (folder / f"{['train', 'val', 'test'][i]}.jsonl.gz").write_bytes(
                gzip.compress(frame.to_json(orient="records", lines=True).encode())
            )
    if name == "llara-movielens":
        (folder / "u.item").write_text(
            "\n".join(f"{i + 1}|{t}|||x|0|1" for i, t in enumerate(titles)), encoding="latin-1"
        )
    else:
        (folder / "id2name.txt").write_text(
            "\n".join(f"{i}::{t}" for i, t in enumerate(titles)), encoding="utf-8"
        )
    return folder


def windows(ds, part):
    "Windows of a part by plain loops: item numbers, None for padding."
    for u in np.flatnonzero(ds.parts == part):
        sequence = ds.item[ds.offsets[u] : ds.offsets[u + 1]].tolist()
        for w in cut(sequence, part == 0, None):
            yield [*w["seq"], w["next"]]


@st.composite
def releases(draw):
    name = draw(st.sampled_from(list(LLARA_RELEASES)))
    item = (
        st.integers(0, 19).map(lambda i: (i, 3.0 + i % 3))
        if name == "llara-movielens"
        else st.integers(0, 19)
    )
    sequences = st.lists(st.lists(item, min_size=1, max_size=25), min_size=1, max_size=3)
    titles = draw(
        st.lists(
            st.text(
                st.characters(
                    max_codepoint=255, exclude_categories=["C", "Z"], exclude_characters="|"
                ),
                max_size=9,
            ),
            min_size=20,
            max_size=20,
        )
    )
    return (
        name,
        [draw(sequences) for _ in range(3)],
        titles,
        draw(st.sampled_from(["pickle", "lines"])),
        draw(st.sampled_from([2, 4, 5])),
    )


@settings(max_examples=80, deadline=None)
@given(releases())
def test_llara_round_trip(tmp_path_factory, given):
    name, parts, titles, form, protocol = given
    tmp = tmp_path_factory.mktemp("llara")
    release(tmp, name, parts, titles, form, protocol)
    ds = read_llara(name, tmp)
    movies = name == "llara-movielens"
    plain = [[[i[0] if movies else i for i in s] for s in p] for p in parts]
    known = plain[0] + [
        s[-11:] for p in plain[1:] for s in p
    ]  # of the others only the last window is known
    assert [s.tolist() for s in np.split(ds.item, ds.offsets[1:-1])] == known
    assert (
        ds.parts.tolist() == [i for i, p in enumerate(parts) for _ in p]
        and ds.parts.dtype == np.int8
    )
    assert ds.items["item_id"].tolist() == [i + movies for i in range(20)]
    assert ds.titles.tolist() == [t or str(i + movies) for i, t in enumerate(titles)]
    assert (ds.rating == 3 + ds.item % 3).all() if movies else np.isnan(ds.rating).all()
    assert np.isnan(ds.timestamp).all() and ds.domain.name == LLARA_RELEASES[name][0]
    for part, frame in enumerate(
        frames(name, plain) if not movies else frames("llara-steam", plain)
    ):
        padding = 3581 if movies else LLARA_RELEASES[name][1]
        expected = [
            [None if i == padding else i for i in (*s, n)]
            for s, n in zip(frame["seq"], frame["next"])
        ]
        assert list(windows(ds, part)) == expected


TITLES_20 = [f"Title {i}" for i in range(20)]
PARTS = [[[3, 1, 2], [*range(5, 20), 5, 0]], [[0, 3]], [[*range(8, 19)]]]


def test_steam_leaves_out_short_windows_and_an_empty_history(tmp_path):
    g = np.random.default_rng(0)
    walks = [g.permutation(20)[:n].tolist() for n in (8, 9, 12, 2)]
    parts = [walks, [g.permutation(20)[:6].tolist(), [4]], [[7], [1, 2, 3], [5, 6, 7, 8]]]
    release(tmp_path, "llara-steam", parts, TITLES_20)
    run = configure(
        dataset="llara-steam",
        model="itemknn",
        candidates="uniform-4",
        data_dir=str(tmp_path),
        out_dir=str(tmp_path / "runs"),
    )
    split = prepare(run).split
    # a target needs three items before it: of the test users, only the last has them
    assert (len(split.valid), len(split.test)) == (1, 1)
    assert split.histories("test").item.tolist() == [5, 6, 7]
    examples = SequenceBatches(split, 10, 32, 0, each=True)
    assert len(examples) == sum(max(0, len(walk) - 3) for walk in walks)
    assert len(execute(run, prepare(run)).ranks) == 1


@pytest.mark.parametrize("scalars", [np.int64, np.int32, np.uint8])
def test_numpy_scalars_in_lists(tmp_path, scalars):
    folder = release(tmp_path, "llara-steam", PARTS, TITLES_20)
    before = read_llara("llara-steam", tmp_path).hash
    frame = frames("llara-steam", PARTS)[2]
    frame["seq"] = [[scalars(i) for i in s] for s in frame["seq"]]
    frame.to_pickle(folder / "Test_data.df", protocol=2)
    assert read_llara("llara-steam", tmp_path).hash == before


# pd.DataFrame({"seq": [[np.int64(3), 4]], "next": [5]}) with numpy's old module names, protocol 2
def test_old_module_names(tmp_path):
    raw = pickle.dumps(pd.DataFrame({"seq": [[np.int64(3), 4]], "next": [5]}), protocol=2)
    assert b"numpy._core.multiarray\nscalar" in raw
    (tmp_path / "t.df").write_bytes(raw.replace(b"numpy._core", b"numpy.core"))
    assert read_pickled_frame(tmp_path / "t.df")["seq"].tolist() == [[3, 4]]


class Run:
    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize("file", ["train_data.df", "Val_data.df", "Test_data.df"])
def test_llara_pickle_that_runs_code_is_refused(tmp_path, monkeypatch, file):
    monkeypatch.chdir(tmp_path)
    folder = release(tmp_path, "llara-steam", PARTS, TITLES_20)
    (folder / file).write_bytes(
        pickle.dumps(pd.DataFrame({"seq": [[Run()] * 10], "len_seq": [10], "next": [Run()]}))
    )
    with pytest.raises(PromptrecError, match=f"{file}: refused, it asks for .*system"):
        read_llara("llara-steam", tmp_path)
    assert not Path("ran").exists() and not (folder / "ran").exists()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_llara_pickle_cut_short(tmp_path_factory, data):
    tmp = tmp_path_factory.mktemp("llara")
    path = release(tmp, "llara-steam", PARTS, TITLES_20) / "train_data.df"
    raw = path.read_bytes()
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))])
    with pytest.raises(PromptrecError, match="train_data.df: not a whole pickled table"):
        read_llara("llara-steam", tmp)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(["pickle", "lines"]))
def test_llara_changed_byte_is_an_error_or_data(tmp_path_factory, data, form):
    tmp = tmp_path_factory.mktemp("llara")
    folder = release(tmp, "llara-steam", PARTS, TITLES_20, form)
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    raw = path.read_bytes()
    raw = bytearray(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    try:
        read_llara("llara-steam", tmp)
    except PromptrecError:
        pass


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda t: t.drop(5), "row 6: neither begins a user nor goes on with the row before"),
        (lambda t: t[1:], "row 1: neither begins"),
        (lambda t: t.assign(next=20), "row 1: an item without a name"),
        (lambda t: t.assign(next=3581), "row 1: nothing comes next"),
        (lambda t: t.assign(next="a"), "row 1: 'next' is not a number"),
        (lambda t: t.drop(columns="seq"), "has no column seq"),
        (
            lambda t: t.assign(seq=[s[: n + 7] for n, s in enumerate(t["seq"])]),
            "row 1: 'seq' is not 10 numbers",
        ),
        (lambda t: t[:0], "not 10 numbers"),
        (lambda t: t.assign(seq=[s[::-1] for s in t["seq"]]), "row 2: padding inside a history"),
    ],
)
def test_llara_rows_that_do_not_chain(tmp_path, change, says):
    folder = release(tmp_path, "llara-steam", PARTS, TITLES_20)
    change(frames("llara-steam", PARTS)[0]).to_pickle(folder / "train_data.df")
    with pytest.raises(PromptrecError, match=says) as e:
        read_llara("llara-steam", tmp_path)
    assert str(folder / "train_data.df") in str(e.value)


@real
def test_llara_lastfm():
    if "llara-lastfm" not in sources_at_hand(REAL)["dataset"]:
        pytest.skip("PROMPTREC_DATA has no llara-lastfm")
    ds, folder = read_llara("llara-lastfm", REAL), locate("llara-lastfm", REAL)
    assert (
        np.bincount(ds.parts).tolist() == [976, 122, 122] and ds.n_items == 4606 and ds.notes == {}
    )
    assert (np.bincount(ds.item, minlength=4606) > 0).all() and ds.titles[0] == "Morcheeba"
    for part, (name, n) in enumerate([("train", 50_800), ("val", 122), ("test", 122)]):
        if not (folder / f"{name}.jsonl.gz").is_file():
            continue
        rows = [
            json.loads(line)
            for line in gzip.decompress((folder / f"{name}.jsonl.gz").read_bytes()).splitlines()
        ]
        assert len(rows) == n
        assert list(windows(ds, part)) == [
            [None if i == 4606 else i for i in (*r["seq"], r["next"])] for r in rows
        ]


@real
def test_rebuilt_movielens():
    ds = rebuild_movielens(REAL)
    assert np.bincount(ds.parts).tolist() == [754, 94, 95] and ds.parts.dtype == np.int8
    assert (ds.n_users, ds.n_items, len(ds), ds.rating.min()) == (943, 1682, 82_520, 3)
    assert ds.steps == (("read", 943, 1682, 100_000), ("rating >= 3", 943, 1574, 82_520))
    first = ds.timestamp[ds.offsets[:-1]]
    assert (
        first[ds.parts == 0].max() <= first[ds.parts == 1].min()
        and first[ds.parts == 1].max() <= first[ds.parts == 2].min()
    )
    if "llara-movielens" not in sources_at_hand(REAL)["dataset"]:
        assert read_llara("llara-movielens", REAL).hash == ds.hash
