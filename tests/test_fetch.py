"""Sources of several files: a real server on the loopback, shared folders, faults on the way, the official names in one's own folder."""

import dataclasses
import gzip
import hashlib
import http.server
import multiprocessing
import os
import threading
import time
import zipfile

import pytest

from promptrec.core import PromptrecError
from promptrec.data import download
from promptrec.data.download import SOURCES, Files, Source, locate, sources_at_hand, sources_table

RATINGS, CORE, META = (
    b"u1,i1,5.0,1\n" * 20_000,
    gzip.compress(b"{'asin': 'i1'}\n" * 9, mtime=0),
    gzip.compress(b"{'title': 'one'}\n" * 9, mtime=0),
)
RELEASES = [s for s in SOURCES.values() if isinstance(s.ways[0], Files)]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    "An empty cache, no folder of one's own, no proxy."
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name == "PROMPTREC_DATA":
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "promptrec"


class Server(http.server.ThreadingHTTPServer):
    "Serves `files` {name: bytes}; `sent` limits how many bytes of a file go out; `log` is what was asked for."

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.sent, self.headers, self.wait, self.log = (
            {"ratings.csv": RATINGS, "core.json.gz": CORE, "meta.json.gz": META},
            {},
            {},
            0,
            [],
        )

    @property
    def at(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, name = self.server, self.path.rsplit("/", 1)[-1]
        server.log.append(name)
        if name not in server.files:
            return self.send_error(404)
        raw = server.files[name]
        self.send_response(200)
        for header in {"Content-Length": str(len(raw)), **server.headers}.items():
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(raw[:10])
        self.wfile.flush()
        time.sleep(server.wait)
        self.wfile.write(raw[10 : server.sent.get(name)])

    def log_message(self, *args):
        pass


def sources(at):
    "Two sources that share a folder and, in it, a catalogue."
    return [
        Source(
            name,
            "dataset",
            (Files("toy-2020", {file: f"{at}/{file}", "meta.json.gz": f"{at}/meta.json.gz"}),),
            "none",
            "none",
        )
        for name, file in [("toy", "ratings.csv"), ("toy-5core", "core.json.gz")]
    ]


@pytest.fixture
def server(cache, monkeypatch):
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    for s in sources(server.at):
        monkeypatch.setitem(SOURCES, s.name, s)
    yield server
    server.shutdown()
    server.server_close()


def tree(folder):
    return sorted(
        p.relative_to(folder).as_posix()
        for p in folder.rglob("*")
        if p.is_file() and p.suffix != ".lock"
    )


# ---- over the network ----


def test_second_source_fetches_what_is_new(server, cache):
    folder = locate("toy-5core")
    assert folder == cache / "toy-2020" and sources_at_hand() == {
        "dataset": ["toy-5core"],
        "model": [],
    }
    assert locate("toy") == folder == locate("toy-5core")
    assert server.log == ["core.json.gz", "meta.json.gz", "ratings.csv"] and sources_at_hand()[
        "dataset"
    ] == ["toy", "toy-5core"]
    assert [(folder / f).read_bytes() for f in ("ratings.csv", "core.json.gz", "meta.json.gz")] == [
        RATINGS,
        CORE,
        META,
    ]
    assert tree(cache) == ["toy-2020/core.json.gz", "toy-2020/meta.json.gz", "toy-2020/ratings.csv"]
    assert not [p for p in cache.iterdir() if p.name.startswith(".") and p.is_dir()]


@pytest.mark.parametrize("cut", ["ratings.csv", "meta.json.gz"])
def test_cut_connection_keeps_what_is_whole(server, cache, cut):
    server.sent[cut] = 20
    with pytest.raises(PromptrecError, match=f"{server.at}/{cut}: the connection was cut") as e:
        locate("toy")
    whole = [] if cut == "ratings.csv" else ["toy-2020/ratings.csv"]
    assert tree(cache) == whole and sources_at_hand()["dataset"] == []
    assert (
        f"Put {'' if whole else 'ratings.csv, '}meta.json.gz into {cache / 'toy-2020'} (or"
        in str(e.value)
    )
    server.sent.clear()
    server.log.clear()
    locate("toy")
    assert server.log == ["ratings.csv", "meta.json.gz"][len(whole) :]


@pytest.mark.parametrize(
    "name, raw, says",
    [
        ("ratings.csv", b"", "it is empty"),
        ("ratings.csv", b"<!DOCTYPE html><html>Sign in</html>", "it is a web page"),
        ("meta.json.gz", b"<html>Sign in</html>", "it is a web page"),
        ("meta.json.gz", b"{'title': 'one'}", "not a whole gzip file .Not a gzipped file"),
        ("meta.json.gz", META[:-9], "not a whole gzip file .Compressed file ended"),
        ("meta.json.gz", META[:-6] + b"\0" + META[-5:], "not a whole gzip file .CRC check failed"),
    ],
)
def test_wrong_file(server, cache, name, raw, says):
    server.files[name] = raw
    with pytest.raises(PromptrecError, match=f"{name}: another file came, .*{says}"):
        locate("toy")
    assert name not in [p.name for p in (cache / "toy-2020").glob("*")]


def test_missing_at_the_address(server, cache):
    del server.files["meta.json.gz"]
    with pytest.raises(PromptrecError, match=r"meta.json.gz: 404 Client Error: Not Found\)"):
        locate("toy")


def test_bytes_as_they_are(server):
    "A server may call .gz an encoding of the content; the file stays packed."
    server.headers = {"Content-Encoding": "x-gzip"}
    assert (locate("toy-5core") / "core.json.gz").read_bytes() == CORE


def test_a_full_disk_leaves_nothing(server, cache, monkeypatch):
    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download.os, "fsync", full)
    with pytest.raises(PromptrecError, match="No space left"):
        locate("toy")
    assert tree(cache) == []


