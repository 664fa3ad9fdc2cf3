"""Damaged, hostile and unreadable files, and disks that fill up: each ends in the right result or
in a `PromptrecError` that names the file, and no write leaves half a file.

The formats are listed in `formats.py`. Longer: `fuzz.py` (made-up files), `kills.py` (killed
commands).
"""

import gzip
import json
import lzma
import os
import random
import re
import resource
import shutil
import struct
import subprocess
import tempfile
import zipfile
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from formats import FORMATS, checkpoint, saved_model
from hypothesis import given, settings
from hypothesis import strategies as st

from promptrec.core import PromptrecError
from promptrec.data.custom import read_folder
from promptrec.data.download import unpack
from promptrec.data.parsing import read_objects
from promptrec.data.safe_pickle import read_pickled_frame
from promptrec.evaluation.candidates import draw_candidates, save_candidates
from promptrec.evaluation.split import leave_one_out
from promptrec.predict.histories import HistoryTable
from promptrec.predict.recommend import Pieces
from promptrec.reproduction.figures import save_figure
from promptrec.reproduction.tables import save_table
from promptrec.testing.datasets import walks
from promptrec.testing.records import invented_record
from promptrec.training import loop

SLOW = [name for name in FORMATS if name.startswith(("backbone", "language model"))]


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    "No cache and no data of one's own."
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PROMPTREC_DATA", raising=False)


@pytest.fixture
def folder(tmp_path):
    "An empty folder."
    path = tmp_path / "files"
    path.mkdir()
    return path


def fresh(folder, kept):
    "The files of a folder as they were."
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)


# Damage ----------------------------------------------------------------------------------------


