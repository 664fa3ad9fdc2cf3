"""Kill commands at random moments, give them again until they end, and compare what they leave.

    python tests/kills.py 100 --seed 0
    python tests/kills.py 5 --scenarios training,unpacking

Each scenario is a command that can be given again. What it leaves after kills is compared, byte by
byte, with what it leaves undisturbed: a difference is a wrong result, a missing file a lost one, a
temporary file that stays is a fault as well. Commands run in forks of this process, which has
imported what they need; those that a grid starts are processes of their own, as usual.
"""

import argparse
import hashlib
import http.server
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # more threads of torch would not survive a fork
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pandas as pd
import psutil

from promptrec.data.download import SOURCES, Archive, Files, Source, locate
from promptrec.experiments import run as runs
from promptrec.experiments.engine import run_all
from promptrec.experiments.grid import missing
from promptrec.experiments.search import search
from promptrec.predict import histories, recommend

MOST_SECONDS = 300  # of a command that is not killed


@dataclass(frozen=True)
class Scenario:
    "A command, and what it is to leave."

    command: Callable[[Path, Path], None]  # works in a folder, with what `prepare` put into another
    results: Callable[[Path], dict[str, Any]]  # by name, comparable


# What commands work on -------------------------------------------------------------------------


def write_books(folder: Path) -> Path:
    "A made-up data set: 40 readers of 30 books."
    g = np.random.default_rng(0)
    folder.mkdir()
    rows = []
    for user in range(40):
        books = g.permutation(30)[: g.integers(6, 12)]
        rows += [(f"reader {user}", f"b{book}", time) for time, book in enumerate(books)]
    table = pd.DataFrame(rows, columns=["user", "item", "timestamp"])
    table.to_csv(folder / "interactions.csv", index=False)
    items = {"item": [f"b{i}" for i in range(30)], "title": [f"Book {i}" for i in range(30)]}
    pd.DataFrame(items).to_csv(folder / "items.csv", index=False)
    return folder


def write_archive(path: Path) -> Archive:
    "A zip archive of 40 files, and what is known of it."
    with zipfile.ZipFile(path, "w") as z:
        for i in range(40):
            z.writestr(f"toy/{i}.txt", np.random.default_rng(i).bytes(50_000))
    raw = path.read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    names = tuple(f"{i}.txt" for i in range(40))
    return Archive(names, digest, len(raw), "toy", f"http://127.0.0.1/{path.name}")


class Slow(http.server.SimpleHTTPRequestHandler):
    "Sends files slowly, so that kills come in the middle of them."

    def copyfile(self, source: Any, outputfile: Any) -> None:
        while block := source.read(100_000):
            outputfile.write(block)
            time.sleep(0.01)

    def log_message(self, *args: Any) -> None:
        pass


class Quiet(http.server.ThreadingHTTPServer):
    "Says nothing of connections that a killed command left."

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


def serve(folder: Path) -> tuple[int, int]:
    "A server of a folder in a process of its own: its process number and its port."
    os.chdir(folder)
    server = Quiet(("127.0.0.1", 0), Slow)
    pid = os.fork()
    if not pid:
        server.serve_forever()
    server.server_close()
    return pid, server.server_port


def prepare(base: Path) -> int:
    "Fill the folder that scenarios read from; returns the process number of the server in it."
    write_books(base / "books")
    (base / "served").mkdir()
    archive = write_archive(base / "served" / "toy.zip")
    names = [f"part-{i}.csv" for i in range(6)]
    for i, name in enumerate(names):
        (base / "served" / name).write_bytes(b"u,i,%d\n" % i * 40_000)
    pid, port = serve(base / "served")
    at = f"http://127.0.0.1:{port}"
    served = Archive(archive.files, archive.checksum, archive.size, "toy", f"{at}/toy.zip")
    SOURCES["toy"] = Source("toy", "dataset", (served,), "none", "none")
    parts = Files("parts", {name: f"{at}/{name}" for name in names})
    SOURCES["parts"] = Source("parts", "dataset", (parts,), "none", "none")
    train(base, base, model="markov")
    histories.USERS = 8  # users of a piece of a prediction
    return pid


# Scenarios -------------------------------------------------------------------------------------


def words(**given: Any) -> list[str]:
    "Parameters as on the command line."
    return [f"{name}={value}" for name, value in given.items()]


def tiny(base: Path, **given: Any) -> dict[str, Any]:
    "Parameters of a small run on the books."
    return {"dataset": base / "books", "preset": "tiny", "candidates": "uniform-5"} | given


