"""Amazon reviews: every layout gives the same data, faults are named, counts are as published."""

import gzip
import html
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptrec.core import PromptrecError
from promptrec.data.amazon import (
    AMAZON_SETS,
    clean_text,
    genres_of_paths,
    read_amazon,
    read_products,
    read_reviews,
)
from promptrec.data.download import SOURCES

# of 34 categories of 2023 three; of their 5-core in three parts see test_large.py
NAMES = [
    name
    for name in AMAZON_SETS
    if "2023" not in name or name.startswith(("all-beauty", "beauty", "video"))
]
WAYS = [
    (name, way)
    for name in NAMES
    for way in SOURCES[name].ways
    if not any("train" in file for file in way.files)
]
DAY = 86400
OLD = ("reviewerID", "asin", "overall", "unixReviewTime")  # fields of a review, 2014 and 2018
NEW = ("user_id", "parent_asin", "rating", "timestamp")  # and in 2023


# ---- a small shop, written as the official files are ----


def product_objects(fields, year, products):
    "Products (item, title or None, paths) as the objects of a catalogue."
    things = []
    for item, title, paths in products:
        thing = {fields[1]: item}
        if title is not None:
            thing["title"] = title
        if year == 2014:
            thing["categories"] = paths
        else:
            thing["category" if year == 2018 else "categories"] = sum(paths[:1], [])
        things.append(thing)
    return things


def review_objects(fields, year, reviews):
    "Reviews (user, item, stars or None, seconds) as objects."
    ticks = 1000 if year == 2023 else 1
    things = []
    for user, item, stars, seconds in reviews:
        values = zip(fields, (user, item, stars, seconds * ticks))
        thing = {field: value for field, value in values if value is not None}
        if year == 2023:
            thing |= {"title": "Not the item's", "asin": "X"}
        things.append(thing)
    return things


def text_of(file, year, reviews, products, style, end):
    "What `file` of a release says."
    fields = NEW if year == 2023 else OLD
    if file.startswith("meta_"):
        return end.join(style(t) for t in product_objects(fields, year, products))
    things = review_objects(fields, year, reviews)
    if ".csv" not in file:
        return end.join(style(t) for t in things)
    columns = [fields[j] for j in (1, 0, 2, 3)] if year == 2018 else fields
    lines = [",".join(str(t[column]) for column in columns) for t in things]
    return end.join([",".join(NEW)] * (year == 2023) + lines)


def write_shop(folder, name, way, reviews, products, style=json.dumps, end="\n", last=""):
    "Write data set `name`; returns its files, reviews first."
    for file in way.files:
        path = Path(folder) / way.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = (text_of(path.name, AMAZON_SETS[name], reviews, products, style, end) + last).encode()
        path.write_bytes(gzip.compress(raw, mtime=0) if file.endswith(".gz") else raw)
    return [Path(folder) / way.folder / file for file in way.files]


def read_shop(name, way, reviews, products, **more):
    "The small shop written and read."
    with tempfile.TemporaryDirectory() as folder:
        write_shop(folder, name, way, reviews, products, **more)
        return read_amazon(name, folder)


def histories(ds):
    "{user: [(item, stars, seconds)]}."
    rows = list(
        zip(
            ds.items["item_id"].to_numpy(object)[ds.item],
            np.where(np.isnan(ds.rating), -1, ds.rating).tolist(),
            ds.timestamp.tolist(),
        )
    )
    return {str(u): rows[a:b] for u, a, b in zip(ds.users, ds.offsets[:-1], ds.offsets[1:])}


def expected(reviews):
    "The same from the reviews, without pandas."
    first = {(u, i, t): -1 if s is None else s for u, i, s, t in reversed(reviews)}
    rows = [
        key
        for n, key in enumerate([(u, i, t) for u, i, _, t in reviews])
        if key not in [(u, i, t) for u, i, _, t in reviews[:n]]
    ]
    return {
        u: [(i, first[v, i, t], float(t)) for v, i, t in sorted(rows, key=lambda r: r[2]) if v == u]
        for u in sorted({r[0] for r in rows})
    }


ids = st.text("AB09é-_'\"", min_size=1, max_size=3)
times = st.integers(900_000_000, 900_000_004) | st.integers(10_000, 16_000).map(lambda d: d * DAY)
stars = st.integers(1, 5)
words = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="&<>"), max_size=12
) | st.sampled_from(['Women\'s "Café"', "日本", " ", "𝄞"])
levels = st.lists(
    st.lists(st.sampled_from(["Beauty", "Hair Care", "Bath & Body", "PC", "Men's"]), max_size=4),
    max_size=3,
)
styles = st.sampled_from([json.dumps, lambda o: json.dumps(o, ensure_ascii=False), repr, ascii])


