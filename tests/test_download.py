"""Where data comes from: nothing is used unchecked, and nothing half-written stays.

Archives are unpacked safely, files come from a real server on the loopback, folders are shared, and
faults on the way are named.
"""

import dataclasses
import gzip
import hashlib
import http.server
import multiprocessing
import os
import stat
import threading
import time
import zipfile

import pytest

from promptrec.core import PromptrecError
from promptrec.data import download
from promptrec.data.download import (
    SOURCES,
    Archive,
    Files,
    Source,
    _extract,
    locate,
    sources_at_hand,
    sources_table,
    unpack,
    verify,
)

RATINGS = b"u1,i1,5.0,1\n" * 20_000
CORE = gzip.compress(b"{'asin': 'i1'}\n" * 9, mtime=0)
META = gzip.compress(b"{'title': 'one'}\n" * 9, mtime=0)
RELEASES = [s for s in SOURCES.values() if isinstance(s.ways[0], Files)]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    "An empty cache, no folder of one's own, no proxy."
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name == "PROMPTREC_DATA":
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "promptrec"


@pytest.fixture
def offline(monkeypatch):
    "No network: both ways of fetching fail as they do without one."

    def no_url(url, path):
        raise ConnectionError(f"{url}: no network")

    def no_wheel(archive, folder):
        raise ConnectionError(f"{archive.wheel}: no network")

    monkeypatch.setattr(download, "_fetch_url", no_url)
    monkeypatch.setattr(download, "_fetch_wheel", no_wheel)


def zipped(path, files, **more):
    "Write a zip and return the `Archive` that describes it."
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, text in files.items():
            z.writestr(name, text)
    raw = path.read_bytes()
    known = {
        "files": ("a.txt",),
        "checksum": hashlib.sha256(raw).hexdigest(),
        "size": len(raw),
        "inner": "toy",
        "url": f"https://data.invalid/{path.name}",
    }
    return Archive(**(known | more))


