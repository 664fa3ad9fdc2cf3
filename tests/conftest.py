"""Shared by all tests: one thread a process, no hub, notebooks run in a process of their own."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # on a busy machine more threads wait for each other
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent
SLOW = (
    "test_engine.py",
    "test_docs.py",
    "test_commands.py",
    "test_runs.py",
    "test_preparation.py",
    "test_grid.py",
    "test_chat.py",
    "test_results.py",
)


def pytest_collection_modifyitems(items):
    "The slowest files come first, so that two workers end together."
    items.sort(key=lambda item: SLOW.index(item.path.name) if item.path.name in SLOW else len(SLOW))


@pytest.fixture
def interrupted_at():
    "A context in which training is interrupted at an epoch and step, and stops."
    from promptrec.training import loop

    @contextmanager
    def interrupted_at(epoch, step, usual=loop.own_pieces):
        def own_pieces(*args):
            if args[-2:] == (epoch, step):
                os.kill(os.getpid(), signal.SIGINT)
            return usual(*args)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(loop, "own_pieces", own_pieces)
            yield

    return interrupted_at


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def real_data():
    "Folder with the real data sets, named by PROMPTREC_DATA; skips where it is unset."
    folder = os.environ.get("PROMPTREC_DATA")
    if not folder:
        pytest.skip("PROMPTREC_DATA is unset: no real data at hand")
    return Path(folder)


@pytest.fixture(scope="session")
def papermill():
    "Run nbs/NAME.ipynb with parameters; returns the finished process."

    def run(name, out, **parameters):
        words = []
        for parameter, value in parameters.items():
            words += ["-p", parameter, str(value)]
        command = [
            sys.executable,
            "-m",
            "papermill",
            str(ROOT / "nbs" / f"{name}.ipynb"),
            str(out),
            "--no-progress-bar",
            *words,
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=600)

    return run


@pytest.fixture(scope="session")
def notebook():
    """Run nbs/NAME.ipynb with parameters as papermill would, but in this process, which saves the
    start of a kernel. Returns what its cells printed and showed as text; raises what a cell raises.
    """
    import matplotlib.pyplot as plt
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output
    from papermill.cli import _resolve_type  # -p epochs 0 is a number, -p resume True a truth
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    def run(name, **parameters):
        given = {name: _resolve_type(str(value)) for name, value in parameters.items()}
        filled = parameterize_notebook(
            load_notebook_node(str(ROOT / "nbs" / f"{name}.ipynb")), given
        )
        shell = InteractiveShell()
        shell.history_manager.enabled = False
        shown = ""
        for cell in filled.cells:
            if cell.cell_type == "code":
                with capture_output() as captured:
                    result = shell.run_cell(cell.source, store_history=True)
                shown += captured.stdout + "".join(str(o) for o in captured.outputs)
                result.raise_error()
        plt.close("all")
        return shown

    return run


@pytest.fixture
def own(tmp_path):
    """A folder with somebody's own data: 40 readers of 30 books, rows out of order.

    Names are in Unicode, a title and some genres are missing.
    """
    g = np.random.default_rng(0)
    folder = tmp_path / "my-books"
    folder.mkdir()
    rows = []
    for user in range(40):
        books = g.permutation(30)[: g.integers(6, 12)]
        rows += [(f"reader {user}", f"b{book}", time) for time, book in enumerate(books)]
    table = pd.DataFrame(rows, columns=["user", "item", "timestamp"])
    table.sample(frac=1, random_state=0).to_csv(folder / "interactions.csv", index=False)
    catalogue = {
        "item": [f"b{i}" for i in range(30)],
        "title": ["" if i == 3 else f"Büch, no. {i}" for i in range(30)],
        "genres": ["Drama|Poetry" if i % 2 else "" for i in range(30)],
    }
    pd.DataFrame(catalogue).to_csv(folder / "items.csv", index=False)
    return folder


@pytest.fixture(scope="session")
def llm(tmp_path_factory):
    "A made-up language model with SmolLM2's words."
    import torch  # here, for tests that need neither start faster
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from promptrec.sbtrec.language_model import llm_path

    folder = tmp_path_factory.mktemp("llm")
    words = AutoTokenizer.from_pretrained(llm_path("smollm2-135m"))
    words.save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=1024,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
        )
    ).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def browser():
    """Chromium without a window, for which no other machine exists; skips where it, its driver or
    Selenium is missing.
    """
    webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("chromium or chromedriver is missing: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1400,1200"):
        options.add_argument(f"--{word}")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield started
    started.quit()
