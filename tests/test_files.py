"""Files as tools write them: separators, encodings, folders of parts, units of time, odd rows."""

import csv
import gzip
import io
import json
import re
import shlex
import shutil
import subprocess
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
from promptrec.data.movielens import read_movielens

START = 1_600_000_000  # seconds since 1970
TITLES = {f"{i:03}": f'Title; no. {i}, "the\nlast"' for i in range(30)}


def shop(n_users=12, n_rows=8):
    "Rows (user, item, seconds, rating): each user buys items in their own order."
    g = np.random.default_rng(0)
    rows = []
    for user in range(n_users):
        for place, item in enumerate(g.permutation(30)[:n_rows]):
            rows.append((f"u{user}", f"{item:03}", START + 100 * len(rows), place % 5 + 1))
    return rows


def table(head, rows, sep=",", quoting=csv.QUOTE_MINIMAL):
    "Text of a delimited file."
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=sep, lineterminator="\n", quoting=quoting).writerows([head, *rows])
    return out.getvalue()


def interactions(rows, sep=","):
    "Text of `interactions.csv`."
    return table(["user", "item", "timestamp", "rating"], rows, sep)


def items(sep=","):
    "Text of `items.csv`."
    return table(["item", "title", "genres"], [(i, t, "A|B") for i, t in TITLES.items()], sep)


def write(folder, files):
    "Write files (name -> text or bytes) into an empty folder."
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def as_read(folder, files):
    "The data set in these files."
    return read_folder(write(folder / "shop", files))


@pytest.fixture
def plain(tmp_path):
    "The shop as plain CSV."
    return as_read(
        tmp_path / "plain", {"interactions.csv": interactions(shop()), "items.csv": items()}
    )


def parquet(rows, kind=None):
    "The bytes of the interactions in Parquet, times of a type."
    user, item, time, rating = zip(*rows)
    short = kind in (pa.float32(), pa.float64())  # only a cast drops digits without an error
    time = pa.array(time).cast(kind, safe=False) if short else pa.array(time, kind)
    columns = {"user": user, "item": item, "timestamp": time, "rating": rating}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


# ---- whole runs ----


@pytest.mark.parametrize("model", ["popularity", "itemknn", "sasrec", "mibert"])
def test_semicolons_train(notebook, tmp_path, model):
    files = {"interactions.csv": interactions(shop(), ";"), "items.csv": items(";")}
    folder = write(tmp_path / "semicolons", files)
    run(notebook, folder, model, tmp_path / "runs")


@pytest.mark.parametrize("model", ["popularity", "itemknn", "sasrec", "mibert"])
def test_nanoseconds_train(notebook, tmp_path, model):
    "Times in nanoseconds, 100 apart, the newest row first."
    rows = [(u, i, t * 10**9 + 100 * n, r) for n, (u, i, t, r) in enumerate(near(shop()))]
    files = {"interactions.csv": interactions(rows[::-1]), "items.csv": items()}
    record = run(notebook, write(tmp_path / "nanoseconds", files), model, tmp_path / "runs")
    assert record["notes"]["times read as nanoseconds"] == len(rows)


def near(rows):
    "The same rows, all in one second."
    return [(user, item, START, rating) for user, item, _, rating in rows]


def run(notebook, folder, model, out_dir):
    "The record of a run of `nbs/train.ipynb` at its smallest."
    notebook(
        "train",
        dataset=folder,
        model=model,
        preset="tiny",
        candidates="uniform-5",
        out_dir=out_dir,
        progress=False,
    )
    (path,) = out_dir.glob(f"*-{model}-*.json")
    return json.loads(path.read_text())


# ---- separators, quotes, encodings ----


@pytest.mark.parametrize("first", [",", ";", "\t", "|"])
@pytest.mark.parametrize("second", [",", ";", "\t", "|"])
def test_separators_give_the_same_data(tmp_path, plain, first, second):
    files = {"interactions.csv": interactions(shop(), first), "items.csv": items(second)}
    assert as_read(tmp_path, files).hash == plain.hash


def test_a_folder_with_another_name_is_the_same_data(tmp_path, plain):
    files = {"interactions.tsv.gz": gzip.compress(interactions(shop(), "\t").encode())}
    assert as_read(tmp_path, files | {"items.tsv": items("\t")}).hash == plain.hash