def test_files_without_an_address_are_not_fetched(server, monkeypatch, tmp_path):
    "Another file set counts where it is at hand."
    way = SOURCES["toy"].ways[0]
    monkeypatch.setitem(
        SOURCES,
        "toy",
        Source(
            "toy",
            "dataset",
            (Files("toy-2020", {"reviews.json.gz": "", "meta.json.gz": ""}), way),
            "",
            "",
        ),
    )
    assert locate("toy").name == "toy-2020" and server.log == ["ratings.csv", "meta.json.gz"]
    own = tmp_path / "toy-2020"
    own.mkdir()
    for name in ("reviews.json.gz", "meta.json.gz"):
        (own / name).touch()
    assert locate("toy", tmp_path) == own


def start(*names):
    processes = [
        multiprocessing.get_context("fork").Process(target=locate, args=(name,)) for name in names
    ]
    for p in processes:
        p.start()
    return processes


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_kill_then_three_at_once(server, cache):
    "A killed process leaves no file under its name and blocks nobody; of those at once, one fetches each file."
    server.wait = 60
    (killed,) = start("toy")
    while not server.log:
        time.sleep(0.02)
    killed.kill()
    killed.join()
    assert (
        not (cache / "toy-2020").exists() and len([p for p in cache.iterdir() if p.is_dir()]) == 1
    )
    server.wait = 0.3
    server.log.clear()
    for p in start("toy", "toy", "toy-5core"):
        p.join(60)
        assert p.exitcode == 0
    assert sorted(server.log) == ["core.json.gz", "meta.json.gz", "ratings.csv"]
    assert tree(cache) == ["toy-2020/core.json.gz", "toy-2020/meta.json.gz", "toy-2020/ratings.csv"]
    assert [p.name for p in cache.iterdir() if p.is_dir()] == ["toy-2020"]


# ---- one's own folder ----


def test_zip_without_a_folder_inside_and_without_a_known_size(server, cache, tmp_path, monkeypatch):
    "The layout of the Last.fm archive, fetched and from one's own folder; another zip is not taken for it."
    last = SOURCES["lastfm"].archives[0]
    with zipfile.ZipFile(tmp_path / last.file, "w") as z:
        for name in last.files:
            z.writestr(name, name)
    raw = server.files[last.file] = (tmp_path / last.file).read_bytes()
    known = dataclasses.replace(
        last, checksum=hashlib.sha256(raw).hexdigest(), url=f"{server.at}/{last.file}"
    )
    with pytest.raises(PromptrecError, match=f"expected {last.checksum}, found {known.checksum}"):
        locate("lastfm", tmp_path)
    monkeypatch.setitem(SOURCES, "lastfm", dataclasses.replace(SOURCES["lastfm"], ways=(known,)))
    assert locate("lastfm") == cache / "hetrec2011-lastfm-2k" and server.log == [last.file]
    assert tree(cache) == sorted(f"hetrec2011-lastfm-2k/{f}" for f in last.files)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert (
        sources_at_hand(tmp_path)["dataset"] == ["lastfm"]
        and (locate("lastfm", tmp_path) / "tags.dat").read_text() == "tags.dat"
    )


@pytest.fixture
def offline(monkeypatch):
    def fail(url, path):
        raise ConnectionError(f"{url}: no network")

    monkeypatch.setattr(download, "_fetch_url", fail)


def put(folder, files):
    for f in files:
        (folder / f).parent.mkdir(parents=True, exist_ok=True)
        (folder / f).touch()


