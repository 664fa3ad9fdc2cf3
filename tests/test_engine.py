"""A grid on an engine: several processes, Slurm for real, and those that are killed."""

import errno
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest

from promptrec.core import PromptrecError
from promptrec.experiments import run as run_module
from promptrec.experiments.engine import run_all
from promptrec.experiments.grid import record_path
from promptrec.experiments.parameters import configure
from promptrec.experiments.run import execute, lease_path, prepare
from promptrec.experiments.search import search, search_path
from promptrec.leases import Held, lease
from promptrec.training import loop

MINE = """
from pathlib import Path
from promptrec.baselines.counting import Popularity


class Counted(Popularity):
    "Says so each time that it is fitted."

    variants = {"counted": {}}

    def fit(self, *args, **more):
        with open(Path(__file__).with_name("fitted"), "a") as file:
            file.write("once\\n")
        return super().fit(*args, **more)


class Failing(Popularity):
    variants = {"failing": {}}

    def fit(self, *args, **more):
        raise RuntimeError("this model cannot learn")
"""


@pytest.fixture
def twelve(own, tmp_path):
    "The runs of a grid of twelve: two that take a while come first, and the fifth fails."
    mine = tmp_path / "mine.py"
    mine.write_text(MINE)
    slow = {"model": "sasrec", "epochs": 60, "patience": 60}
    runs = [slow | {"seed": seed} for seed in (0, 1)]
    runs += [{"model": f"{mine}:Counted", "seed": seed} for seed in range(2)]
    runs += [{"model": f"{mine}:Failing"}]
    runs += [{"model": f"{mine}:Counted", "seed": seed} for seed in range(2, 4)]
    runs += [{"model": name} for name in ("popularity", "markov", "itemknn", "ease")]
    runs += [{"model": "sasrec"}]
    data = {"dataset": str(own), "candidates": "uniform-5", "preset": "tiny"}
    return [data | {"seed": 0} | given for given in runs]


def owner(path):
    "The number of the process that holds a lease; None where there is none (yet)."
    try:
        return json.loads(path.read_text())["pid"]
    except (FileNotFoundError, ValueError):
        return None


class Meanwhile(threading.Thread):
    "Does something to processes that make runs, while the grid is made; raises at the end."

    def __init__(self, does):
        super().__init__(daemon=True)
        self.does, self.error = does, None
        self.start()

    def run(self):
        try:
            self.does()
        except BaseException as e:
            self.error = e

    def done(self):
        self.join(60)
        assert not self.is_alive() and self.error is None, self.error


def until(condition, seconds=120):
    "Wait for what a condition returns to be true; returns it."
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


def at_work(given, tmp_path):
    "The process that makes a run, once it has a checkpoint."
    run = configure(**given, out_dir=str(tmp_path / "runs"))
    until((run.folder / "checkpoint.pt").exists)
    return until(lambda: owner(lease_path(run)))


def log_of(given, tmp_path):
    run = configure(**given, out_dir=str(tmp_path / "runs"))
    return run.folder.with_name(f"{run.name}.log").read_text()


def check_twelve(twelve, done, tmp_path):
    "Eleven records, one clear failure, nothing made twice, nothing left behind."
    failed = [row["failed"] for row in done.to_dict("records")]
    assert len(done) == 12
    assert failed == [""] * 4 + ["RuntimeError: this model cannot learn"] + [""] * 7
    made = [given for given in twelve if record_path(given, tmp_path / "records").exists()]
    assert made == twelve[:4] + twelve[5:]
    assert (tmp_path / "fitted").read_text().count("once") == 4
    assert not list(tmp_path.rglob("*.lease")) and not list(tmp_path.rglob("*.tmp"))
    for given in twelve[:2]:  # 60 epochs each, some before and some after it was stopped
        record = json.loads(record_path(given, tmp_path / "records").read_text())
        assert [row["epoch"] for row in record["curves"]] == list(range(1, 61))
        assert "resumes after epoch" in log_of(given, tmp_path)


def test_four_workers_two_of_which_are_killed(twelve, tmp_path):
    def kill():
        for given in twelve[:2]:
            os.kill(at_work(given, tmp_path), signal.SIGKILL)

    killing = Meanwhile(kill)
    done = run_all(twelve, tmp_path / "records", tmp_path / "runs", workers=4)
    killing.done()
    check_twelve(twelve, done, tmp_path)


# One maker at a time ----------------------------------------------------------------------------


@pytest.fixture
def small(own, tmp_path):
    "A run of a few epochs, and its data."
    given = {"dataset": str(own), "candidates": "uniform-5", "preset": "tiny", "model": "sasrec"}
    run = configure(**given, epochs=4, patience=4, out_dir=str(tmp_path / "runs"), resume=True)
    return run, prepare(run)


def in_a_process(does, *args):
    "A process that begins as this one is, and does something."
    process = multiprocessing.get_context("fork").Process(target=does, args=args)
    process.start()
    return process


def test_the_same_run_in_one_folder_by_two(small, monkeypatch):
    "The second is told who makes it; once that one is killed, it goes on where that one was."
    run, data = small

    def slowly(*args):
        time.sleep(60)

    def made_slowly():
        monkeypatch.setattr(run_module, "evaluate_run", slowly)
        execute(run, data)

    other = in_a_process(made_slowly)
    checkpoint = run.folder / "checkpoint.pt"
    until(checkpoint.exists)
    with pytest.raises(Held, match=f"{run.name} is in work: .*held by process {other.pid} on"):
        execute(run, data)
    other.kill()
    other.join()
    assert checkpoint.exists()
    result = execute(run, data)
    assert len(result.curves) == 4 and not list(run.folder.parent.glob("*.lease"))