CELLS = st.text(st.sampled_from(list('ab;,|\t"\n\\ é')), max_size=8)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(",;\t|"), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_any_text_in_quotes(tmp_path_factory, data, sep, encoding):
    "Separators, quotes and line breaks within a title are the title's."
    titles = data.draw(st.lists(CELLS, min_size=3, max_size=3))
    rows = [("u", f"{i:03}", i + 1) for i in range(3)]
    files = {
        "interactions.csv": table(["user", "item", "timestamp"], rows, sep).encode(encoding),
        "items.csv": table(
            ["item", "title"], [(f"{i:03}", t) for i, t in enumerate(titles)], sep, csv.QUOTE_ALL
        ).encode(encoding),
    }
    ds = as_read(tmp_path_factory.mktemp("t"), files)
    shown = [re.sub("[\r\n\t]+", " ", t).strip() or f"{i:03}" for i, t in enumerate(titles)]
    assert ds.titles.tolist() == shown


def test_decimal_commas(tmp_path, plain):
    rows = [(u, i, f"{t},0", f"{r},0") for u, i, t, r in shop()]
    files = {"interactions.csv": interactions(rows, ";"), "items.csv": items()}
    assert as_read(tmp_path, files).hash == plain.hash
    files["interactions.csv"] = interactions([*rows, ("u", "001", START, "1.234,5")], ";")
    with pytest.raises(PromptrecError, match="line 98, column 'rating': not a number: '1.234,5'"):
        as_read(tmp_path, files)
    files["interactions.csv"] = interactions([("u", "001", START, "4,5")])
    with pytest.raises(PromptrecError, match="not a number: '4,5'"):
        as_read(tmp_path, files)


@pytest.mark.parametrize("sep", ["::", " ", ":", "~"])
def test_a_separator_that_is_not_read_is_named(tmp_path, sep):
    line = sep.join(["user", "item", "timestamp"])
    files = {"interactions.csv": f"{line}\n1{sep}2{sep}3\n", "items.csv": items()}
    with pytest.raises(PromptrecError, match=re.escape(repr(line))) as e:
        as_read(tmp_path, files)
    assert "interactions.csv, line 1: no comma, semicolon, tab or bar" in str(e.value)


def test_columns_of_other_names_are_named_with_any_separator(tmp_path):
    text = interactions(shop(), ";").replace("user;item", "customer;item", 1)
    with pytest.raises(
        PromptrecError, match="no column 'user'. Its columns are 'customer', 'item'"
    ):
        as_read(tmp_path, {"interactions.csv": text, "items.csv": items()})


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks_are_believed(tmp_path, plain, encoding):
    files = {
        "interactions.csv": interactions(shop(), "\t").encode(encoding),
        "items.csv": items("\t").encode(encoding),
    }
    assert as_read(tmp_path, files).hash == plain.hash


