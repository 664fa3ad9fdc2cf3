"""Time and memory of interactions on their way to a data set, a split and candidates on disk.

    python tests/measure_large.py make 100_000_000 FOLDER     generated interactions, as CSV
    python tests/measure_large.py convert FOLDER              with 2 GiB of memory (cgroup v1, root)
    python tests/measure_large.py compare FOLDER              row for row with the data in memory
    python tests/measure_large.py read FOLDER pandas|polars   how long others read the same file

`make test` does not run it: it takes up to an hour and 15 GB of disk. Each prints one JSON line.
"""

import json
import os
import platform
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv as pacsv

PLAIN = pacsv.WriteOptions(quoting_style="none")
USERS, ITEMS, BLOCK = 2_000_000, 1_000_000, 2_000_000
LIMIT = 2 << 30  # bytes
GROUP = Path("/sys/fs/cgroup/memory/promptrec-large")


def names(letter, n, digits):
    "Raw ids whose order has nothing to do with their number."
    numbers = np.arange(n, dtype=np.uint64) * np.uint64(2654435761) % np.uint64(16**digits)
    return pa.array([f"{letter}{number:0{digits}X}" for number in numbers.tolist()])


def make(n, folder):
    "Interactions of users of lognormal activity with items of Zipf's popularity, ties among them."
    folder.mkdir(parents=True)
    users = min(USERS, n // 50)
    items = min(ITEMS, n // 50)
    user_ids, item_ids = names("A", users, 12), names("B", items, 9)
    generator = np.random.default_rng(0)
    active = np.cumsum(generator.lognormal(0, 1, users))
    popular = np.cumsum(1 / np.arange(10, items + 10))
    schema = pa.schema(
        {"user": pa.string(), "item": pa.string(), "rating": pa.float32(), "timestamp": pa.int64()}
    )
    with pacsv.CSVWriter(folder / "interactions.csv", schema, write_options=PLAIN) as out:
        for first in range(0, n, BLOCK):
            m = min(BLOCK, n - first)
            user = np.searchsorted(active, generator.random(m) * active[-1])
            item = np.searchsorted(popular, generator.random(m) * popular[-1])
            when = 1_300_000_000 + 60 * generator.integers(0, 5_000_000, m)
            rating = generator.integers(1, 11, m).astype(np.float32) / 2
            columns = [user_ids.take(pa.array(user)), item_ids.take(pa.array(item)), rating, when]
            out.write_table(pa.table(columns, schema=schema))
    titles = pa.array([f"Title {i}" for i in range(items)])
    with pacsv.CSVWriter(
        folder / "items.csv", pa.schema({"item": pa.string(), "title": pa.string()})
    ) as out:
        out.write_table(pa.table({"item": item_ids, "title": titles}))
    return {"bytes": (folder / "interactions.csv").stat().st_size}


class Peak:
    "The most anonymous memory of this process, in MB, while it runs."

    def __init__(self):
        self.most, self.over = 0, False
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self):
        while not self.over:
            for line in open("/proc/self/status"):
                if line.startswith("RssAnon"):
                    self.most = max(self.most, int(line.split()[1]) // 1024)
            time.sleep(0.05)


def limited():
    "Put this process into a memory cgroup of its own; returns it."
    GROUP.mkdir(exist_ok=True)
    (GROUP / "memory.limit_in_bytes").write_text(str(LIMIT))
    (GROUP / "memory.max_usage_in_bytes").write_text("0")
    (GROUP / "cgroup.procs").write_text(str(os.getpid()))
    return GROUP


def convert(folder):
    "The data set (unfiltered, then filtered), its split and candidates, in a limit of 2 GiB."
    group, peak, took, start = limited(), Peak(), {}, time.time()

    def lap(what):
        nonlocal start
        took[what], start = round(time.time() - start, 1), time.time()
        print(what, took[what], peak.most, flush=True, file=sys.stderr)

    os.environ["PROMPTREC_LARGE"] = "0"
    from promptrec.data.download import cache_dir
    from promptrec.data.filters import keep_users
    from promptrec.data.large import open_folder
    from promptrec.evaluation.candidates import draw_candidates
    from promptrec.evaluation.split import leave_one_out, save_split

    lap("import")
    ds = open_folder(folder)
    lap("to a data set on disk")
    ds = open_folder(folder)
    lap("opened again, every byte checked")
    kept = keep_users(ds)
    lap("users with five interactions")
    split = leave_one_out(kept)
    hashed = split.hash
    save_split(split, cache_dir() / "large" / f"{kept.name}.split.npz")
    lap("split, and its hash")
    candidates = draw_candidates(split, "popularity-100")
    lap("candidates of both parts")
    hashes = {part: c.hash for part, c in candidates.items()}
    lap("their hashes")
    peak.over = True
    facts = {
        "interactions": len(ds),
        "users": ds.n_users,
        "items": ds.n_items,
        "targets": sum(map(len, candidates.values())),
        "seconds": took,
        "peak of anonymous memory, MB": peak.most,
        "peak of the cgroup, MB": int((group / "memory.max_usage_in_bytes").read_text()) >> 20,
        "failures of the limit": int((group / "memory.failcnt").read_text()),
        "hashes": [ds.hash, hashed, hashes],
    }
    Path("/sys/fs/cgroup/memory/cgroup.procs").write_text(str(os.getpid()))
    group.rmdir()
    return facts


def compare(folder):
    "Whether the data set on disk, its split and candidates are those of the readers in memory."
    os.environ["PROMPTREC_LARGE"] = "0"
    import pandas as pd

    from promptrec.data.custom import read_folder
    from promptrec.data.filters import keep_users
    from promptrec.data.large import open_folder
    from promptrec.evaluation.candidates import draw_candidates
    from promptrec.evaluation.split import leave_one_out

    one, peak, start = open_folder(folder), Peak(), time.time()
    two = read_folder(folder)
    took, peak.over = round(time.time() - start, 1), True
    for name in ("user", "item", "rating", "timestamp"):
        assert np.array_equal(getattr(one, name), getattr(two, name), equal_nan=True), name
    assert np.array_equal(np.asarray(one.users), two.users)
    pd.testing.assert_frame_equal(one.items, two.items)
    assert (one.notes, one.steps, one.listed) == (two.notes, two.steps, two.listed)
    assert one.hash == two.hash
    splits = [leave_one_out(keep_users(ds)) for ds in (one, two)]
    assert splits[0].hash == splits[1].hash
    drawn = [draw_candidates(split, "popularity-100") for split in splits]
    for part in drawn[0]:
        assert np.array_equal(drawn[0][part].items, drawn[1][part].items), part
    return {
        "equal rows": len(two),
        "seconds in memory": took,
        "peak in memory, MB": peak.most,
        "notes": two.notes,
    }


def read(folder, library):
    "How long another library takes to have the file in memory, and how much."
    path, peak, start = folder / "interactions.csv", Peak(), time.time()
    if library == "pandas":
        import pandas as pd

        rows = len(pd.read_csv(path))
    else:
        import polars as pl

        rows = len(pl.scan_csv(path).collect())
    peak.over = True
    return {library: round(time.time() - start, 1), "rows": rows, "peak, MB": peak.most}


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "make":
        found = make(int(rest[0]), Path(rest[1]))
    else:
        found = {"convert": convert, "compare": compare, "read": read}[what](
            Path(rest[0]), *rest[1:]
        )
    cores = f"{os.cpu_count()} cores, {platform.system()}"
    print(json.dumps({"what": what, "machine": cores, **found}))
