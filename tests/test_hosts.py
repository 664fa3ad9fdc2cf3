"""Two hosts on this machine: network namespaces, joined by a cable that can be pulled."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

from promptrec.experiments.parameters import configure
from promptrec.experiments.records import read_record
from promptrec.experiments.run import execute, prepare

SECONDS = 12  # of PROMPTREC_TIMEOUT; processes need some to start on a busy machine
# what processes draw for themselves, such as dropout, is left out
TINY = dict(preset="tiny", candidates="uniform-5", batch_size=13, precision="no", dropout=0.0)
SASREC = TINY | dict(model="sasrec", epochs=15, patience=15)
MIBERT = TINY | dict(
    model="mibert",
    reading="statements",
    layers=2,
    local_layers=1,
    input_dropout=0.0,
    beta=0.0,
    epochs=2,
)


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


# What waits on a host, with all that takes long to import: each line it reads is a run that it
# makes in a process of its own, as a scheduler starts one without `torchrun`.
STARTER = """
import json
import os
import sys

from promptrec.experiments.run import main

for line in sys.stdin:
    environment, words, log = json.loads(line)
    pid = os.fork()
    if pid:
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        continue
    os.environ |= environment
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    code = 1
    try:
        main(words)
        code = 0
    except SystemExit as e:
        print(e, file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
"""


class Forked:
    "A run that the starter of a host makes."

    def __init__(self, starter, *run):
        self.starter, self.code = starter, None
        starter.stdin.write(json.dumps(run) + "\n")
        starter.stdin.flush()
        self.pid = int(starter.stdout.readline())

    def poll(self):
        ready = self.code is None and select.select([self.starter.stdout], [], [], 0)[0]
        return self.wait() if ready else self.code

    def wait(self, timeout=None):
        if self.code is None:
            assert select.select([self.starter.stdout], [], [], timeout)[0], "it does not end"
            self.code = int(self.starter.stdout.readline())
        return self.code

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)


class Hosts:
    "host-0 at 10.77.0.1 and host-1 at 10.77.0.2, whose runs write into folders of their own."

    def __init__(self, folder):
        self.folder, self.port, self.starters = folder, 29500, []
        self.names = [f"promptrec-{os.getpid()}-{i}" for i in (0, 1)]
        self.environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
        self.environment |= {"GLOO_SOCKET_IFNAME": "eth0", "PROMPTREC_TIMEOUT": str(SECONDS)}

    def join(self):
        for name in self.names:
            ip("netns", "add", name)
        one, other = self.names
        ip("link", "add", "eth0", "netns", one, "type", "veth", "peer", "eth0", "netns", other)
        for i, name in enumerate(self.names, 1):
            ip("-n", name, "addr", "add", f"10.77.0.{i}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "eth0", "up")
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.starters = [self.python(i, "-c", STARTER, **pipes) for i in (0, 1)]

    def part(self):
        for name in self.names:
            left = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
            for pid in left.stdout.split():  # none but those started here can be in there
                os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        for starter in self.starters:
            starter.communicate()

    def cable(self, state):
        ip("-n", self.names[0], "link", "set", "eth0", state)

    def python(self, i, *words, **more):
        "Start Python on a host."
        inside = ["ip", "netns", "exec", self.names[i], "unshare", "--uts", "sh", "-c"]
        inside += [f'hostname host-{i} && exec "$@"', "sh", sys.executable]
        return subprocess.Popen([*inside, *words], env=self.environment, **more)

    def start(self, run, torchrun=False, **parameters):
        "Begin a run on both hosts."
        self.port += 1  # the one before may not be free yet
        processes = []
        for i in (0, 1):
            words = [f"{k}={v}" for k, v in parameters.items()]
            words.append(f"out_dir={self.folder}/host-{i}/{run}")
            if torchrun:
                command = f"-m torch.distributed.run --nnodes 2 --nproc-per-node 1 --node-rank {i}"
                command += f" --master-addr 10.77.0.1 --master-port {self.port}"
                command += " -m promptrec.experiments"
                with open(self.log(run, i), "a") as log:
                    place = dict(stdout=log, stderr=log)
                    processes.append(self.python(i, *command.split(), *words, **place))
            else:
                place = dict(MASTER_ADDR="10.77.0.1", MASTER_PORT=str(self.port), RANK=str(i))
                place |= dict(WORLD_SIZE="2", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1")
                processes.append(Forked(self.starters[i], place, words, str(self.log(run, i))))
        return processes

    def log(self, run, i):
        return self.folder / f"{run}-{i}.log"

    def said(self, run):
        return [self.log(run, i).read_text() for i in (0, 1)]

    def finish(self, run, processes):
        "The record that a run leaves on the first host; the second has none."
        codes = [process.wait(120) for process in processes]
        assert codes == [0, 0], self.said(run)
        [path] = (self.folder / "host-0" / run).glob("*.json")
        assert not list((self.folder / "host-1" / run).glob("*.json"))
        return read_record(path)

    def checkpoints(self, run):
        return [list((self.folder / f"host-{i}" / run).rglob("checkpoint.pt")) for i in (0, 1)]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    if not shutil.which("ip"):
        pytest.skip("`ip` is missing: apt-get install iproute2")
    if os.geteuid():
        pytest.skip("only root may make network namespaces")
    made = Hosts(tmp_path_factory.mktemp("hosts"))
    try:
        made.join()
        yield made
    except subprocess.CalledProcessError as e:
        pytest.skip(f"no network namespaces here: {e.stderr.strip()}")
    finally:
        made.part()


@pytest.fixture(scope="module")
def books(tmp_path_factory):
    "A folder with 40 readers of 30 books: batches of 13 leave one reader alone."
    g, folder = np.random.default_rng(0), tmp_path_factory.mktemp("data") / "books"
    folder.mkdir()
    read = [g.permutation(30)[: g.integers(6, 12)] for _ in range(40)]
    rows = [(u, b, time) for u, some in enumerate(read) for time, b in enumerate(some)]
    table = pd.DataFrame(rows, columns=["user", "item", "timestamp"])
    table.to_csv(folder / "interactions.csv", index=False)
    titles = pd.DataFrame({"item": range(30), "title": [f"Volume {b}" for b in range(30)]})
    titles.to_csv(folder / "items.csv", index=False)
    return str(folder)


def alone(books, folder, parameters):
    "The record of the run of one process."
    run = configure(dataset=books, out_dir=str(folder / parameters["model"]), **parameters)
    return execute(run, prepare(run)).record


def check_close(one, other):
    "Losses and metrics, of validation and test, are the same to 1e-4."
    assert one["data_hash"] == other["data_hash"] and one["candidates"] == other["candidates"]
    assert len(one["curves"]) == len(other["curves"])
    for row, its in zip(one["curves"], other["curves"]):
        assert row["targets"] == its["targets"]
        assert its == pytest.approx(row | {"seconds": its["seconds"]}, abs=1e-4)
    for kind in ("sampled", "full"):
        for name, value in one["metrics"]["test"][kind].items():
            assert other["metrics"]["test"][kind][name] == pytest.approx(value, abs=1e-4)


@pytest.fixture(scope="module")
def whole(hosts, books):
    "The record of a run on two hosts that nothing interrupts."
    return hosts.finish("whole", hosts.start("whole", torchrun=True, dataset=books, **SASREC))


def test_two_hosts_make_the_run_of_one_process(whole, hosts, books, tmp_path):
    processes = hosts.start("statements", dataset=books, **MIBERT)
    check_close(alone(books, tmp_path, SASREC), whole)
    assert whole["device"]["devices"] == 2
    check_close(alone(books, tmp_path, MIBERT), hosts.finish("statements", processes))


def wait_for_checkpoint(hosts, run, processes):
    "Wait until a run has written a checkpoint since now."
    before = time.time_ns()
    while not any(p.stat().st_mtime_ns > before for p in hosts.checkpoints(run)[0]):
        assert all(process.poll() is None for process in processes), hosts.said(run)
        time.sleep(0.01)


def test_a_cut_cable_and_a_killed_process_stop_both_hosts_and_the_run_goes_on(whole, hosts, books):
    processes = hosts.start("cut", torchrun=True, dataset=books, **SASREC)
    wait_for_checkpoint(hosts, "cut", processes)
    hosts.cable("down")
    began = time.monotonic()
    codes = [process.wait(120) for process in processes]
    seconds = time.monotonic() - began
    hosts.cable("up")
    assert codes == [1, 1] and SECONDS - 1 < seconds < SECONDS + 30
    for i, said in enumerate(hosts.said("cut")):
        assert f"Error: A process on host-{i} has lost another one: " in said, said
        assert "(0 on host-0, 1 on host-1)" in said and "with resume=true" in said
        assert "PromptrecError: A process" in said[said.index("Root Cause") :]  # torchrun's summary

    first, second = hosts.checkpoints("cut")
    assert len(first) == 1 and not second
    begun = torch.load(first[0], weights_only=True)["state"]["epoch"]
    assert 0 < begun < SASREC["epochs"]

    resumed = dict(SASREC, dataset=books, resume="true")
    processes = hosts.start("cut", **resumed)
    wait_for_checkpoint(hosts, "cut", processes)
    processes[1].kill()
    assert [process.wait(60) for process in processes] == [1, -signal.SIGKILL]
    said = hosts.said("cut")[0]
    assert f"resumes after epoch {begun}" in said
    assert "lost another one: " in said[said.index("resumes after epoch") :]

    record = hosts.finish("cut", hosts.start("cut", **resumed))
    check_close(whole, record)
    assert record["metrics"] == whole["metrics"]
    assert [row["loss"] for row in record["curves"]] == [row["loss"] for row in whole["curves"]]
    assert not any(hosts.checkpoints("cut"))
