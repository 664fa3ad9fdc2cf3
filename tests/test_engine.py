"""A grid on an engine: several processes, Slurm for real, and those that are killed."""

import json
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

from promptrec.experiments.engine import run_all
from promptrec.experiments.grid import record_path
from promptrec.experiments.parameters import configure
from promptrec.experiments.run import lease_path

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