def damaged(raw, flips):
    "The bytes of a file, cut in several places, and with one bit turned in others."
    for size in sorted({0, 1, len(raw) // 3, len(raw) // 2, len(raw) - 1}):
        yield f"its first {size} bytes", raw[:size]
    g = random.Random(len(raw))
    for _ in range(flips):
        place, bit = g.randrange(len(raw)), g.randrange(8)
        other = bytearray(raw)
        other[place] ^= 1 << bit
        yield f"bit {bit} of byte {place} turned", bytes(other)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_is_an_error_that_names_it_or_no_damage(name, folder):
    "Of a file with a checksum, other content is never taken for its own."
    form = FORMATS[name]
    path = form.make(folder)
    raw, kept = path.read_bytes(), folder.with_name("kept")
    shutil.copytree(folder, kept)
    whole = form.read(path)
    for how, other in damaged(raw, 3 if name in SLOW else 12):
        fresh(folder, kept)
        path.write_bytes(other)
        try:
            found = form.read(path)
        except PromptrecError as e:
            # what is left of a table may be too little for the filter of a release
            assert str(folder) in str(e) or "the filter" in str(e), how
            continue
        assert not form.sealed or found == whole, how


def test_most_formats_have_a_checksum_where_we_write_them():
    "Of what runs write and read again, these have none: text that people read and change."
    plain = {"record", "search", "stored answer", "optuna.journal", "saved model.json"}
    ours = list(FORMATS)[list(FORMATS).index("checkpoint") : list(FORMATS).index(SLOW[0])]
    assert {name for name in ours if not FORMATS[name].sealed} == plain


# No permission, a folder in place of a file ------------------------------------------------------


@contextmanager
def without_rights(folder, wanted):
    "A context without root's rights, if `wanted`, in which `folder` belongs to the one who asks."
    if os.geteuid() or not wanted:
        yield
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 65534, 65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shared(monkeypatch):
    "An empty folder that anybody may look into, as those of pytest are not."
    with tempfile.TemporaryDirectory() as outer:
        os.chmod(outer, 0o755)
        path = Path(outer) / "files"
        path.mkdir()
        monkeypatch.setenv("XDG_CACHE_HOME", str(path / "cache"))
        yield path


MAY_BE_MISSING = {"domain.json", "x.item", "optuna.journal", "search"}
ALIKE = ("ml-1m", "ml-20m", "lastfm", "beauty ")  # found and opened as other releases are
FETCHED = ("beauty", "steam")  # file by file, if one is not there: see test_download.py
ALONE = [name for name in FORMATS if name not in SLOW and "piece" not in name]
FAULTS = ("denied", "folder denied", "a folder", "missing")
UNREADABLE = [
    (name, fault)
    for name in ALONE
    for fault in FAULTS
    if not name.startswith(ALIKE)
    and not (name in MAY_BE_MISSING and fault in ("missing", "folder denied"))
    and not (name.startswith(FETCHED) and fault in ("missing", "a folder"))
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name, fault", UNREADABLE)
def test_what_cannot_be_read_is_named(name, fault, shared):
    path = FORMATS[name].make(shared)
    if fault in ("missing", "a folder"):
        path.unlink()
    if fault == "a folder":
        path.mkdir()
    denied = fault.endswith("denied")
    with without_rights(shared, denied), pytest.raises(PromptrecError) as e:
        path.parent.chmod(0 if fault == "folder denied" else 0o755)
        try:
            if fault == "denied":
                path.chmod(0)
            FORMATS[name].read(path)
        finally:
            path.parent.chmod(0o755)
    assert str(shared) in str(e.value)


# Writing ---------------------------------------------------------------------------------------


def write_candidates(folder, seed):
    split = leave_one_out(walks(60, 20, seed=seed))
    save_candidates(draw_candidates(split, "uniform-5")["test"], split, "test", folder)


def write_pieces(folder, seed):
    table = pa.table({"user": [f"u{i * seed}" for i in range(500)], "item": range(500)})
    pieces = Pieces(folder / "best.csv", {"seed": seed})
    for first in (0, 500):
        pieces.write(first, table)
    pieces.join()


def archive_of(seed):
    "A zip archive, which lies where there is room."
    path = Path(os.environ["XDG_CACHE_HOME"]) / f"toy-{seed}.zip"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(path, "w") as z:
            for i in range(5):
                z.writestr(f"toy/{i}.txt", f"{seed}" * 3000)
    return path


def write_unpacked(folder, seed):
    unpack(archive_of(seed), folder / f"toy-{seed}", "toy")


def write_adapters(folder, seed):
    from peft import LoraConfig, get_peft_model

    from promptrec.training.adapters import save_adapters

    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(40, 40), torch.nn.Linear(40, 40))
    lora = LoraConfig(r=4, target_modules=["0", "1"], init_lora_weights=False)
    save_adapters(get_peft_model(net, lora), folder / "adapters")


def write_checkpoint(folder, seed):
    torch.manual_seed(seed)
    model = torch.nn.Linear(40, 30)
    stepper = loop.Stepper(model, [{"params": model.parameters(), "lr": 1.0}], loop.LoopSettings())
    loop.save_state(folder / "checkpoint.pt", loop.LoopState(epoch=seed), stepper, {})


def write_model(folder, seed):
    from promptrec.baselines.counting import Markov

    model = Markov(walks(80, 30, seed=seed))
    model.fit(leave_one_out(model.dataset))
    model.save(folder)


def write_figure(folder, seed):
    fig, ax = plt.subplots(figsize=(2, 2))
    ax.plot([0, seed])
    save_figure(fig, folder, "figure")
    plt.close(fig)


def write_tables(folder, seed):
    save_table(pd.DataFrame({"a": [seed] * 300}), folder, "table-1", "Table 1", "Numbers")


WRITERS = {
    "record and ranks": lambda f, s: invented_record(
        f, {"dataset": "ml-100k", "model": "popularity"}, 0.3 + s / 10, users=40
    ),
    "checkpoint": write_checkpoint,
    "saved model": write_model,
    "adapters": write_adapters,
    "candidates": write_candidates,
    "pieces and prediction": write_pieces,
    "archive, unpacked": write_unpacked,
    "table": write_tables,
    "figure": write_figure,
}


@contextmanager
def file_limit(size):
    "A context in which no file can grow beyond `size` bytes, as if the disk were full then."
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder):
    "The files of a folder, hidden ones too."
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".parts" not in str(path)
    }


