"""Shared by all tests: one thread a process, no hub, runs of the package in a process of their own."""
import os, subprocess, sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # on a busy machine more threads wait for each other
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def root(): return ROOT


@pytest.fixture(scope="session")
def real_data():
    "Folder with the real data sets, named by PROMPTREC_DATA; skips where it is unset."
    folder = os.environ.get("PROMPTREC_DATA")
    if not folder: pytest.skip("PROMPTREC_DATA is unset: no real data at hand")
    return Path(folder)


@pytest.fixture(scope="session")
def papermill():
    "Run nbs/NAME.ipynb with parameters; returns the finished process."
    def run(name, out, **parameters):
        words = [w for k, v in parameters.items() for w in ("-p", k, str(v))]
        command = [sys.executable, "-m", "papermill", str(ROOT/"nbs"/f"{name}.ipynb"), str(out), "--no-progress-bar", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=600)
    return run
