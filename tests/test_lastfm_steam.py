"""Last.fm and Steam: the official layouts, written small, and the real releases by their counts."""

import gzip
import html
import json
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promptrec.core import PromptrecError
from promptrec.data.lastfm import (
    _EARLIEST,
    LASTFM_COLLECTED,
    _read_tags,
    lastfm_counts,
    read_lastfm,
)
from promptrec.data.steam import read_steam

some = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TAGGED = "user_taggedartists-timestamps.dat"
STEAM = {"steam-australian": "australian_user_reviews.json.gz", "steam": "steam_reviews.json.gz"}
MONTHS = (
    "January February March April May June July August September October November December".split()
)


# ---- real data ----


def test_real_lastfm(real_data):
    assert lastfm_counts(real_data) == {
        "users": 1892,
        "artists": 17632,
        "plays": 92834,
        "tag assignments": 186479,
    }
    ds = read_lastfm(data_dir=real_data)
    assert (ds.n_users, ds.n_items, ds.listed, len(ds)) == (1892, 12523, 17632, 84984)
    n = ds.notes
    assert n == {
        "impossible times dropped": 5,
        "times of the collection, now its month": 3531,
        "tags joined with one of the same time": 101490,
        "items without a title": 390,
    }
    assert (
        len(ds) + n["impossible times dropped"] + n["tags joined with one of the same time"]
        == 186479
    )
    assert (
        ds.timestamp.min() == pd.Timestamp("2005-08-01", tz="Europe/Madrid").timestamp()
        and ds.timestamp.max() == LASTFM_COLLECTED
    )
    artist = ds.items.set_index("item_id").loc[707]
    assert (artist["title"], artist["genres"]) == (
        "Metallica",
        ("metal", "thrash metal", "heavy metal"),
    )
    assert len(np.unique(ds.user.astype(np.int64) * ds.n_items + ds.item)) == 71062
    assert (
        "Röyksopp" in ds.titles
        and _read_tags(real_data / "hetrec2011-lastfm-2k")[2863] == "tropicália"
    )  # UTF-8 and Latin-1


def test_real_steam_australian(real_data):
    ds = read_steam("steam-australian", real_data)
    assert (ds.n_users, ds.n_items, len(ds)) == (25458, 3682, 58431)
    assert (np.diff(ds.offsets) >= 5).sum() == 3272
    assert ds.notes["dates without a year"] == 9933
    assert (
        ds.listed
        + ds.notes["catalogue lines without an id"]
        + ds.notes["catalogue lines that repeat a game"]
        == 32135
    )
    assert np.isnan(ds.rating).all() and not ds.items["title"].str.contains("&amp;").any()
    days = pd.to_datetime(ds.timestamp[[ds.timestamp.argmin(), ds.timestamp.argmax()]], unit="s")
    assert days.astype(str).tolist() == ["2010-10-16", "2016-09-18"]


def test_the_year_of_days_without_one(real_data):
    "Dates with a year end with 2015; days without one are of January to September, 25 of 29 Feb."
    with gzip.open(real_data / "steam" / STEAM["steam-australian"], "rt", encoding="utf-8") as f:
        posted = pd.Series([r["posted"] for line in f for r in json.loads(line)["reviews"]])
    parts = posted.str.extract(r"Posted (\w+) (\d+)(?:, (\d+))?\.")
    undated = parts[parts[2].isna()]
    assert parts[2].astype(float).max() == 2015 and (parts[2] == "2015").sum() > 10_000
    assert set(undated[0]) == set(MONTHS[:9])
    assert ((undated[0] == "February") & (undated[1] == "29")).sum() == 25


# ---- the layouts, small ----