@pytest.mark.parametrize(
    "encoding, looks, title",
    [
        ("gbk", "GBK", "三体与红楼梦"),
        ("latin-1", "LATIN1", "Les Misérables, Père Goriot"),
        ("cp1252", "WINDOWS-1252", "“Père” Goriot"),
        ("utf-16-le", "UTF-16LE", "Les Misérables"),
        ("utf-16-be", "UTF-16BE", "Les Misérables"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
def test_another_encoding_is_named_and_its_remedy_works(
    tmp_path, monkeypatch, encoding, looks, title, suffix
):
    text = items().replace("Title; no. 7,", title)
    raw = text.encode(encoding)
    name = f"items.{suffix}"
    files = {
        "interactions.csv": interactions(shop()),
        name: gzip.compress(raw) if suffix == "csv.gz" else raw,
    }
    with pytest.raises(
        PromptrecError, match=f"{name}, line .*not utf-8, it looks like {looks}"
    ) as e:
        as_read(tmp_path, files)
    monkeypatch.chdir(tmp_path)
    command, new = re.search(r"as UTF-8: (.*?), and put (\S+) in its place", str(e.value)).groups()
    subprocess.run(command, shell=True, check=True)
    shutil.move(new, tmp_path / "shop" / name)
    assert any(title in t for t in read_folder(tmp_path / "shop").titles)


def test_the_remedy_works_in_a_folder_with_blanks(tmp_path, monkeypatch):
    folder = write(
        tmp_path / "my own shop",
        {"interactions.csv": interactions(shop()), "items.csv": items().encode("utf-16-le")},
    )
    with pytest.raises(PromptrecError, match="UTF-16LE") as e:
        read_folder(folder)
    assert shlex.quote(str(folder / "items.csv")) in str(e.value)


# ---- ids ----


def test_leading_zeros_are_kept(tmp_path):
    rows = [("007", "007", 1), ("7", "7", 2), ("007", "7", 3)]
    files = {
        "interactions.csv": table(["user", "item", "timestamp"], rows),
        "items.csv": table(["item", "title"], [("007", "Bond"), ("7", "Seven")]),
    }
    ds = as_read(tmp_path, files)
    assert ds.users.tolist() == ["007", "7"] and ds.titles.tolist() == ["Bond", "Seven"]
    assert ds.item.tolist() == [0, 1, 1]


@pytest.mark.parametrize("other", [["7", "12"], ["7.0", "12.0"]])
def test_ids_that_lost_their_zeros_are_named(tmp_path, other):
    kept = table(["item", "title"], [("007", "Bond"), ("012", "Twelve")])
    lost = table(["user", "item", "timestamp"], [("u", i, n) for n, i in enumerate(other)])
    with pytest.raises(PromptrecError, match="takes ids for numbers") as e:
        as_read(tmp_path, {"interactions.csv": lost, "items.csv": kept})
    assert repr(other[0]).strip("'") in str(e.value) and "'007'" in str(e.value)


def test_zeros_in_one_file_are_text_in_both(tmp_path):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"item": [10, 11], "title": ["Ten", "Eleven"]}), sink)
    rows = [("u", "10", 1), ("u", "010", 2)]
    files = {
        "interactions.csv": table(["user", "item", "timestamp"], rows),
        "items.parquet": sink.getvalue().to_pybytes(),
    }
    ds = as_read(tmp_path, files)
    assert ds.titles.tolist() == ["010", "Ten"] and ds.notes == {"items without a title": 1}


# ---- folders of parts ----


def in_parts(name, text, n=4):
    "Text with a header as Spark's folder: parts, one of them empty, and files of its own."
    reader = list(csv.reader(io.StringIO(text, newline="")))
    head, rows = reader[0], reader[1:]
    files = {f"{name}/{own}": "" for own in ("_SUCCESS", "._SUCCESS.crc", "part-00009-x.csv")}
    for part, chosen in enumerate(np.array_split(np.arange(len(rows)), n)):
        out = table(head, [rows[i] for i in chosen]).replace('""', '\\"')
        files[f"{name}/part-{part:05}-x-c000.csv"] = out
        files[f"{name}/.part-{part:05}-x-c000.csv.crc"] = b"crc\0\1\2"
    return files


def test_folders_of_spark(tmp_path, plain):
    files = in_parts("interactions.csv", interactions(shop())) | in_parts("items.csv", items())
    assert as_read(tmp_path, files).hash == plain.hash
    packed = {
        f"{k}.gz" if v else k: gzip.compress(v.encode()) if v else v
        for k, v in files.items()
        if isinstance(v, str)
    }
    assert as_read(tmp_path, packed).hash == plain.hash


def test_folders_of_parquet(tmp_path, plain):
    rows = shop()
    files = {
        f"interactions.parquet/part.{i}.parquet": parquet(rows[8 * i :][:8]) for i in range(12)
    }
    files |= {"interactions.parquet/_metadata": b"x", "items.csv": items()}
    assert as_read(tmp_path, files).hash == plain.hash


def test_order_of_ties_is_that_of_the_numbers_of_parts(tmp_path):
    "part.10 comes behind part.9."
    files = {
        f"interactions.parquet/part.{i}.parquet": parquet([("u", f"{i:03}", 5, 1)])
        for i in range(12)
    }
    ds = as_read(tmp_path, files | {"items.csv": items()})
    assert ds.items["item_id"].to_numpy()[ds.item].tolist() == [f"{i:03}" for i in range(12)]


def test_a_bad_line_in_a_part_is_named(tmp_path):
    files = in_parts("interactions.csv", interactions(shop()))
    part = "interactions.csv/part-00002-x-c000.csv"
    head, first, *rest = files[part].splitlines()
    user, item, time, rating = first.split(",")
    for line, says in [
        (f"{user},{item},soon,{rating}", "line 2, column 'timestamp': not a number: 'soon'"),
        (f"{user},{item}", "line 2: 2 fields, not 4 as in the header"),
        (f" ,{item},{time},{rating}", "line 2, column 'user': an empty id"),
    ]:
        bad = files | {part: "\n".join([head, line, *rest]), "items.csv": items()}
        with pytest.raises(PromptrecError, match=re.escape(f"{part}, {says}")):
            as_read(tmp_path, bad)