@settings(max_examples=100, deadline=None)
@given(
    st.data(),
    st.sampled_from(WAYS),
    styles,
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "\n"]),
    st.sampled_from([0, 1, 2]),
)
def test_every_layout_is_read_as_written(data, where, style, end, last, escaped):
    name, way = where
    unknown = st.none() if not any(".csv" in f for f in way.files) else st.nothing()
    reviews = data.draw(
        st.lists(st.tuples(ids, ids, stars | unknown, times), min_size=1, max_size=12)
    )
    reviewed = sorted({r[1] for r in reviews})
    products = data.draw(
        st.lists(
            st.tuples(st.sampled_from(reviewed + ["no one's"]), st.none() | words, levels),
            min_size=1,
            max_size=6,
        )
    )

    def shown(text):
        for _ in range(escaped):
            text = html.escape(text)
        return text

    written = [
        (
            i,
            t if t is None else shown(t),
            [[shown(p) if escaped else p for p in path] for path in paths],
        )
        for i, t, paths in products
    ]
    ds = read_shop(name, way, reviews, written, style=style, end=end, last=last)

    assert histories(ds) == expected(reviews)
    known = {i: (t, paths) for i, t, paths in reversed(products)}
    titles = {i: " ".join((known.get(i, ("",))[0] or "").split()) for i in reviewed}
    assert dict(zip(ds.items["item_id"], ds.titles)) == {i: t or i for i, t in titles.items()}
    paths = {
        i: known[i][1][: None if AMAZON_SETS[name] == 2014 else 1] if i in known else []
        for i in reviewed
    }
    assert dict(zip(ds.items["item_id"], ds.items["genres"])) == {
        i: tuple(dict.fromkeys(level for p in ps for level in p[1:][-2:]))
        for i, ps in paths.items()
    }
    counts = {
        "reviews without a rating": sum(r[2] is None for r in reviews),
        "repeated reviews dropped": len(reviews) - len({(u, i, t) for u, i, _, t in reviews}),
        "products listed twice": len(products) - len(known),
        "items that the catalogue lacks": len(set(reviewed) - set(known)),
        "items without a title": sum(not t for t in titles.values()),
    }
    assert ds.notes == {says: n for says, n in counts.items() if n}
    assert (ds.domain.name, ds.listed) == ("shopping", len(known))


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(WAYS),
    st.lists(st.tuples(ids, ids, stars, times), min_size=1, max_size=12, unique_by=lambda r: r[3]),
    st.randoms(),
)
def test_the_order_of_rows_with_different_times_changes_nothing(where, reviews, random):
    products = [(i, f"Title {i}", [["Beauty", "Makeup"]]) for i in sorted({r[1] for r in reviews})]
    ds = read_shop(*where, reviews, products)
    random.shuffle(reviews)
    random.shuffle(products)
    assert read_shop(*where, reviews, products).hash == ds.hash


def test_equal_times_keep_the_order_of_the_file():
    for name, way in WAYS:
        for order in (["B1", "B2", "B3"], ["B3", "B1", "B2"]):
            ds = read_shop(
                name, way, [("ann", i, 5, 10_000 * DAY) for i in order], [("B1", "One", [])]
            )
            assert [r[0] for r in histories(ds)["ann"]] == order


# ---- faults ----

SHOP = (
    [
        ("ann", "B1", 5, 10_000 * DAY),
        ("ann", "B2", 4, 10_001 * DAY),
        ("bob", "B1", 3, 10_002 * DAY),
    ],
    [("B1", "Café", [["Beauty", "Makeup"]]), ("B2", "Two", [])],
)
LAYOUTS = [
    (name, way)
    for name, way in WAYS
    if name
    in ("beauty", "beauty-5core", "video-games-2018", "all-beauty-2023", "all-beauty-5core-2023")
]


def outcome(name, folder, whole):
    "Read again after a fault: None for the whole data set, or the error; fails on other data."
    try:
        ds = read_amazon(name, folder)
    except PromptrecError as e:
        return str(e)
    assert ds.hash == whole
    return None


@pytest.mark.parametrize(
    "name, way", LAYOUTS, ids=lambda x: x if isinstance(x, str) else next(iter(x.files))
)
def test_a_gzip_cut_short_anywhere_is_never_less_data(name, way, tmp_path):
    for path in write_shop(tmp_path, name, way, *SHOP):
        if path.suffix != ".gz":
            continue
        raw, whole = path.read_bytes(), read_amazon(name, tmp_path).hash
        for size in range(len(raw)):
            path.write_bytes(raw[:size])
            says = outcome(name, tmp_path, whole)
            assert says is None or str(path) in says
            assert says, f"{size} of {len(raw)} bytes were read as the whole"
        path.write_bytes(raw)