def check_after_a_full_disk(error, folder, before, after):
    "Whole files alone, old or new, and an error that names a path and says what to do."
    assert str(folder) in str(error), str(error)
    assert any(word in str(error) for word in ("Free some space", "Cannot unpack")), str(error)
    for name, raw in contents(folder).items():
        assert raw in (before.get(name), after.get(name)), f"{name} is neither old nor new"
    assert before.keys() <= contents(folder).keys()


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_fills_at_any_byte(name, folder):
    write, trial = WRITERS[name], folder.with_name("trial")
    plt.switch_backend("agg")
    trial.mkdir()
    write(trial, 2)
    after = contents(trial)
    write(folder, 1)
    before, kept = contents(folder), folder.with_name("kept")
    shutil.copytree(folder, kept)
    largest = max(len(raw) for raw in after.values())
    failed = 0
    for size in sorted({0, 1, *np.linspace(2, largest - 1, 10).astype(int).tolist()}):
        fresh(folder, kept)
        try:
            with file_limit(size):
                write(folder, 2)
        except PromptrecError as e:
            check_after_a_full_disk(e, folder, before, after)
            failed += 1
    assert failed >= 10
    fresh(folder, kept)
    write(folder, 2)  # the same folder, with room again
    assert not [path for path in folder.rglob(".*") if not path.name.endswith(".parts")]


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_file_system(name, tmp_path):
    "As above, but with no room for anything else either: a small tmpfs."
    if os.geteuid():
        pytest.skip("needs root, to mount a tmpfs")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        folder = disk / "files"
        folder.mkdir()
        archive_of(2)
        WRITERS[name](folder, 1)
        before, failed = contents(folder), 0
        for room in (0, 4096, 8192):
            free = os.statvfs(disk).f_bavail * 4096
            (disk / "filler").write_bytes(bytes(max(free - room, 0)))
            try:
                WRITERS[name](folder, 2)
            except PromptrecError as e:
                assert str(folder) in str(e)
                assert before.keys() <= contents(folder).keys()
                assert not [p for p in folder.rglob(".*") if not p.name.endswith(".parts")]
                failed += 1
            (disk / "filler").unlink()
        assert failed
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("fault", ["denied", "a file", "folders"])
@pytest.mark.parametrize("name", WRITERS)
def test_where_nothing_can_be_written(name, fault, shared):
    "A folder without the right to write, a file in place of the folder, folders in place of files."
    write, folder = WRITERS[name], shared / "in"
    if fault == "folders":
        trial = shared / "trial"
        trial.mkdir()
        write(trial, 2)
        if name == "candidates":
            pytest.skip("a name that is taken is left alone: it holds the hash of the content")
        for path in [path for path in trial.rglob("*") if path.is_file()]:
            (folder / path.relative_to(trial) / "x").mkdir(parents=True)
    elif fault == "a file":
        folder.touch()
    else:
        folder.mkdir()
    archive_of(2)
    with without_rights(shared, fault == "denied"), pytest.raises(PromptrecError) as e:
        if fault == "denied":
            folder.chmod(0o555)
        write(folder, 2)
    assert str(shared) in str(e.value)
    assert not list(shared.rglob("*.tmp"))


# Hostile files ---------------------------------------------------------------------------------


def many_times(pack, raw, times):
    "Packed bytes that unpack to `raw` so many times over."
    return pack(raw) * times


BOMB = b'{"asin": "B1"}\n' * 70_000  # a megabyte, of which gzip makes a few thousand bytes


@pytest.mark.parametrize("name", ["own interactions.csv.gz", "beauty meta_Beauty.json.gz"])
def test_a_bomb_of_gzip_is_refused(name, folder):
    path = FORMATS[name].make(folder)
    path.write_bytes(many_times(gzip.compress, BOMB, 2000))
    with pytest.raises(PromptrecError, match=f"{path.name}: refused, it would unpack to more than"):
        FORMATS[name].read(path)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_a_pickled_bomb_is_refused(pack, folder):
    (folder / "t.pkl").write_bytes(many_times(pack, BOMB, 2000))
    with pytest.raises(PromptrecError, match="t.pkl: refused, it would unpack to more than"):
        read_pickled_frame(folder / "t.pkl")


def zip_of(path, members, harm=bytes):
    "A zip archive of (name, text) pairs, whose bytes are then harmed."
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, text in members:
            z.writestr(name, text)
    path.write_bytes(harm(path.read_bytes()))