@pytest.mark.parametrize(
    "files, says",
    [
        ({"interactions.csv/_SUCCESS": ""}, "is a folder without any parts"),
        ({"interactions.csv/part-0.csv": "user,item,timestamp\n"}, "has a header and no rows"),
        (
            {"interactions.csv/part-0.csv": "u1,001,5\nu2,002,6\n"},
            "Name the columns so in the first",
        ),
        ({"interactions.csv/part-0.csv.bz2": b"BZh9"}, ".bz2 is not read"),
        (
            {
                "interactions.csv/part-0.csv": "user,item,timestamp\nu,001,5\n",
                "interactions.csv/part-1.csv": "user,item,timestamp,rating\nu,001,5,1\n",
            },
            "part-1.csv has other columns than",
        ),
        (
            {
                "interactions.parquet/part-0.parquet": parquet([("u", "001", 5, 1)]),
                "interactions.parquet/part-1.parquet": parquet([(7, "001", 5, 1)]),
            },
            "another type in another part",
        ),
    ],
)
def test_parts_that_do_not_fit(tmp_path, files, says):
    with pytest.raises(PromptrecError, match=says):
        as_read(tmp_path, files | {"items.csv": items()})


# ---- times ----

UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(list(UNITS)), st.sampled_from(["csv", "parquet", "float"]))
def test_order_in_every_unit(tmp_path_factory, data, unit, layout):
    "Whatever the unit and the order of rows, each user's items come in the order of time."
    ticks = UNITS[unit]
    apart = data.draw(st.integers(1, 1000))
    if layout == "float":  # float64 holds 16 digits
        apart *= max(1, ticks // 10**5)
    order = data.draw(st.permutations(range(20)))
    rows = [("u", f"{i:03}", START * ticks + i * apart, 1) for i in order]
    if layout == "csv":
        files = {"interactions.csv": interactions(rows)}
    else:
        kind = pa.float64() if layout == "float" else pa.int64()
        files = {"interactions.parquet": parquet(rows, kind)}
    ds = as_read(tmp_path_factory.mktemp("t"), files | {"items.csv": items()})
    assert ds.items["item_id"].to_numpy()[ds.item].tolist() == [f"{i:03}" for i in range(20)]
    assert np.allclose(ds.timestamp, START + np.arange(20) * apart / ticks, rtol=0, atol=1e-3)
    assert ds.notes == ({} if unit == "seconds" else {f"times read as {unit}": 20})


@pytest.mark.parametrize(
    "write_time",
    [
        lambda n: f"{START}.{n:09}",
        lambda n: f"2020-09-13T12:26:40.{n:09}Z",
        lambda n: f"2020-09-13 12:26:40.{n:09} UTC",
        lambda n: f"2020-09-13T14:26:40.{n:09}+02:00",
    ],
)
def test_order_of_nanoseconds_in_decimals(tmp_path, write_time):
    rows = [("u", f"{n:03}", write_time(100 * n), 1) for n in range(20)][::-1]
    ds = as_read(tmp_path, {"interactions.csv": interactions(rows), "items.csv": items()})
    assert ds.items["item_id"].to_numpy()[ds.item].tolist() == [f"{i:03}" for i in range(20)]


def test_nanoseconds_of_parquet(tmp_path):
    times = pd.to_datetime([START * 10**9 + n for n in range(20)]).tolist()
    rows = [("u", f"{n:03}", time, 1) for n, time in enumerate(times)][::-1]
    files = {"interactions.parquet": parquet(rows, pa.timestamp("ns")), "items.csv": items()}
    ds = as_read(tmp_path, files)
    assert ds.items["item_id"].to_numpy()[ds.item].tolist() == [f"{i:03}" for i in range(20)]


def test_two_looks_in_one_microsecond_are_no_duplicates(tmp_path):
    rows = [("u", "001", START * 10**9 + n, 1) for n in (0, 1, 1)]
    ds = as_read(tmp_path, {"interactions.csv": interactions(rows), "items.csv": items()})
    assert len(ds) == 2 and ds.notes["duplicate rows dropped"] == 1


@pytest.mark.parametrize("form", ["%.1E", "%.2e", "%.5E", "%g"])
@pytest.mark.parametrize("unit", list(UNITS))
def test_lost_digits_are_an_error(tmp_path, form, unit):
    rows = [(u, i, form % (t * UNITS[unit]), r) for u, i, t, r in shop()]
    with pytest.raises(
        PromptrecError, match="line 2, column 'timestamp'.*lost their last digits"
    ) as e:
        as_read(tmp_path, {"interactions.csv": interactions(rows), "items.csv": items()})
    assert repr(rows[0][2]) in str(e.value)


@pytest.mark.parametrize("unit", list(UNITS))
def test_scientific_notation_with_all_digits_is_read(tmp_path, plain, unit):
    "As Java writes doubles: zeros at the end are left out."
    times = [np.format_float_scientific(t * UNITS[unit], trim="-") for _, _, t, _ in shop()]
    rows = [(u, i, time, r) for (u, i, _, r), time in zip(shop(), times)]
    ds = as_read(tmp_path, {"interactions.csv": interactions(rows), "items.csv": items()})
    assert np.array_equal(ds.item, plain.item) and np.allclose(ds.timestamp, plain.timestamp)


def test_short_floats_are_refused(tmp_path):
    files = {"interactions.parquet": parquet(shop(), pa.float32()), "items.csv": items()}
    with pytest.raises(PromptrecError, match="times need all their digits.*not float"):
        as_read(tmp_path, files)


# ---- odd rows ----


@pytest.mark.parametrize("odd", [0, -1, START // 1000, START * 1000, -(10**11), 253402300799])
def test_one_odd_time_is_dropped(tmp_path, plain, odd):
    rows = [*shop(), ("u1", "001", odd, 3)]
    ds = as_read(tmp_path, {"interactions.csv": interactions(rows), "items.csv": items()})
    assert ds.hash == plain.hash and ds.notes == {"impossible times dropped": 1}
    many = [*rows, ("u2", "001", odd, 3)]
    with pytest.raises(
        PromptrecError, match="line 98, column 'timestamp': impossible times .2 of 98"
    ):
        as_read(tmp_path, {"interactions.csv": interactions(many), "items.csv": items()})
    numbered = [(u, i, n, r) for n, (u, i, _, r) in enumerate(many)]  # what the error advises
    ds = as_read(tmp_path, {"interactions.csv": interactions(numbered), "items.csv": items()})
    assert len(ds) == 98 and ds.notes == {}


@pytest.mark.parametrize("odd", ["0001-01-01", "9999-12-31", "1601-01-01T00:00:00Z"])
def test_one_odd_date_is_dropped(tmp_path, odd):
    rows = [(u, i, pd.Timestamp(t, unit="s").isoformat(), r) for u, i, t, r in shop()]
    files = {"interactions.csv": interactions([*rows, ("u1", "001", odd, 3)]), "items.csv": items()}
    assert as_read(tmp_path, files).notes == {"impossible times dropped": 1}


def test_old_dates_and_other_clocks_are_kept(tmp_path):
    old = [("u", f"{i:03}", f"{1890 + 5 * i}-05-01", 1) for i in range(30)]
    counted = [("u", f"{i:03}", i * 10**9, 1) for i in range(30)]
    for rows in (old, counted):
        ds = as_read(tmp_path, {"interactions.csv": interactions(rows), "items.csv": items()})
        assert len(ds) == 30 and ds.notes == {}


RATINGS = [(user, movie, 4, START + 60 * movie) for user in (1, 2) for movie in range(1, 61)]


def release(folder, name, rows):
    "A small release of MovieLens."
    folder.mkdir(parents=True, exist_ok=True)
    sep, file = ("::", "ratings.dat") if name == "ml-1m" else (",", "ratings.csv")
    head = "" if name == "ml-1m" else "userId,movieId,rating,timestamp\n"
    (folder / file).write_text(head + "\n".join(sep.join(map(str, r)) for r in rows))
    movies = "\n".join(sep.join([str(i), f"Film {i} (1990)", "Drama"]) for i in range(1, 61))
    movie_head = "" if name == "ml-1m" else "movieId,title,genres\n"
    (folder / file.replace("ratings", "movies")).write_text(movie_head + movies)
    return folder


@pytest.mark.parametrize("name", ["ml-1m", "ml-latest-small"])
@pytest.mark.parametrize(
    "odd, says",
    [
        ((1, 7, 0, START), "ratings outside 0.5 to 5"),
        ((1, 7, 40, START), "ratings outside 0.5 to 5"),
        ((1, 7, 4, 0), "impossible times"),
        ((1, 7, 4, START * 1000), "impossible times"),
    ],
)
def test_one_odd_rating_of_a_release_is_dropped(tmp_path, name, odd, says):
    whole = read_movielens(name, release(tmp_path / "whole", name, RATINGS))
    ds = read_movielens(name, release(tmp_path / "odd", name, [*RATINGS, odd]))
    assert ds.hash == whole.hash and ds.notes == {f"{says} dropped": 1}
    with pytest.raises(
        PromptrecError, match=f"line {121 + (name != 'ml-1m')}: {says} .2 of 122 rows"
    ):
        read_movielens(name, release(tmp_path / "odd", name, [*RATINGS, odd, odd]))


def test_names_of_files_that_are_read(tmp_path):
    with pytest.raises(PromptrecError, match="has no interactions.csv, .*interactions.parquet"):
        read_folder(write(Path(tmp_path) / "x", {"readme.txt": "nothing"}))


# ---- names of columns, numbers and genres as others write them ----


@pytest.mark.parametrize(
    "head",
    [
        ["User", "ITEM", "Timestamp", "Rating"],
        ["user_id", "item_id", "timestamp", "rating"],
        [" UserId", "ItemId ", "timeStamp", "Ratings"],
    ],
)
def test_columns_in_any_spelling(tmp_path, plain, head):
    catalogue = items().replace("item,title,genres", "Item_ID,Title,Genre", 1)
    files = {"interactions.csv": table(head, shop()), "items.csv": catalogue}
    assert as_read(tmp_path, files).hash == plain.hash


def test_a_name_as_it_is_comes_before_those_alike(tmp_path, plain):
    rows = [(*row, "x") for row in shop()]
    text = table(["user", "item", "timestamp", "rating", "Rating"], rows)
    assert as_read(tmp_path, {"interactions.csv": text, "items.csv": items()}).hash == plain.hash
    text = table(["user", "item", "timestamp", "Rating", "ratings"], rows)
    with pytest.raises(PromptrecError, match="two columns for 'rating': 'Rating', 'ratings'"):
        as_read(tmp_path, {"interactions.csv": text, "items.csv": items()})


@pytest.mark.parametrize("word", ["", "NaN", "nan", "NA", "NULL", "None", "N/A", r"\N"])
def test_ratings_that_are_not_known(tmp_path, word):
    rows = [(*row[:3], word if n % 2 else row[3]) for n, row in enumerate(shop())]
    ds = as_read(tmp_path, {"interactions.csv": interactions(rows), "items.csv": items()})
    assert np.isnan(ds.rating).sum() == len(rows) // 2


def test_nan_in_parquet_is_a_rating_that_is_not_known(tmp_path):
    rows = [(*row[:3], np.nan if n % 2 else 4.0) for n, row in enumerate(shop())]
    ds = as_read(tmp_path, {"interactions.parquet": parquet(rows), "items.csv": items()})
    assert np.isnan(ds.rating).sum() == len(rows) // 2


@pytest.mark.parametrize("written, rating", [("+4", 4), (".5", 0.5), ("5.", 5), ("-2", -2)])
def test_numbers_in_any_form(tmp_path, written, rating):
    rows = [(*row[:3], written) for row in shop()]
    ds = as_read(tmp_path, {"interactions.csv": interactions(rows), "items.csv": items()})
    assert (ds.rating == rating).all()


@pytest.mark.parametrize("written", ["$4.50", "4,50 €", "1,234", "True", "4/5", "85%", "inf"])
def test_what_is_no_rating_is_named_and_the_advice_works(tmp_path, written):
    def read(value):
        rows = [(*row[:3], value if n == 2 else 4) for n, row in enumerate(shop())]
        return as_read(tmp_path, {"interactions.csv": interactions(rows), "items.csv": items()})

    with pytest.raises(PromptrecError, match=re.escape(f"not a number: {written!r}")) as e:
        read(written)
    assert "line 4, column 'rating'" in str(e.value)
    assert np.nanmax(read(re.search(r"numbers such as (\S+),", str(e.value)).group(1)).rating) > 4
    assert "leave what is unknown empty" in str(e.value)
    assert np.isnan(read("").rating).sum() == 1


def test_points_between_thousands_are_no_decimals(tmp_path):
    rows = [(*row[:3], "1.234" if n % 2 else "4,5") for n, row in enumerate(shop())]
    with pytest.raises(PromptrecError, match="a point where others have a comma: '1.234'"):
        as_read(tmp_path, {"interactions.csv": interactions(rows, ";"), "items.csv": items()})
    rows = [(*row[:3], "1234" if n % 2 else "4,5") for n, row in enumerate(shop())]
    files = {"interactions.csv": interactions(rows, ";"), "items.csv": items()}
    assert set(as_read(tmp_path, files).rating) == {1234, 4.5}


GENRES = ("Sci-Fi & Fantasy", "Children's", "Noir")


@pytest.mark.parametrize(
    "written",
    [
        "|".join(GENRES),
        "; ".join(GENRES),
        ", ".join(GENRES),
        str(list(GENRES)),
        json.dumps(GENRES),
        str(np.array(GENRES)),
    ],
)
def test_genres_as_others_write_them(tmp_path, written):
    rows = [(i, "a title; or, two", written if i > "001" else "") for i in TITLES]
    files = {"items.csv": table(["item", "title", "genres"], rows)}
    ds = as_read(tmp_path, files | {"interactions.csv": interactions(shop())})
    assert set(ds.items["genres"]) == {(), GENRES}


@pytest.mark.parametrize(
    "kind", [pa.null(), pa.list_(pa.string(), 1), pa.list_(pa.dictionary(pa.int8(), pa.string()))]
)
def test_genres_of_any_type_of_parquet(tmp_path, kind):
    known = kind != pa.null()
    columns = {"item": list(TITLES), "title": list(TITLES)}
    columns["genres"] = pa.array([["A"] if known else None] * len(TITLES), kind)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    files = {"items.parquet": sink.getvalue().to_pybytes()}
    ds = as_read(tmp_path, files | {"interactions.csv": interactions(shop())})
    assert set(ds.items["genres"]) == {("A",) if known else ()}


def test_what_a_file_is_is_seen_in_its_bytes(tmp_path, plain):
    text = interactions(shop())
    for content in (gzip.compress(text.encode()), parquet(shop())):
        files = {"interactions.csv": content, "items.csv": items()}
        assert as_read(tmp_path, files).hash == plain.hash
    with pytest.raises(PromptrecError, match="where it was never zipped, take .gz off its name"):
        as_read(tmp_path, {"interactions.csv.gz": text, "items.csv": items()})
    with pytest.raises(PromptrecError, match=r"no text, but .* a spreadsheet \(.xlsx\)"):
        as_read(tmp_path, {"interactions.csv": b"PK\x03\x04\x14\x00", "items.csv": items()})


def test_the_error_for_a_missing_file_says_what_is_there(tmp_path):
    with pytest.raises(PromptrecError, match="holds Interactions.CSV, items.csv, and has no"):
        as_read(tmp_path, {"Interactions.CSV": interactions(shop()), "items.csv": items()})


def test_blank_lines_before_the_names_of_columns(tmp_path):
    files = {"interactions.csv": "\n\n" + interactions(shop()), "items.csv": items()}
    with pytest.raises(PromptrecError, match="line 1: blank, where the names of the columns"):
        as_read(tmp_path, files)


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda time: time * 1000, "milliseconds"),
        (lambda time: time * 10**9, "nanoseconds"),
        (lambda time: 0, "no time, where others are in seconds: '0'"),
        (lambda time: f"{time:.3E}", "have lost their last digits"),
    ],
)
@pytest.mark.parametrize("one_in", [2, 5])
def test_times_of_two_clocks_are_an_error(tmp_path, change, says, one_in):
    rows = [
        (user, item, time if n % one_in else change(time), rating)
        for n, (user, item, time, rating) in enumerate(shop())
    ]
    with pytest.raises(PromptrecError, match=says) as e:
        as_read(tmp_path, {"interactions.csv": interactions(rows), "items.csv": items()})
    assert re.search(r"line \d+, column 'timestamp'", str(e.value))


def test_columns_in_names_of_folders_are_named(tmp_path, plain):
    def parts(name):
        return {
            f"interactions.parquet/{name}={n}/part-0.parquet": parquet(shop()[n::2]) for n in (0, 1)
        }

    with pytest.raises(PromptrecError, match="has the column 'rating' in names of folders such as"):
        as_read(tmp_path, parts("rating") | {"items.csv": items()})
    assert len(as_read(tmp_path, parts("day") | {"items.csv": items()})) == len(plain)