@pytest.mark.parametrize(
    "name, way", LAYOUTS, ids=lambda x: x if isinstance(x, str) else next(iter(x.files))
)
def test_one_changed_byte_of_a_gzip_is_never_other_data(name, way, tmp_path):
    for path in write_shop(tmp_path, name, way, *SHOP):
        if path.suffix != ".gz":
            continue
        raw, whole = path.read_bytes(), read_amazon(name, tmp_path).hash
        for at in range(0, len(raw), 3):
            path.write_bytes(raw[:at] + bytes([raw[at] ^ 0x55]) + raw[at + 1 :])
            says = outcome(name, tmp_path, whole)
            assert says is None or str(path) in says
        path.write_bytes(raw)


@pytest.mark.parametrize(
    "line",
    [
        "[1, 2]",
        "null",
        '"text"',
        "7",
        "None",
        "{1, 2}",
        '{"asin": "B3"',
        "{'asin': 'B3', 'title': f'{1}'}",
        "asin",
        "{'asin': __import__('os').system('touch {}')}",
        "{'asin': open('{}', 'w')}",
        "[].__class__",
        "{" * 5000,
    ],
)
@pytest.mark.parametrize("file", [0, 1])
def test_a_line_that_is_no_object_is_named_and_never_run(line, file, tmp_path):
    (tmp_path / "data").mkdir()
    path = write_shop(
        tmp_path / "data", "beauty-5core", SOURCES["beauty-5core"].ways[0], *SHOP, last="\n"
    )[file]
    lines = gzip.decompress(path.read_bytes()).decode() + line.replace(
        "touch {}", f"touch {tmp_path}/ran"
    ).replace("open('{}", f"open('{tmp_path}/ran")
    path.write_bytes(gzip.compress(lines.encode()))
    with pytest.raises(PromptrecError, match=f"line {len(lines.splitlines())}:") as e:
        read_amazon("beauty-5core", tmp_path / "data")
    assert str(path) in str(e.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "review, says",
    [
        ({"reviewerID": None}, "reviews without user or product"),
        ({"asin": ""}, "reviews without user or product"),
        ({"overall": 0}, "ratings that are not from 1 to 5"),
        ({"overall": 5.5}, "ratings that are not from 1 to 5"),
        ({"overall": float("inf")}, "ratings that are not from 1 to 5"),
        ({"unixReviewTime": 0}, "times that are not from 1995 to 2014"),
        ({"unixReviewTime": -1}, "times that are not from 1995 to 2014"),
        ({"unixReviewTime": None}, "times that are not from 1995 to 2014"),
        ({"unixReviewTime": 10_000 * DAY * 1000}, "times that are not from 1995 to 2014"),
    ],
)
@pytest.mark.parametrize("blank", ["", "\n\n"])
def test_an_impossible_review_is_dropped_and_two_of_few_are_an_error(review, says, blank, tmp_path):
    good = {"reviewerID": "ann", "asin": "B1", "overall": 5, "unixReviewTime": 10_000 * DAY}
    wrong = json.dumps(good | review)
    path = tmp_path / "reviews_X_5.json.gz"
    text = f"{json.dumps(good)}\n{blank}{wrong}\n{json.dumps(good)}"
    path.write_bytes(gzip.compress(text.encode()))
    rows, notes = read_reviews(path, 2014)
    assert len(rows) == 2 and notes == {f"{says} dropped": 1}
    path.write_bytes(gzip.compress(f"{text}\n{wrong}".encode()))
    with pytest.raises(PromptrecError, match=f"line {2 + len(blank)}: {says} .2 of 4 rows"):
        read_reviews(path, 2014)


@pytest.mark.parametrize(
    "review, says",
    [
        ({"reviewerID": 7}, "field 'reviewerID' is not string"),
        ({"overall": "five"}, "field 'overall' is not double"),
        ({"unixReviewTime": "x"}, "'unixReviewTime' is not int64"),
    ],
)
@pytest.mark.parametrize("blank", ["", "\n\n"])
def test_a_field_of_another_kind_is_named_by_its_line(review, says, blank, tmp_path):
    good = {"reviewerID": "ann", "asin": "B1", "overall": 5, "unixReviewTime": 10_000 * DAY}
    path = tmp_path / "reviews_X_5.json.gz"
    path.write_bytes(
        gzip.compress(
            f"{json.dumps(good)}\n{blank}{json.dumps(good | review)}\n{json.dumps(good)}".encode()
        )
    )
    with pytest.raises(PromptrecError, match=f"line {2 + len(blank)}: .*{says}"):
        read_reviews(path, 2014)


