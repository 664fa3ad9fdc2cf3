"""Users a second of a finished run's recommendations, and the memory that they take.

    python tests/measure_predict.py RUN [--longest 50] [--users 10000 100000]

A table of so many users with 1 to `longest` random items each is answered in a process of its own,
and a JSON line printed. `make test` does not run it: `mibert` on MovieLens 1M takes up to an hour.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from measure_large import Peak


def write_histories(run, users, longest, path):
    "Random items of the run's catalogue, rated at random where it has ratings."
    from promptrec.evaluation.recommender import load_catalogue

    ds, g = load_catalogue(run), np.random.default_rng(0)
    lengths = g.integers(1, longest + 1, users)
    n = int(lengths.sum())
    table = {"user": np.repeat(np.arange(users), lengths)}
    table["item"] = ds.items["item_id"].to_numpy()[g.integers(0, ds.n_items, n)]
    known = ds.all_ratings[np.isfinite(ds.all_ratings)]
    if len(known):
        table["rating"] = g.choice(known, n)
    pd.DataFrame(table).to_parquet(path)
    return n


def measure(run, users, longest):
    "Seconds and memory of `predict`, of one process."
    from promptrec.predict.recommend import predict

    with tempfile.TemporaryDirectory() as folder:
        items = write_histories(run, users, longest, Path(folder) / "histories.parquet")
        peak, started = Peak(), time.perf_counter()
        report = predict(run, Path(folder) / "histories.parquet", Path(folder) / "best.parquet")
    seconds = time.perf_counter() - started
    found = {"run": run.name, "users": users, "items": items, "recommendations": report.rows}
    return found | {
        "seconds": round(seconds, 1),
        "users a second": round(users / seconds),
        "peak of anonymous memory, MB": peak.most,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--longest", type=int, default=50, help="items of a history at most")
    parser.add_argument("--users", type=int, nargs="+", default=[10_000, 100_000])
    given = parser.parse_args()
    if len(given.users) == 1:
        print(json.dumps(measure(given.run, *given.users, given.longest)), flush=True)
    else:
        again = [sys.executable, __file__, str(given.run), "--longest", str(given.longest)]
        for users in given.users:
            subprocess.run([*again, "--users", str(users)], check=True)