def train(folder: Path, base: Path, **given: Any) -> None:
    "One run, as `python -m promptrec.experiments` makes it."
    runs.main(words(**tiny(base, **given), out_dir=folder / "runs", resume="true"))


def fill_grid(folder: Path, base: Path) -> None:
    "A grid of two runs, as `run_all` makes it."
    models = [{"model": "sasrec", "epochs": 4}, {"model": "itemknn"}]
    grid = [{k: str(v) for k, v in tiny(base).items()} | given for given in models]
    todo = missing(grid, folder / "records")
    done = run_all(todo, folder / "records", folder / "runs")
    if len(done) and (done["failed"] != "").any():
        sys.exit(str(done["failed"].tolist()))


def tune(folder: Path, base: Path, sampler: str) -> None:
    "A search, as `tune` makes it."
    search(
        str(base / "books"),
        "gru4rec",
        n=4,
        preset="tiny",
        records=folder / "records",
        out_dir=folder / "runs",
        candidates="uniform-5",
        sampler=sampler,
    )


def predict(folder: Path, base: Path, out: str) -> None:
    "A prediction, as `python -m promptrec recommend` makes it."
    [run] = (base / "runs").glob("*-markov-*.json")
    given = {"run": run, "histories": base / "books" / "interactions.csv", "out": folder / out}
    recommend.main(words(**given, k=5))


def fetch(folder: Path, base: Path, name: str, from_archive: bool = False) -> None:
    "Find a source, in the folder that has its archive or over the network."
    os.environ["XDG_CACHE_HOME"] = str(folder)
    locate(name, base / "served" if from_archive else None)


def records_in(folder: Path) -> dict[str, Any]:
    "What records say but for what each run measures anew, and the bytes beside them."
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name.startswith("search-") and path.suffix == ".json":
            trials = json.loads(path.read_text())["trials"]
            found[name] = [{k: v for k, v in t.items() if k != "seconds"} for t in trials]
        elif "-seed" in path.name and path.suffix == ".json":
            record = json.loads(path.read_text())
            kept = ("config", "data_hash", "split_hash", "candidates", "metrics", "ranks_hash")
            found[name] = {k: record.get(k) for k in kept}
            unlike = {"seconds", "peak MiB"}
            found[name]["curves"] = [
                {k: v for k, v in row.items() if k not in unlike} for row in record["curves"]
            ]
        elif path.suffix in (".parquet", ".safetensors", ".csv"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def fetched(folder: Path) -> dict[str, Any]:
    "The files that were fetched."
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


SCENARIOS = {
    "training": Scenario(lambda f, b: train(f, b, model="sasrec", epochs=12), records_in),
    "counting": Scenario(lambda f, b: train(f, b, model="itemknn"), records_in),
    "grid": Scenario(fill_grid, records_in),
    "tuning": Scenario(lambda f, b: tune(f, b, "design"), records_in),
    "tuning-tpe": Scenario(lambda f, b: tune(f, b, "tpe"), records_in),
    "prediction": Scenario(lambda f, b: predict(f, b, "best.csv"), records_in),
    "prediction-parquet": Scenario(lambda f, b: predict(f, b, "best.parquet"), records_in),
    "fetching-archive": Scenario(lambda f, b: fetch(f, b, "toy"), fetched),
    "fetching-files": Scenario(lambda f, b: fetch(f, b, "parts"), fetched),
    "unpacking": Scenario(lambda f, b: fetch(f, b, "toy", True), fetched),
}


# Kills -----------------------------------------------------------------------------------------


def start(scenario: Scenario, folder: Path, base: Path) -> int:
    "Begin a command in a process, and process group, of its own; returns its number."
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 1
    try:
        scenario.command(folder, base)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def ended(pid: int, seconds: float) -> int | None:
    "How a process ended within some seconds; None if it did not."
    until = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.002)