texts = st.text(
    st.characters(blacklist_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=12
) | st.sampled_from(["O'Neil", 'say "x"', "Björk", "  ", "椎名林檎"])
ids = st.integers(1, 9)


@contextmanager
def fresh():
    "An empty data folder; hypothesis needs a new one for each example."
    with tempfile.TemporaryDirectory() as d:
        yield Path(d)


def write_lastfm(d, rows, artists, tags, end="\n"):
    "Rows (user, artist, tag, seconds) and two catalogues {number: name} in HetRec 2011's layout."
    folder = d / "hetrec2011-lastfm-2k"
    folder.mkdir(exist_ok=True)

    def file(name, encoding, head, lines):
        text = "\r\n".join("\t".join(map(str, line)) for line in [head, *lines]) + end
        (folder / name).write_bytes(text.encode(encoding))

    head = ["id", "name", "url", "pictureURL"]
    file("artists.dat", "utf-8", head, [(i, a, "http://x", "") for i, a in artists.items()])
    file("tags.dat", "latin-1", ["tagID", "tagValue"], tags.items())
    file("user_artists.dat", "utf-8", ["userID", "artistID", "weight"], [(1, 1, 5)])
    head = ["userID", "artistID", "tagID", "timestamp"]
    file(TAGGED, "utf-8", head, [(u, a, t, s * 1000) for u, a, t, s in rows])
    return folder


def day_text(name, day):
    "`day` as release `name` writes it; a text stays as it is."
    if isinstance(day, str):
        return day
    if name == "steam":
        return f"{day:%Y-%m-%d}"
    return f"Posted {MONTHS[day.month - 1]} {day.day}, {day.year}."


def write_steam(d, name, rows, games, python=True, end="\n"):
    "Rows (user, item, day or its text) and games (objects) in the layout of a release."
    folder = d / "steam"
    folder.mkdir(exist_ok=True)
    lines = []
    for user, item, day in rows:
        if name == "steam":
            line = {"hours": 1.5, "username": user, "product_id": item}
            line |= {"date": day_text(name, day), "text": "fun"}
        else:
            review = {"funny": "", "posted": day_text(name, day), "item_id": item}
            line = {"user_id": user, "reviews": [review | {"recommend": True}]}
        lines.append(line)
    for file, objects in [(STEAM[name], lines), ("steam_games.json.gz", games)]:
        text = "\n".join(repr(o) if python else json.dumps(o) for o in objects) + end
        (folder / file).write_bytes(gzip.compress(text.encode(), 1))
    return folder


# ---- Last.fm ----

seconds = st.integers(int(_EARLIEST), int(LASTFM_COLLECTED))
rows_lastfm = st.lists(
    st.tuples(ids, ids, ids, seconds | st.sampled_from([2**30, 2**30 + 1])), min_size=1, max_size=20
)


def by_hand(rows):
    "Each user's artists, oldest first, ties in file order, one for each artist and time."
    once = list(dict.fromkeys((u, a, s) for u, a, _, s in rows))
    return {
        u: [a for w, a, s in sorted(once, key=lambda r: r[2]) if w == u]
        for u in sorted({r[0] for r in once})
    }


def sequences(ds):
    "The same of a `Dataset`, with raw ids."
    raw = ds.items["item_id"].to_numpy()
    return {
        u: raw[ds.item[a:b]].tolist()
        for u, a, b in zip(ds.users.tolist(), ds.offsets, ds.offsets[1:])
    }


@some
@given(rows_lastfm, st.dictionaries(ids, texts), st.sampled_from(["", "\n", "\r\n"]))
def test_lastfm_rows(rows, artists, end):
    artists = artists or {1: "x"}
    tags = {t: f"tag é {t}" for t in range(1, 9)}
    with fresh() as d:
        write_lastfm(d, rows, artists, tags, end)
        ds = read_lastfm(data_dir=d)
        assert sequences(ds) == by_hand(rows) and len(ds) + ds.notes.get(
            "tags joined with one of the same time", 0
        ) == len(rows)
        for i, title, genres in ds.items.itertuples(index=False):
            assert title == (artists.get(i, "").strip() or str(i))
            users = {t: {u for u, a, tag, _ in rows if (a, tag) == (i, t)} for t in tags}
            given_tags = [t for t in tags if users[t]]
            best = sorted(given_tags, key=lambda t, users=users: (-len(users[t]), t))[:3]
            assert genres == (tuple(tags[t] for t in best) if i in artists else ())
        write_lastfm(d, rows + rows[:3], artists, tags, end)
        assert read_lastfm(data_dir=d).hash == ds.hash


@some
@given(
    st.lists(st.tuples(ids, ids, ids, seconds), min_size=1, max_size=20, unique_by=lambda r: r[3]),
    st.randoms(),
)
def test_lastfm_order_of_the_file_matters_only_for_ties(rows, random):
    with fresh() as d:
        folder = write_lastfm(
            d, rows, {i: f"artist {i}" for i in range(5)}, {i: f"tag {i}" for i in range(10)}
        )
        first = read_lastfm(data_dir=d).hash
        for file in folder.iterdir():
            head, *lines = file.read_bytes().splitlines()
            random.shuffle(lines)
            file.write_bytes(b"\r\n".join([head, *lines]))
        assert read_lastfm(data_dir=d).hash == first


@pytest.mark.parametrize(
    "year, left", [(1956, 1), (2001, 1), (2002, 2), (2010, 2), (2012, 1), (9999, 1)]
)
def test_lastfm_bogus_times(tmp_path, year, left):
    rows = [
        (1, 1, 1, 1_200_000_000),
        (1, 2, 1, int(pd.Timestamp(year, 6, 1, unit="s").timestamp())),
    ]
    write_lastfm(tmp_path, rows, {1: "a", 2: "b"}, {1: "t"})
    ds = read_lastfm(data_dir=tmp_path)
    assert len(ds) == left and ds.notes.get("impossible times dropped", 0) == 2 - left


def test_lastfm_times_of_the_collection(tmp_path):
    "Milliseconds of May 2011 neither order nor multiply a user's artists."
    may = int(LASTFM_COLLECTED) + 5 * 86400
    write_lastfm(
        tmp_path,
        [(1, 2, 1, may + 9), (1, 1, 1, may + 5), (1, 2, 2, may)],
        {1: "a", 2: "b"},
        {1: "t", 2: "u"},
    )
    ds = read_lastfm(data_dir=tmp_path)
    assert ds.item.tolist() == [1, 0] and set(ds.timestamp) == {LASTFM_COLLECTED}


def test_lastfm_only_bogus_times(tmp_path):
    write_lastfm(tmp_path, [(1, 1, 1, -1)], {1: "a"}, {1: "t"})
    with pytest.raises(PromptrecError, match="line 2: impossible times .1 of 1 rows"):
        read_lastfm(data_dir=tmp_path)


@pytest.mark.parametrize(
    "file, old, new, says",
    [
        ("artists.dat", "1\ta\t", "x\ta\t", "line 2: not id, name, url, pictureURL"),
        ("artists.dat", "1\ta\t", "1\ta", "line 2: not id, name, url, pictureURL"),
        ("artists.dat", "2\tb", "1\tb", "line 3: a second line with this id"),
        ("artists.dat", "id\t", "ID\t", "line 1: not the header"),
        ("tags.dat", "1\tt", "1 t", "line 2: not tagID, tagValue"),
        ("tags.dat", "tagID", "tag", "line 1: not the header"),
        (TAGGED, "2\t1\t1\t", "2\t1\t1.5\t", "line 3: not user, item, tag, timestamp"),
        (TAGGED, "2\t1\t1\t", "2\t1\t", "line 3: not user, item, tag, timestamp"),
        (TAGGED, "2\t1\t1\t", "\t1\t1\t", "line 3: not user, item, tag, timestamp"),
        (TAGGED, "userID", "user", "line 1: not the header"),
    ],
)
def test_lastfm_bad_lines(tmp_path, file, old, new, says):
    folder = write_lastfm(
        tmp_path, [(1, 1, 1, 2**30), (2, 1, 1, 2**30)], {1: "a", 2: "b"}, {1: "t"}
    )
    text = (folder / file).read_bytes().decode()
    assert old in text
    (folder / file).write_bytes(text.replace(old, new, 1).encode())
    with pytest.raises(PromptrecError) as e:
        read_lastfm(data_dir=tmp_path)
    assert str(folder / file) in str(e.value) and says in str(e.value)


# ---- Steam ----

users = st.text(
    st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=6
) | st.sampled_from(["o'neil", 'a"b', "zoë", "{}", "\n"])
numbers = st.integers(1, 12).map(lambda n: str(10 * n))
days = st.dates(pd.Timestamp("2010-10-15").date(), pd.Timestamp("2015-12-31").date()) | st.just(
    pd.Timestamp("2012-02-29").date()
)
reviews = st.lists(st.tuples(users, numbers, days), min_size=1, max_size=20)
words = st.none() | st.lists(
    st.sampled_from(["Action", "Indie", "Design &amp; Illustration", "Beat 'em up", ""]), max_size=5
)
games = st.lists(
    st.fixed_dictionaries(
        {},
        optional={"id": numbers, "title": texts, "app_name": texts, "genres": words, "tags": words},
    ),
    min_size=1,
)


@pytest.mark.parametrize("name", STEAM)
@some
@given(reviews, games, st.booleans(), st.sampled_from(["", "\n"]))
def test_steam_rows(name, rows, games, python, end):
    with fresh() as d:
        write_steam(d, name, rows, games, python, end)
        ds = read_steam(name, d)
        expected = by_hand([(u, i, None, day) for u, i, day in rows])
        assert sequences(ds) == expected and np.isnan(ds.rating).all()
        assert ds.notes.get("repeated reviews dropped", 0) == len(rows) - len(ds)
        listed = [g.get("id") for g in games if g.get("id")]
        assert ds.listed == len(set(listed))
        assert ds.listed + ds.notes.get("catalogue lines without an id", 0) + ds.notes.get(
            "catalogue lines that repeat a game", 0
        ) == len(games)
        first = {g["id"]: g for g in reversed(games) if g.get("id")}
        for i, title, genres in ds.items.itertuples(index=False):
            g = first.get(i, {})
            shown = [html.unescape(g.get(field, "")).strip() for field in ("title", "app_name")]
            assert title == next(filter(None, [*shown, i]))
            kinds = [html.unescape(w) for w in g.get("genres") or [] if w]
            tags = [html.unescape(w) for w in g.get("tags") or [] if w]
            assert genres == tuple(kinds or tags[:3])
        write_steam(d, name, rows + rows[:3], games, not python, end)
        assert read_steam(name, d).hash == ds.hash


@pytest.mark.parametrize("name", STEAM)
@some
@given(
    st.lists(st.tuples(users, numbers, days), min_size=1, max_size=20, unique_by=lambda r: r[2]),
    st.randoms(),
)
def test_steam_order_of_the_file_matters_only_for_ties(name, rows, random):
    games = [{"id": str(i), "title": f"game {i}", "tags": ["a", "b"]} for i in range(10, 100, 10)]
    with fresh() as d:
        write_steam(d, name, rows, games)
        first = read_steam(name, d).hash
        random.shuffle(rows)
        random.shuffle(games)
        write_steam(d, name, rows, games)
        assert read_steam(name, d).hash == first


@some
@given(
    st.lists(
        st.tuples(users, st.lists(st.tuples(numbers, days), max_size=4)), min_size=1, max_size=8
    )
)
def test_steam_nested_reviews_are_those_of_their_user(lines):
    "Users with many reviews, none, a null, and users that come back, against plain Python."
    rows = [(u, i, None, day) for u, reviews in lines for i, day in reviews]
    with fresh() as d:
        folder = write_steam(d, "steam-australian", [], [{"id": "10"}])
        text = "\n".join(
            repr(
                {
                    "user_id": u,
                    "reviews": [
                        {"item_id": i, "posted": f"Posted {MONTHS[t.month - 1]} {t.day}, {t.year}."}
                        for i, t in reviews
                    ]
                    or None,
                }
            )
            for u, reviews in lines
        )
        (folder / STEAM["steam-australian"]).write_bytes(gzip.compress(text.encode()))
        if rows:
            assert sequences(read_steam("steam-australian", d)) == by_hand(rows)
        else:
            with pytest.raises(PromptrecError, match="no review has both"):
                read_steam("steam-australian", d)


GAMES = [
    {"id": "10", "title": "Sam &amp; Max", "genres": ["Action"]},
    {"id": "20", "app_name": "Gon' E-Choo!", "tags": list("abcdef")},
]
DAY = pd.Timestamp("2014-05-01").date()


def test_steam_days_without_a_year(tmp_path):
    rows = [
        ("u", "10", "Posted September 18."),
        ("u", "20", "Posted February 29."),
        ("u", "30", "Posted December 31, 2015."),
        ("v", "10", DAY),
    ]
    write_steam(tmp_path, "steam-australian", rows, GAMES)
    ds = read_steam("steam-australian", tmp_path)
    assert (
        sequences(ds) == {"u": ["30", "20", "10"], "v": ["10"]}
        and ds.notes["dates without a year"] == 2
    )


WRONG = {
    "steam-australian": [
        "Posted February 30.",
        "Posted February 29, 2013.",
        "Posted Smarch 1.",
        "Posted May 1, 2016.",
        "Posted May 0.",
        "",
        "soon",
        "Posted May 1, 2002.",
        "Posted May 1, 2014. ",
        "Posted ٣ May.",
    ],
    "steam": [
        "2014-02-30",
        "2014-13-01",
        "2014-5-1",
        "",
        "soon",
        "1990-01-01",
        "2014-05-01T00:00",
        "20140501",
        "٢٠١٤-05-01",
    ],
}


@pytest.mark.parametrize("name, day", [(name, day) for name, days in WRONG.items() for day in days])
def test_steam_impossible_days(tmp_path, name, day):
    rows = [("u", "10", DAY), ("v", "20", day), ("w", "20", DAY)]
    folder = write_steam(tmp_path, name, rows, GAMES)
    ds = read_steam(name, tmp_path)
    assert sequences(ds) == {"u": ["10"], "w": ["20"]}
    assert ds.notes == {"reviews with an impossible date dropped": 1}
    write_steam(tmp_path, name, [*rows, ("w", "10", day)], GAMES)
    with pytest.raises(PromptrecError) as e:
        read_steam(name, tmp_path)
    assert f"{folder / STEAM[name]}: review 2 has the date {day!r}" in str(e.value)


@pytest.mark.parametrize("name", STEAM)
def test_steam_reviews_without_user_or_game(tmp_path, name):
    for nobody in [("", "20"), (None, "20"), ("v", ""), ("v", None)]:
        rows = [("u", "10", DAY), (*nobody, DAY), ("w", "20", DAY)]
        write_steam(tmp_path, name, rows, GAMES)
        ds = read_steam(name, tmp_path)
        assert sequences(ds) == {"u": ["10"], "w": ["20"]}
        assert ds.notes == {"reviews without user or game dropped": 1}
    write_steam(tmp_path, name, [*rows, rows[1]], GAMES)
    with pytest.raises(PromptrecError, match="reviews without user or game .2 of 4 rows are odd"):
        read_steam(name, tmp_path)
    assert ds.items[["title", "genres"]].values.tolist() == [
        ["Sam & Max", ("Action",)],
        ["Gon' E-Choo!", ("a", "b", "c")],
    ]


@pytest.mark.parametrize("name", STEAM)
@pytest.mark.parametrize("file", ["reviews", "games"])
def test_steam_cut_short_anywhere(tmp_path, name, file):
    "Every cut of a gzip file is refused by name, whether it falls between two lines or not."
    folder = write_steam(tmp_path, name, [("u", "10", DAY), ("v", "20", DAY)], GAMES)
    path = folder / (STEAM[name] if file == "reviews" else "steam_games.json.gz")
    whole = path.read_bytes()
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        with pytest.raises(PromptrecError) as e:
            read_steam(name, tmp_path)
        assert str(path) in str(e.value)


@pytest.mark.parametrize("name", STEAM)
@pytest.mark.parametrize("file", ["reviews", "games"])
@pytest.mark.parametrize(
    "line",
    [
        "['u', '10']",
        "7",
        "'text'",
        "None",
        "{'user_id'",
        "{'id': ten}",
        "{'id': 7, 'user_id': 7, 'username': 7}",
        "{'id': __import__('pathlib').Path('ran').touch()}",
        "__import__('pathlib').Path('ran').touch()",
    ],
)
def test_steam_bad_lines(tmp_path, monkeypatch, name, file, line):
    "A line that is no object, has fields of another kind or code: refused by number, never run."
    monkeypatch.chdir(tmp_path)
    folder = write_steam(tmp_path, name, [("u", "10", DAY), ("v", "20", DAY)], GAMES)
    path = folder / (STEAM[name] if file == "reviews" else "steam_games.json.gz")
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")
    path.write_bytes(gzip.compress("\n".join([lines[0], line, *lines[1:]]).encode()))
    with pytest.raises(PromptrecError) as e:
        read_steam(name, tmp_path)
    assert f"{path}, line 2: " in str(e.value) and not (tmp_path / "ran").exists()


def test_the_other_layout_is_refused(tmp_path):
    folder = write_steam(tmp_path, "steam", [("u", "10", DAY)], GAMES)
    (folder / STEAM["steam"]).rename(folder / STEAM["steam-australian"])
    with pytest.raises(PromptrecError, match="no review has both a user and a game"):
        read_steam("steam-australian", tmp_path)