def central(raw, place, new):
    "The bytes of a zip with those at a place in the first entry of its directory changed."
    at = raw.index(b"PK\1\2") + place
    return raw[:at] + new + raw[at + len(new) :]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "members, harm",
    [
        ([("toy/a", bytes(50_000_000))], bytes),  # a bomb
        ([(f"toy/{i}", bytes(100_000)) for i in range(500)], bytes),  # many small ones
        ([("toy/a", "1"), ("toy/a", "2")], bytes),  # one name twice
        ([("toy/a", "1"), ("toy/a/b", "2")], bytes),  # a file that is a folder as well
        ([("toy/a", "x" * 999)], lambda raw: central(raw, 24, b"\1\0\0\0")),  # a lying size
        ([("toy/a", "x" * 999)], lambda raw: central(raw, 24, b"\xff" * 4)),
        ([("toy/a", "x" * 999)], lambda raw: central(raw, 8, b"\1\0")),  # encrypted
        ([("toy/a", "x" * 999)], lambda raw: central(raw, 10, b"\x63\0")),  # an unknown method
        ([("toy/a", "x" * 999)], lambda raw: central(raw, 42, b"\xff\xff\xff\x7f")),  # an offset
        ([("toy/ä", "x")], lambda raw: raw.replace("ä".encode(), b"\xff\xfe")),  # no UTF-8
        ([("toy/" + "a" * 300, "x")], bytes),  # a name that no file can have
    ],
)
def test_hostile_archives(folder, members, harm):
    zip_of(folder / "t.zip", members, harm)
    with pytest.raises(PromptrecError, match=r"t\.zip"):
        unpack(folder / "t.zip", folder / "toy", "toy")
    assert os.listdir(folder) == ["t.zip"]


class Evil:
    "Runs a command where it is unpickled."

    def __reduce__(self):
        return os.system, ("touch ran",)


def test_a_checkpoint_runs_no_code(folder, monkeypatch):
    monkeypatch.chdir(folder)
    torch.save({"state": Evil(), "fingerprint": {}}, "checkpoint.pt")
    with pytest.raises(PromptrecError, match="no readable checkpoint"):
        checkpoint().read(Path("checkpoint.pt"))
    assert os.listdir() == ["checkpoint.pt"]


def test_nothing_reads_pickles_but_the_reader_that_is_restricted(root):
    "NumPy's arrays of objects and torch's files are pickles."
    for path in (root / "promptrec").rglob("*.py"):
        text = path.read_text()
        read = text.count("np.load(") + text.count("numpy.load(")
        assert text.count("allow_pickle") == read == text.count("allow_pickle=False"), path
        assert text.count("torch.load(") == text.count("weights_only=True"), path
        if path.name != "safe_pickle.py":
            assert not [w for w in ("pickle.load", "read_pickle(", "joblib") if w in text], path


def lying(header):
    "A safetensors file with such a header and no data."
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw


@pytest.mark.parametrize(
    "raw",
    [
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 99_000_000) + b"{" * 1000,
        lying(b"[" * 200_000),
        lying({"counts": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}),
        lying({"counts": {"dtype": "F99", "shape": [0], "data_offsets": [0, 0]}}),
    ],
)
@pytest.mark.parametrize("older", [False, True])
def test_lying_headers_of_weights(folder, raw, older):
    "Also of a model that was saved before its files had hashes."
    form = saved_model("model.safetensors")
    path = form.make(folder)
    if older:
        path.with_name("model.json").write_text("{}")
    path.write_bytes(raw)
    with pytest.raises(PromptrecError, match=re.escape(str(folder))):
        form.read(path)


DEEP = {
    "record": '{"a":',
    "search": '{"a":',
    "domain.json": '{"prefix":',
    "stored answer": '{"answer":',
    "saved model.json": '{"sha256":',
    "beauty-5core reviews_Beauty_5.json.gz": '{"asin":',
}


@pytest.mark.parametrize("name", DEEP)
def test_json_that_is_nested_deeply(name, folder):
    path = FORMATS[name].make(folder)
    text = DEEP[name] + "[" * 100_000 + "]" * 100_000 + "}"
    raw = text.encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    with pytest.raises(PromptrecError, match=re.escape(path.name)):
        FORMATS[name].read(path)