def kill(pid: int, g: random.Random) -> str:
    "Kill a command: with all that it started, alone, or only what it started."
    children = psutil.Process(pid).children(recursive=True)
    how = g.choice(["all", "alone", "child"] if children else ["all"])
    if how == "child":
        try:
            g.choice(children).kill()
        except psutil.NoSuchProcess:
            pass
        return how
    send = os.killpg if how == "all" else os.kill
    send(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return how


def to_its_end(scenario: Scenario, folder: Path, base: Path, tries: int = 5) -> float:
    "Give a command until it ends well; returns the seconds that the last try took."
    for _ in range(tries):
        began = time.monotonic()
        pid = start(scenario, folder, base)
        code = ended(pid, MOST_SECONDS)
        if code is None:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if code == 0:
            return time.monotonic() - began
    said = folder.with_suffix(".log").read_text()[-2000:]
    raise RuntimeError(f"the command does not end well: {said}")


def gone(groups: list[int]) -> None:
    "Wait for what was started by commands that were killed alone."
    until = time.monotonic() + MOST_SECONDS
    for process in psutil.process_iter():
        try:
            while os.getpgid(process.pid) in groups and time.monotonic() < until:
                if process.status() == psutil.STATUS_ZOMBIE:
                    break
                time.sleep(0.05)
        except (psutil.NoSuchProcess, ProcessLookupError):
            pass


def left_over(folder: Path) -> list[str]:
    "Temporary files, hidden folders and checkpoints, of which none should stay."
    found = []
    for path in folder.rglob("*"):
        hidden = path.name.startswith(".") and path.suffix != ".lock"
        if hidden or path.suffix == ".tmp" or path.name == "checkpoint.pt":
            found.append(str(path.relative_to(folder)))
    return found


@dataclass
class Count:
    "What became of a scenario."

    kills: int = 0
    rounds: int = 0
    wrong: int = 0  # results that differ
    lost: int = 0  # results that are missing, or commands that did not end well
    left: int = 0  # rounds with temporary files
    seconds: float = 0.0


def one_round(
    scenario: Scenario,
    folder: Path,
    base: Path,
    expected: dict,
    usual: float,
    n: int,
    g: random.Random,
) -> tuple[int, list[str], list[str], list[str]]:
    "Kill a command up to `n` times, then let it end: kills, what is wrong, lost, left over."
    folder.mkdir()
    kills, groups = 0, []
    for _ in range(n):
        pid = start(scenario, folder, base)
        code = ended(pid, g.uniform(0, usual))
        if code is not None:
            continue  # it was faster
        how = kill(pid, g)
        kills += 1
        groups.append(pid)
        if how == "child" and ended(pid, MOST_SECONDS) is None:
            raise RuntimeError("a command waits for a process that was killed")
    try:
        to_its_end(scenario, folder, base)
    except RuntimeError as e:
        return kills, [], [str(e)], []
    gone(groups)
    found = scenario.results(folder)
    lost = sorted(expected.keys() - found.keys())
    wrong = [k for k in found if found[k] != expected.get(k)]
    return kills, wrong, lost, left_over(folder)


def kill_scenario(name: str, kills: int, base: Path, g: random.Random) -> Count:
    "Kill the command of a scenario so many times."
    scenario, count, began = SCENARIOS[name], Count(), time.monotonic()
    whole = base / "whole"
    whole.mkdir()
    usual = to_its_end(scenario, whole, base)
    expected = scenario.results(whole)
    while count.kills < kills:
        folder = base / "round"
        n = min(g.randint(1, 4), kills - count.kills)
        done, wrong, lost, left = one_round(scenario, folder, base, expected, usual, n, g)
        count.kills += done
        count.rounds += 1
        count.wrong += len(wrong)
        count.lost += len(lost)
        count.left += bool(left)
        if wrong or lost or left:
            print(f"{name}: wrong {wrong}, lost {lost}, left over {left}", flush=True)
        shutil.rmtree(folder)
        folder.with_suffix(".log").unlink()
    shutil.rmtree(whole)
    whole.with_suffix(".log").unlink()
    count.seconds = time.monotonic() - began
    return count


def report(counts: dict[str, Count]) -> pd.DataFrame:
    "A row a scenario, and their sums."
    table = pd.DataFrame({name: vars(count) for name, count in counts.items()}).T
    table.loc["all"] = table.sum()
    return table.astype({"seconds": int}).astype(int)


def main() -> int:
    "Kill, and print what became of it; returns 1 if a result was wrong or lost, or files stayed."
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kills", type=int, help="how many, over all scenarios")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenarios", default=",".join(SCENARIOS), help="names with commas")
    given = parser.parse_args()
    names = given.scenarios.split(",")
    shares = [len(part) for part in np.array_split(range(given.kills), len(names))]
    counts = {}
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder).resolve()
        server = prepare(base)
        try:
            for i, (name, share) in enumerate(zip(names, shares)):
                g = random.Random(given.seed * 1000 + i)
                counts[name] = kill_scenario(name, share, base, g)
                print(f"{name}: {counts[name]}", flush=True)
        finally:
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)
    print(report(counts).to_string())
    return int(any(c.wrong or c.lost or c.left for c in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