@pytest.fixture
def toy(tmp_path, cache, monkeypatch):
    "A registered source called toy, and the folder with its archive."
    own = tmp_path / "own"
    own.mkdir()
    archive = zipped(own / "toy.zip", {"toy/a.txt": "hello", "toy/b/c.txt": "!"})
    monkeypatch.setitem(SOURCES, "toy", Source("toy", "dataset", (archive,), "", ""))
    return own


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` {name: bytes}.

    `sent` limits how many bytes of a file go out, `wait` is how many seconds it pauses in the
    middle; `log` is what was asked for.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"ratings.csv": RATINGS, "core.json.gz": CORE, "meta.json.gz": META}
        self.sent = {}
        self.headers = {}
        self.wait = 0
        self.log = []

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


def shops(at):
    "Two sources that share a folder and, in it, a catalogue."
    sources = []
    for name, file in [("shop", "ratings.csv"), ("shop-5core", "core.json.gz")]:
        addresses = {file: f"{at}/{file}", "meta.json.gz": f"{at}/meta.json.gz"}
        sources.append(Source(name, "dataset", (Files("shop-2020", addresses),), "none", "none"))
    return sources


@pytest.fixture
def server(cache, monkeypatch):
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    for s in shops(server.at):
        monkeypatch.setitem(SOURCES, s.name, s)
    yield server
    server.shutdown()
    server.server_close()


def left(folder):
    "Names in `folder`, without locks."
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".lock")


def tree(folder):
    "Paths of all files under `folder`, without locks."
    files = (p for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")
    return sorted(p.relative_to(folder).as_posix() for p in files)


def put(folder, files):
    for f in files:
        (folder / f).parent.mkdir(parents=True, exist_ok=True)
        (folder / f).touch()


def start(*names):
    "A process for each name, which locates it; forked, so that what is patched here is there too."
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=locate, args=(name,)) for name in names]
    for p in processes:
        p.start()
    return processes


# ---- archives ----


def test_local_archive_is_checked(toy):
    archive = SOURCES["toy"].archives[0]
    raw = (toy / "toy.zip").read_bytes()
    for bad, says in [
        (raw[:-9], f"expected {len(raw)} bytes, found {len(raw) - 9} bytes"),
        (bytes(len(raw)), f"expected {archive.checksum}, found "),
    ]:
        (toy / "toy.zip").write_bytes(bad)
        with pytest.raises(PromptrecError, match=says) as e:
            locate("toy", toy)
        assert str(toy / "toy.zip") in str(e.value)
        assert "unpack it by hand into a folder called toy" in str(e.value)
    unpacked = toy / "toy"
    unpacked.mkdir()
    (unpacked / "a.txt").touch()  # which then works
    assert locate("toy", toy) == unpacked


def test_md5(toy):
    raw = (toy / "toy.zip").read_bytes()
    checksum = "md5:" + hashlib.md5(raw).hexdigest()
    archive = dataclasses.replace(SOURCES["toy"].archives[0], checksum=checksum)
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


@pytest.mark.parametrize("fits", [True, False])
def test_a_zip_may_hold_a_mebibyte_and_twenty_times_its_size_but_no_more(tmp_path, fits):
    archive = tmp_path / "t.zip"
    zipped(archive, {"toy/a.txt": bytes(2 << 20)})
    fill = -(-(1 << 20) // 20) - archive.stat().st_size  # 20 of these bytes hold the second MiB
    with zipfile.ZipFile(archive, "a") as z:
        z.comment = b" " * (fill if fits else fill - 1)
    if fits:
        assert (unpack(archive, tmp_path / "toy") / "toy" / "a.txt").stat().st_size == 2 << 20
    else:
        with pytest.raises(PromptrecError, match="more than 20 times its size"):
            unpack(archive, tmp_path / "toy")


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
    put(tmp_path / "own" / "ml-1m", ["ratings.dat", "movies.dat"])
    with pytest.raises(PromptrecError, match="data sets: ml-1m; the models: none") as e:
        locate("ml-20m", tmp_path / "own")
    assert f"Put ml-20m.zip into {tmp_path / 'own'}" in str(e.value)
    assert sources_at_hand(tmp_path / "own") == {"dataset": ["ml-1m"], "model": []}
    assert left(cache) == []


def test_wheel_when_the_address_fails(toy, cache, offline, monkeypatch, tmp_path):
    "Second archive after the first fails; a wheel that is not the known one does not count."
    wheel = zipped(
        tmp_path / "w.whl",
        {"w/data/a.txt": "wheel", "w/data/other.txt": "!", "w/__init__.py": "code"},
        inner="w/data",
        url="",
        wheel="w==1",
    )
    ways = (*SOURCES["toy"].archives, wheel)
    monkeypatch.setitem(SOURCES, "toy", Source("toy", "dataset", ways, "", ""))

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


def test_archive_over_http(toy, server, cache, monkeypatch):
    "The whole way through a real server, once: the second call does not ask it."
    server.files["toy.zip"] = (toy / "toy.zip").read_bytes()
    here = dataclasses.replace(SOURCES["toy"].archives[0], url=f"{server.at}/toy.zip")
    monkeypatch.setitem(SOURCES, "toy", dataclasses.replace(SOURCES["toy"], ways=(here,)))
    folder = locate("toy")
    assert locate("toy") == folder
    assert server.log == ["toy.zip"]
    assert (folder / "b" / "c.txt").read_text() == "!"
    assert left(cache) == ["toy"]


def test_failure_half_way_leaves_nothing(toy, cache, monkeypatch):
    seen = []

    def fail(z, info, path):
        seen.append(path)
        if len(seen) == 2:
            raise OSError(28, "No space left on device")
        _extract(z, info, path)

    monkeypatch.setattr(download, "_extract", fail)
    with pytest.raises(PromptrecError, match="No space left"):
        locate("toy", toy)
    assert len(seen) == 2 and left(cache) == []


def test_cache_that_cannot_be_written(toy, cache):
    cache.parent.write_text("a file")
    with pytest.raises(PromptrecError, match="Set XDG_CACHE_HOME"):
        locate("toy", toy)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_kill_then_two_at_once(toy, cache, tmp_path, monkeypatch):
    "A killed process leaves no folder under the real name, and does not block the next."
    log = tmp_path / "log"
    seconds = 60

    def slowly(z, info, path):
        _extract(z, info, path)
        with open(log, "a") as f:
            f.write("extracted\n")
        time.sleep(seconds)

    monkeypatch.setattr(download, "_extract", slowly)
    monkeypatch.setenv("PROMPTREC_DATA", str(toy))
    (killed,) = start("toy")
    while killed.is_alive() and not log.exists():
        time.sleep(0.02)
    killed.kill()
    killed.join()
    assert len(left(cache)) == 1
    assert left(cache)[0].startswith(".")
    log.unlink()
    seconds = 0.5
    for p in start("toy", "toy"):
        p.join(60)
        assert p.exitcode == 0
    assert log.read_text() == "extracted\n" * 2  # one of them unpacked two files
    assert left(cache) == ["toy"]
    assert (cache / "toy" / "a.txt").read_text() == "hello"


# ---- single files over the network ----


def test_second_source_fetches_what_is_new(server, cache):
    folder = locate("shop-5core")
    assert folder == cache / "shop-2020"
    assert sources_at_hand() == {"dataset": ["shop-5core"], "model": []}
    assert locate("shop") == folder == locate("shop-5core")
    assert server.log == ["core.json.gz", "meta.json.gz", "ratings.csv"]
    assert sources_at_hand()["dataset"] == ["shop", "shop-5core"]
    for name, raw in server.files.items():
        assert (folder / name).read_bytes() == raw
    assert tree(cache) == [f"shop-2020/{f}" for f in sorted(server.files)]
    assert not [p for p in cache.iterdir() if p.name.startswith(".") and p.is_dir()]


@pytest.mark.parametrize("cut", ["ratings.csv", "meta.json.gz"])
def test_cut_connection_keeps_what_is_whole(server, cache, cut):
    server.sent[cut] = 20
    with pytest.raises(PromptrecError, match=f"{server.at}/{cut}: the connection was cut") as e:
        locate("shop")
    whole = [] if cut == "ratings.csv" else ["shop-2020/ratings.csv"]
    assert tree(cache) == whole and sources_at_hand()["dataset"] == []
    wanted = "meta.json.gz" if whole else "ratings.csv, meta.json.gz"
    assert f"Put {wanted} into {cache / 'shop-2020'} (or" in str(e.value)
    server.sent.clear()
    server.log.clear()
    locate("shop")
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
        locate("shop")
    assert name not in [p.name for p in (cache / "shop-2020").glob("*")]


def test_missing_at_the_address(server, cache):
    del server.files["meta.json.gz"]
    with pytest.raises(PromptrecError, match=r"meta.json.gz: 404 Client Error: Not Found\)"):
        locate("shop")


def test_bytes_as_they_are(server):
    "A server may call .gz an encoding of the content; the file stays packed."
    server.headers = {"Content-Encoding": "x-gzip"}
    assert (locate("shop-5core") / "core.json.gz").read_bytes() == CORE


def test_a_full_disk_leaves_nothing(server, cache, monkeypatch):
    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download.os, "fsync", full)
    with pytest.raises(PromptrecError, match="No space left"):
        locate("shop")
    assert tree(cache) == []


def test_files_without_an_address_are_not_fetched(server, monkeypatch, tmp_path):
    "Another file set counts where it is at hand."
    way = SOURCES["shop"].ways[0]
    reviews = Files("shop-2020", {"reviews.json.gz": "", "meta.json.gz": ""})
    monkeypatch.setitem(SOURCES, "shop", Source("shop", "dataset", (reviews, way), "", ""))
    assert locate("shop").name == "shop-2020"
    assert server.log == ["ratings.csv", "meta.json.gz"]
    own = tmp_path / "shop-2020"
    put(own, reviews.files)
    assert locate("shop", tmp_path) == own


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_kill_then_three_at_once(server, cache):
    "A killed process leaves no file under its name; of several at once, one fetches each file."
    server.wait = 60
    (killed,) = start("shop")
    while killed.is_alive() and not server.log:
        time.sleep(0.02)
    killed.kill()
    killed.join()
    assert not (cache / "shop-2020").exists()
    assert len([p for p in cache.iterdir() if p.is_dir()]) == 1
    server.wait = 0.3
    server.log.clear()
    for p in start("shop", "shop", "shop-5core"):
        p.join(60)
        assert p.exitcode == 0
    assert sorted(server.log) == ["core.json.gz", "meta.json.gz", "ratings.csv"]
    assert tree(cache) == [f"shop-2020/{f}" for f in sorted(server.files)]
    assert [p.name for p in cache.iterdir() if p.is_dir()] == ["shop-2020"]


# ---- one's own folder ----


def test_zip_without_a_folder_inside_and_without_a_known_size(server, cache, tmp_path, monkeypatch):
    "The layout of the Last.fm archive, fetched or one's own; another zip is not taken for it."
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
    assert sources_at_hand(tmp_path)["dataset"] == ["lastfm"]
    assert (locate("lastfm", tmp_path) / "tags.dat").read_text() == "tags.dat"


@pytest.mark.parametrize(
    "source, way",
    [pytest.param(s, w, id=f"{s.name}-{i}") for s in RELEASES for i, w in enumerate(s.ways)],
)
def test_official_names_in_ones_own_folder(tmp_path, cache, offline, source, way):
    "Any of its ways will do: around its folder, as that folder, or in one of the source's name."
    own, mine = tmp_path / "own", tmp_path / "mine"
    put(own / way.folder, way.files)
    assert locate(source.name, own) == own / way.folder
    assert locate(source.name, own / way.folder) == own / way.folder
    assert sources_at_hand(own) == {"dataset": [source.name], "model": []}
    put(mine / source.name, way.files)
    assert locate(source.name, mine) == mine / source.name


def test_shared_catalogue_alone_is_not_the_data(tmp_path, cache, offline):
    shared = tmp_path / "amazon-2014"
    put(shared, ["reviews_Beauty_5.json.gz", "meta_Beauty.json.gz"])
    for own in (tmp_path, shared):
        with pytest.raises(PromptrecError, match="ratings_Beauty.csv: no network") as e:
            locate("beauty", own)
        assert f"Put ratings_Beauty.csv into {shared} (or" in str(e.value)
        assert "data sets: beauty-5core; the models" in str(e.value)


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
    says = r"data sets: (\S+, ){7}\S+ and 72 more .`sources_at_hand` names them.; the models: none."
    with pytest.raises(PromptrecError, match=says) as e:
        locate("llara-steam", tmp_path)
    assert len(str(e.value)) < 1000
    assert sources_at_hand(tmp_path)["dataset"] == [s.name for s in RELEASES[:-1]]


# ---- the list of sources ----


def test_every_source_is_complete():
    for source in SOURCES.values():
        assert source.kind in ("dataset", "model")
        assert source.licence and source.citation and source.fetchable
        for archive in source.archives:
            assert bool(archive.url) != bool(archive.wheel)
            assert "==" in (archive.wheel or "==")
            assert archive.size >= 0 and archive.files


def test_every_address_is_under_its_files_name():
    for source in RELEASES:
        for way in source.ways:
            for name, url in way.files.items():
                if url:
                    assert url.startswith("https://")
                    assert url.endswith("/" + name.rsplit("/", 1)[-1])
    one = {}  # two sources that share a file agree on its address
    for source in RELEASES:
        for way in source.fetchable:
            for name, url in way.files.items():
                assert one.setdefault((way.folder, name), url) == url


def test_table_says_what_is_not_checked():
    table = sources_table()
    assert list(table.index) == list(SOURCES)
    assert set(table.loc[[s.name for s in RELEASES], "checksum"]) == {"no published checksum"}
    assert table.loc["ml-10m", "checksum"] == "MD5"
    assert table.loc["llara-steam", "licence"] == "Apache-2.0"


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