@pytest.mark.parametrize(
    "year, line, says",
    [
        (2014, "ann,B1,5.0", "not user, item"),
        (2014, "ann,B1,5.0,1,2", "not user"),
        (2014, ",B1,5.0,864000000", "not user"),
        (2014, "ann,B1,,864000000", "not user"),
        (2018, "B1,ann,nan,864000000", "not item, user"),
        (2023, "ann,B1,5.0", "not user, item"),
    ],
)
def test_a_malformed_row_is_named_by_its_line(year, line, says, tmp_path):
    (tmp_path / "X.csv").write_text(
        "\n".join(
            [",".join(NEW)] * (year == 2023)
            + [f"ann,B1,5.0,{864_000_000 * (1000 if year == 2023 else 1)}", line]
        )
    )
    with pytest.raises(PromptrecError, match=f"line {2 + (year == 2023)}: .*{says}"):
        read_reviews(tmp_path / "X.csv", year)


@pytest.mark.parametrize(
    "year, line, says",
    [
        (2014, "ann,B1,6.0,864000000", "ratings that are not from 1 to 5"),
        (2014, "B1,ann,5.0,12", "times that are not from 1995 to 2014"),
        (2023, "ann,B1,0,864000000000", "ratings that are not from 1 to 5"),
        (2023, "ann,B1,5.0,864000000", "times that are not from 1995 to 2023"),
    ],
)
def test_an_impossible_row_is_dropped_and_two_of_few_are_an_error(year, line, says, tmp_path):
    head = [",".join(NEW)] * (year == 2023)
    good = f"ann,B1,5.0,{864_000_000 * (1000 if year == 2023 else 1)}"
    (tmp_path / "X.csv").write_text("\n".join([*head, good, line]))
    rows, notes = read_reviews(tmp_path / "X.csv", year)
    assert len(rows) == 1 and notes == {f"{says} dropped": 1}
    (tmp_path / "X.csv").write_text("\n".join([*head, good, line, line]))
    with pytest.raises(PromptrecError, match=f"line {len(head) + 2}: {says} .2 of 3 rows"):
        read_reviews(tmp_path / "X.csv", year)


def test_a_product_without_an_id_is_named(tmp_path):
    (tmp_path / "meta.json").write_text("{'asin': 'B1'}\n\n{'title': 'x'}")
    assert read_products(tmp_path / "meta.json", 2014)[1] == {"products without an id dropped": 1}
    (tmp_path / "meta.json").write_text("{'asin': 'B1'}\n\n{'title': 'x'}\n{'title': 'y'}")
    with pytest.raises(PromptrecError, match="line 3: products without an id"):
        read_products(tmp_path / "meta.json", 2014)


def test_an_unknown_name_gets_a_hint():
    with pytest.raises(PromptrecError, match="Did you mean 'video-games-5core'"):
        read_amazon("video-game-5core")


# ---- words ----


@given(st.text())
def test_clean_text_has_no_stray_space_and_plain_words_stay(text):
    assert clean_text(text) == " ".join(clean_text(text).split())
    plain = text.translate({ord(c): None for c in "&<"})
    if "getTime" not in plain:
        assert clean_text(plain) == " ".join(plain.split())


def test_markup_entities_and_scripts():
    assert (
        clean_text('<span class="a-size-large">Sonic &amp;amp; Knuckles</span><br/>(Genesis)')
        == "Sonic & Knuckles (Genesis)"
    )
    assert clean_text("Rockman &lt;Limited Edition&gt;") == "Rockman <Limited Edition>"
    assert clean_text("I <3 games > all") == "I <3 games > all"
    assert clean_text("var aPageStart = (new Date()).getTime();") == ""
    paths = [
        ["Video Games", "Retro Gaming &amp; Microconsoles"],
        ["Video Games", "Retro Gaming & Microconsoles", "</span>"],
    ]
    assert genres_of_paths([paths, None]).tolist() == [("Retro Gaming & Microconsoles",), ()]


# ---- the real files ----

REAL = {
    "beauty-5core": (
        22_363,
        12_101,
        198_502,
        {"reviews without a rating": 198_502, "items without a title": 7},
    ),
    "video-games-5core": (
        24_303,
        10_672,
        231_780,
        {
            "reviews without a rating": 231_780,
            "items that the catalogue lacks": 33,
            "items without a title": 2_621,
        },
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_the_real_5_cores_have_their_published_counts(name, real_data):
    ds = read_amazon(name, real_data)
    assert (ds.n_users, ds.n_items, len(ds), ds.notes) == REAL[name]
    assert np.diff(ds.offsets).min() == 5 and np.bincount(ds.item).min() == 5
    assert not any("&amp;" in t or "&#" in t for t in ds.titles)
    genres = ds.items["genres"].value_counts()
    assert (
        genres.drop(()).index[0]
        == {"beauty-5core": ("Nails", "Nail Polish"), "video-games-5core": ("PC", "Games")}[name]
    )
    assert max(len(g.split()) for gs in genres.index for g in gs) <= 6  # no sentences