def test_who_lost_a_run_writes_nothing_more(small):
    "As one whose host was suspended, and whose run another has taken over meanwhile."
    run, data = small
    path = lease_path(run)
    seen = []

    def lose(*args, usual=loop.save_state):
        usual(*args)
        seen.append((run.folder / "checkpoint.pt").stat().st_mtime_ns)
        if len(seen) == 2:
            path.write_text(json.dumps(json.loads(path.read_text()) | {"token": "another"}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "save_state", lose)
        with pytest.raises(PromptrecError, match="was given up: .*Nothing is written"):
            execute(run, data)
    assert len(seen) == 2 and (run.folder / "checkpoint.pt").stat().st_mtime_ns == seen[-1]
    assert not path.with_suffix(".json").exists() and path.exists()
    path.unlink()  # the other has ended
    assert execute(run, data).curves["epoch"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("sampler", ["design", "tpe"])
def test_a_network_folder_without_locks(own, small, tmp_path, monkeypatch, sampler):
    def refused(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    for name in ("flock", "lockf", "fcntl"):
        monkeypatch.setattr(fcntl, name, refused)
    monkeypatch.setattr(time, "time", lambda: 0.0)  # and a clock that stands still
    run, data = small
    execute(run, data)
    given = {"records": tmp_path / "records", "out_dir": tmp_path / "runs", "sampler": sampler}
    found = search(str(own), "ease", 2, "tiny", candidates="uniform-5", **given)
    assert len(found["trials"]) == 2 and not list(tmp_path.rglob("*.lease"))


def test_a_search_by_design_by_two(own, tmp_path):
    given = {"records": tmp_path / "records", "out_dir": tmp_path / "runs"}
    run = configure(dataset=str(own), model="ease", preset="tiny")
    path = search_path(run, tmp_path / "records")
    with lease(path.with_suffix(".lease"), "The search"), pytest.raises(Held, match="is in work"):
        search(str(own), "ease", 2, "tiny", candidates="uniform-5", **given)


def test_several_commands_share_a_grid(twelve, tmp_path):
    "Three, one of which is killed with all that it began: nothing is made twice."
    runs = [given for given in twelve if "Counted" in given["model"]]

    def command():
        os.setpgrp()
        done = run_all(runs, tmp_path / "records", tmp_path / "runs")
        assert set(done["failed"]) == {""}

    commands = [in_a_process(command) for _ in range(3)]
    first = commands[0].pid
    until(lambda: os.getpgid(first) == first and list((tmp_path / "runs").glob("*.log")))
    os.killpg(first, signal.SIGKILL)
    for other in commands:
        other.join(400)
    assert [c.exitcode for c in commands] == [-signal.SIGKILL, 0, 0]
    assert all(record_path(given, tmp_path / "records").exists() for given in runs)
    assert (tmp_path / "fitted").read_text().count("once") == 4


# Slurm ------------------------------------------------------------------------------------------

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
MpiDefault=none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture
def slurm(monkeypatch):
    "Slurm on this machine alone: one node of four CPUs, started and stopped here."
    pytest.importorskip("submitit", reason="submitit is not installed")
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin:/sbin")
    lacking = [name for name in ("munged", "slurmctld", "slurmd") if not shutil.which(name)]
    if lacking:
        pytest.skip(f"{', '.join(lacking)} missing: apt-get install slurm-wlm munge")
    if os.getuid():
        pytest.skip("Slurm's daemons are to be started by root")
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # the name of a socket is short
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "key").write_bytes(os.urandom(128))
    (folder / "key").chmod(0o600)
    text = CONFIGURATION.format(host=socket.gethostname(), folder=folder, ports=free_ports(2))
    (folder / "slurm.conf").write_text(text)
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    munge = {"key-file": "key", "socket": "munge.socket", "pid-file": "munge.pid"}
    munge |= {"log-file": "munge.log", "seed-file": "munge.seed"}
    options = [f"--{name}={folder / file}" for name, file in munge.items()]
    commands = {
        "munged": ["munged", "--foreground", "--force", *options],
        "slurmctld": ["slurmctld", "-D", "-c"],
        "slurmd": ["slurmd", "-D"],
    }
    daemons = []

    def ready():
        command = ["sinfo", "--noheader", "--format=%T"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() == "idle"

    try:
        for name, command in commands.items():
            with open(folder / f"{name}.out", "w") as out:
                daemons.append(subprocess.Popen(command, stdout=out, stderr=out))
            if name == "munged":
                until((folder / "munge.socket").exists, 10)
        until(ready, 30)
        yield
        subprocess.run(["scancel", "--me"])
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def job_of(pid):
    "The job of Slurm that a process belongs to."
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    [job] = [v.partition(b"=")[2] for v in variables if v.startswith(b"SLURM_JOB_ID=")]
    return job.decode()


def test_on_slurm_one_is_preempted_and_one_reaches_its_time_limit(slurm, twelve, tmp_path):
    def stop():
        first, second = [job_of(at_work(given, tmp_path)) for given in twelve[:2]]
        subprocess.run(["scontrol", "requeue", first], check=True)
        subprocess.run(["scancel", "--signal=USR2", second], check=True)  # as near the limit

    stopping = Meanwhile(stop)
    resources = {"timeout_min": 10, "cpus_per_task": 1}
    done = run_all(
        twelve, tmp_path / "records", tmp_path / "runs", engine="slurm", resources=resources
    )
    stopping.done()
    check_twelve(twelve, done, tmp_path)