@pytest.mark.parametrize(
    "source, way",
    [pytest.param(s, w, id=f"{s.name}-{i}") for s in RELEASES for i, w in enumerate(s.ways)],
)
def test_official_names_in_ones_own_folder(tmp_path, cache, offline, source, way):
    "Any of its file sets will do, in the named folder, in that folder itself, or in a folder called by the source's name."
    put(tmp_path / "own" / way.folder, way.files)
    assert (
        locate(source.name, tmp_path / "own")
        == locate(source.name, tmp_path / "own" / way.folder)
        == tmp_path / "own" / way.folder
    )
    assert sources_at_hand(tmp_path / "own") == {"dataset": [source.name], "model": []}
    put(tmp_path / "mine" / source.name, way.files)
    assert locate(source.name, tmp_path / "mine") == tmp_path / "mine" / source.name


def test_shared_catalogue_alone_is_not_the_data(tmp_path, cache, offline):
    shared = tmp_path / "amazon-2014"
    put(shared, ["reviews_Beauty_5.json.gz", "meta_Beauty.json.gz"])
    for own in (tmp_path, shared):
        with pytest.raises(PromptrecError, match="ratings_Beauty.csv: no network") as e:
            locate("beauty", own)
        assert f"Put ratings_Beauty.csv into {shared} (or" in str(
            e.value
        ) and "data sets: beauty-5core; the models" in str(e.value)


def test_half_a_set_is_named(tmp_path, cache, offline):
    put(tmp_path / "amazon-2014", ["ratings_Beauty.csv"])
    put(tmp_path / "llara-steam", ["train.jsonl.gz", "test.jsonl.gz", "id2name.txt"])
    with pytest.raises(
        PromptrecError, match="amazon-2014 lacks meta_Beauty.json.gz, which beauty needs"
    ):
        locate("beauty", tmp_path)
    with pytest.raises(
        PromptrecError, match="llara-steam lacks val.jsonl.gz, which llara-steam needs"
    ):
        locate("llara-steam", tmp_path)
    assert sources_at_hand(tmp_path)["dataset"] == []


def test_the_5core_of_2023_is_another_file(tmp_path, cache, offline):
    put(tmp_path / "amazon-2023", ["Video_Games.csv.gz", "meta_Video_Games.jsonl.gz"])
    with pytest.raises(
        PromptrecError,
        match="Put 5core/Video_Games.csv.gz; or 5core/Video_Games.csv into .*amazon-2023 ",
    ):
        locate("video-games-5core-2023", tmp_path)


def test_names_of_a_release_are_not_taken_for_another(tmp_path, cache, offline):
    "The three splits of LLaRA have the same file names."
    put(tmp_path / "llara-steam", SOURCES["llara-steam"].ways[0].files)
    for own in (tmp_path, tmp_path / "llara-steam"):
        with pytest.raises(PromptrecError, match="88e1e386.*/lastfm/train_data.df: no network"):
            locate("llara-lastfm", own)


def test_many_at_hand_stay_readable(tmp_path, cache, offline):
    for s in RELEASES[:-1]:
        put(tmp_path / s.ways[0].folder, s.ways[0].files)
    with pytest.raises(
        PromptrecError,
        match=r"data sets: (\S+, ){7}\S+ and 10 more .`sources_at_hand` names them.; the models: none.",
    ) as e:
        locate("llara-steam", tmp_path)
    assert len(str(e.value)) < 1000 and sources_at_hand(tmp_path)["dataset"] == [
        s.name for s in RELEASES[:-1]
    ]


# ---- the registry ----


def test_every_address_is_under_its_files_name():
    for source in RELEASES:
        for way in source.ways:
            for name, url in way.files.items():
                assert (
                    not url
                    or url.startswith("https://")
                    and url.endswith("/" + name.rsplit("/", 1)[-1])
                )
    one = {}  # two sources that share a file agree on its address
    for source in RELEASES:
        for way in source.fetchable:
            for name, url in way.files.items():
                assert one.setdefault((way.folder, name), url) == url


def test_table_says_what_is_not_checked():
    table = sources_table()
    assert (
        set(table.loc[[s.name for s in RELEASES], "checksum"]) == {"no published checksum"}
        and table.loc["ml-10m", "checksum"] == "MD5"
    )
    assert (
        list(table.index) == list(SOURCES) and table.loc["llara-steam", "licence"] == "Apache-2.0"
    )


@pytest.mark.parametrize(
    "name, folder",
    [
        ("beauty-5core", "amazon-2014"),
        ("video-games-5core", "amazon-2014"),
        ("lastfm", "hetrec2011-lastfm-2k"),
        ("steam-australian", "steam"),
        ("llara-lastfm", "llara-lastfm"),
    ],
)
def test_real_folders(real_data, name, folder):
    if not (real_data / folder).is_dir():
        pytest.skip(f"{folder} is not in PROMPTREC_DATA")
    assert locate(name, real_data) == real_data / folder