def test_fields_that_are_not_read_may_be_nested_deeply(folder):
    (folder / "a.json").write_text('{"user": "u", "x": ' + "[" * 100_000 + "]" * 100_000 + "}\n")
    assert read_objects(folder / "a.json", {"user": pa.string()})["user"].to_pylist() == ["u"]


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_line_of_20_megabytes(folder, quote):
    "One cell without an end, or in quotes without an end."
    FORMATS["own interactions.csv"].make(folder)
    with open(folder / "interactions.csv", "a") as file:
        file.write("u1," + quote + "x" * 20_000_000)
    for read in (lambda: read_folder(folder), lambda: HistoryTable(folder / "interactions.csv")):
        with pytest.raises(PromptrecError, match="interactions.csv") as e:
            read()
        assert len(str(e.value)) < 1000


@pytest.mark.parametrize("name", ["own interactions.csv", "histories.csv"])
@pytest.mark.parametrize("end", ["\r", "\r\n"])
def test_ends_of_lines(name, end, folder):
    "Of old Macs, of Windows, and of both in one file."
    path = FORMATS[name].make(folder)
    whole, lines = FORMATS[name].read(path), path.read_text().splitlines()
    path.write_bytes("".join(line + end for line in lines).encode())
    assert FORMATS[name].read(path) == whole
    mixed = [line + (end if i % 2 else "\n") for i, line in enumerate(lines)]
    path.write_bytes("".join(mixed).encode())
    assert FORMATS[name].read(path) == whole


@pytest.mark.parametrize("odd", [b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\x1a", b"\xc3"])
@pytest.mark.parametrize(
    "name", ["own interactions.csv", "histories.csv", "x.inter", "ml-100k u.data"]
)
def test_bytes_that_are_no_text(name, odd, folder):
    "An error with the file's name, or an id that holds them."
    path = FORMATS[name].make(folder)
    raw = path.read_bytes()
    end = raw.index(b"\n", len(raw) // 2) + 1
    path.write_bytes(raw[: end + 1] + odd + raw[end + 1 :])
    try:
        FORMATS[name].read(path)
    except PromptrecError as e:
        assert path.name in str(e)


def gguf(counts, *pairs):
    "A gguf file with these counts of tensors and of metadata, and what follows."
    return b"GGUF" + struct.pack("<IQQ", 3, *counts) + b"".join(pairs)


TEXT = struct.pack("<Q", 9) + b"general.x"


@pytest.mark.parametrize(
    "raw",
    [
        gguf((0, 1 << 60)),
        gguf((1 << 60, 0)),
        gguf((0, 1), TEXT, struct.pack("<IIQ", 9, 0, 1 << 60), bytes(64)),  # a list
        gguf((0, 1), TEXT, struct.pack("<IQ", 8, 1 << 62), b"abc"),  # a text
        gguf((0, 1), TEXT, struct.pack("<IIQ", 9, 9, 1) * 5000),  # lists of lists
    ],
)
def test_gguf_with_absurd_counts(raw, folder):
    from promptrec.sbtrec.language_model import from_gguf

    (folder / "x.gguf").write_bytes(raw)
    with pytest.raises(PromptrecError, match="x.gguf is no whole gguf file"):
        from_gguf(folder / "x.gguf", folder / "out")


# Made-up files ---------------------------------------------------------------------------------

BYTES = st.binary(max_size=60)


@st.composite
def changed(draw, raw):
    "The bytes of a file with some taken out, and others put in."
    start, end = sorted(draw(st.tuples(*[st.integers(0, len(raw))] * 2)))
    if draw(st.booleans()):
        end = min(end, start + 8)
    repeat = draw(st.sampled_from([1, 1, 1, 1000]))
    return raw[:start] + draw(BYTES) * repeat + raw[end:]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ALONE)
def test_made_up_files(name, tmp_path):
    "Nothing but `PromptrecError` escapes a reader, whatever the bytes."
    form = FORMATS[name]
    (tmp_path / "files").mkdir()
    path = form.make(tmp_path / "files")
    raw = path.read_bytes()

    @settings(max_examples=8, deadline=None, derandomize=True, database=None)
    @given(st.one_of(BYTES, changed(raw), changed(raw)))
    def check(content):
        path.write_bytes(content)
        try:
            form.read(path)
        except PromptrecError:
            pass

    check()
