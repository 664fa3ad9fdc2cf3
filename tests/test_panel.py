"""The panel in a real browser: typed, clicked, read; and what its state refuses."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from promptrec.baselines.sasrec import SasRec
from promptrec.core import PromptrecError
from promptrec.experiments.parameters import configure
from promptrec.experiments.run import execute, prepare
from promptrec.predict.explain import Coder
from promptrec.predict.panel import (
    PanelState,
    explanation,
    open_runs,
    panel,
    read_by,
    recommended,
    said_of,
)
from promptrec.sbtrec.model import SbtRecSettings
from promptrec.sbtrec.quantizer import ResidualQuantizer
from promptrec.testing.datasets import walks

ROOT = Path(__file__).parent.parent
EVIL = '<img src=x onerror="document.title=1">'  # a title that would change the page's own
NAMES = (
    "cat dog horse bird fish lion tiger bear wolf fox sheep goat cow pig duck swan eagle crow frog "
    "snake red blue green black white gold silver stone river lake sea mountain forest tree leaf "
    "rose sun moon star"
).split()
MIBERT = {
    "reading": "statements",
    "layers": 2,
    "local_layers": 1,
    "balanced": True,
    "near_identity": False,
    "batch_size": 16,
    "epochs": 8,
    "lr": 2e-3,
    "title_lr": 1e-2,
    "dropout": 0.0,
}


def ring_folder(folder, names):
    "Somebody's data: 200 users who walk round a catalogue, its items called `names`."
    folder.mkdir()
    ds = walks(200, len(names), 12)
    table = {"user": ds.user, "item": ds.item, "timestamp": np.arange(len(ds))}
    pd.DataFrame(table).to_csv(folder / "interactions.csv", index=False)
    items = {"item": range(len(names)), "title": names}
    pd.DataFrame(items).to_csv(folder / "items.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def ring(tmp_path_factory):
    "A folder of data, and one with three trained models."
    where = tmp_path_factory.mktemp("panel")
    data, runs = ring_folder(where / "ring", [*NAMES, EVIL]), where / "runs"
    for model, settings in {"itemknn": {}, "markov": {}, "mibert": MIBERT}.items():
        same = {"dataset": str(data), "candidates": "uniform-5", "out_dir": str(runs)}
        run = configure(model=model, preset="tiny", **same, **settings)
        execute(run, prepare(run))
    return data, runs


# The state -------------------------------------------------------------------------------------


def test_a_run_with_fewer_items_reads_what_it_knows(ring, tmp_path):
    _, runs = ring
    fewer = ring_folder(tmp_path / "ring", NAMES[:20])  # as the data were called before they grew
    given = {"dataset": str(fewer), "model": "markov", "candidates": "uniform-5"}
    run = configure(**given, out_dir=str(tmp_path))
    old = execute(run, prepare(run)).path
    state = PanelState(open_runs([next(runs.glob("*itemknn*.json")), old]))
    for name in ("dog", "rose"):
        state.add(state.search(name)[0])
    history, unknown = read_by(state, 1)
    assert (len(history.item), unknown) == (1, ["rose"])
    assert said_of(state, 0) == "" and "does not know rose" in said_of(state, 1)
    assert recommended(state, 1)["title"][0] == "horse"


def test_runs_on_different_data_are_refused(ring, tmp_path):
    other = ring_folder(tmp_path / "other", NAMES[:20])
    given = {"dataset": str(other), "model": "markov", "candidates": "uniform-5"}
    run = configure(**given, out_dir=str(tmp_path))
    paths = [next(ring[1].glob("*markov*.json")), execute(run, prepare(run)).path]
    with pytest.raises(PromptrecError, match="is a run on other, .* Give runs on one data set"):
        open_runs(paths)


def test_users_are_those_of_the_runs(ring, tmp_path):
    other = ring_folder(tmp_path / "other", NAMES[:20])
    with pytest.raises(PromptrecError, match="The runs are on ring, not on other"):
        panel([next(ring[1].glob("*markov*.json"))], str(other))


def test_one_run_has_one_side(ring):
    one = next(ring[1].glob("*markov*.json"))
    assert PanelState(open_runs([one])).sides == ["markov"]
    assert len(PanelState(open_runs([one, next(ring[1].glob("*itemknn*.json"))])).sides) == 2


def test_runs_of_one_name_in_two_folders_are_both_there(ring, tmp_path):
    one = next(ring[1].glob("*markov*.json")).with_suffix("")
    copy = tmp_path / one.name
    shutil.copytree(one, copy)
    shutil.copy(f"{one}.json", f"{copy}.json")
    assert list(open_runs([one, copy])) == [str(one), str(copy)]


def test_a_model_that_ranks_nothing_shows_its_codes(ring):
    one = open_runs([next(ring[1].glob("*itemknn*.json"))])["itemknn"]
    quantizer = ResidualQuantizer(64, 3, 8)
    encoder = SasRec(one.dataset, SbtRecSettings().encoder)
    coder = Coder("sbtrec", encoder, quantizer, max_history=10, both=True)
    quantizer.start(coder.of_items)
    state = PanelState({"itemknn": one, "sbtrec": coder})
    assert explanation(state, 1) == {}
    state.add(state.search("dog")[0])
    assert recommended(state, 1) is None and "ranks no catalogue" in said_of(state, 1)
    codes = explanation(state, 1)["codes"]
    assert codes["such as"].str.startswith("dog").all() and codes["items"].is_monotonic_decreasing


# The page --------------------------------------------------------------------------------------


@contextmanager
def voila(notebook, log):
    "The address of a page that Voila makes of a notebook."
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [f"--port={port}", "--no-browser", f"--Voila.config_file_paths={ROOT / 'nbs'}"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    with open(log, "w") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "voila", str(notebook), *words],
            stdout=out,
            stderr=out,
            env=env,
            cwd=notebook.parent,
            start_new_session=True,
        )
    try:
        for _ in range(600):
            with socket.socket() as asked:
                if asked.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


class Page:
    "What a person does on the page, by the CSS classes of `PanelView`."

    def __init__(self, browser, address):
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        self.browser = browser
        redrawn = [StaleElementReferenceException]  # between finding an element and reading it
        self.wait = WebDriverWait(browser, 120, 0.1, redrawn).until
        browser.set_page_load_timeout(120)
        browser.get(address)
        self.wait(lambda _: self.all("search input"))

    def all(self, css):
        "The elements that fit `.promptrec-` and the rest of a selector."
        return self.browser.find_elements("css selector", f".promptrec-{css}")

    def first(self, css):
        "What the first button of a list says; None where there is none."
        found = self.all(f"{css} button")
        return found[0].get_property("title") if found else None

    def add(self, text, title):
        "Type until a title is the first match, and choose it; the field is empty then."
        [field] = self.all("search input")
        field.send_keys(text)

        def click(_):
            there = self.first("matches") == title
            if there:
                self.all("matches button")[0].click()
            return there

        self.wait(click)
        self.wait(lambda _: not self.all("matches button"))

    def changed(self, css, before=""):
        "The text of an element as soon as it is another, and not being computed any more."

        def text(_):
            found = self.all(css)
            new = found[0].text.strip() if found else ""
            return new not in (before, "...", "") and new

        return self.wait(text)


@pytest.fixture(scope="module")
def page(ring, browser, tmp_path_factory):
    "The demo's page with models of the ring."
    data, runs = ring
    folder = tmp_path_factory.mktemp("page")
    notebook = load_notebook_node(str(ROOT / "nbs" / "demo.ipynb"))
    filled = parameterize_notebook(notebook, {"runs": str(runs), "dataset": str(data)})
    nbformat.write(filled, folder / "demo.ipynb")
    with voila(folder / "demo.ipynb", folder / "log") as address:
        yield Page(browser, address)


def titles_in(text):
    "The titles of a table of recommendations, as the page shows it."
    return [line.split()[1] for line in text.split("\n")[2:]]


def test_typed_clicked_seen_removed(page):
    page.add("ti", "tiger")
    one = page.changed("best-0")
    assert one.startswith("Recommended") and "tiger" not in titles_in(one)
    page.add("ros", "rose")
    two = page.changed("best-0", one)
    why = page.changed("why-0")
    assert "Without one item" in why and "rose" in why
    assert page.first("history") == "rose"
    page.all("history button")[0].click()
    assert page.changed("best-0", two) == one


def test_another_model_and_why(page):
    "The ring's next item, experts and branches of a model that is chosen from the list."
    [menu] = page.all("model-1 select")
    before = page.changed("best-1")
    menu.send_keys("mibert")
    best = page.changed("best-1", before)
    assert "bear" in titles_in(best)[:3]
    why = page.wait(lambda _: "Experts" in page.changed("why-1") and page.changed("why-1"))
    assert "Branches" in why and "expert 3" in why


def test_titles_are_text_and_users_can_be_chosen(page):
    page.add("img", EVIL)
    page.wait(lambda _: page.first("history") == EVIL)
    page.wait(lambda _: EVIL in page.changed("why-0"))
    assert page.browser.title != "1" and not page.browser.find_elements(
        "css selector", "img[src=x]"
    )
    [user] = page.all("user input")
    user.send_keys("7\n")
    page.wait(lambda _: page.all("history h4")[0].text == "History: 12 items")


def test_nothing_comes_from_elsewhere(page):
    "What Voila's template asks the internet for is refused before it is asked."
    script = "return performance.getEntriesByType('resource').map(e => e.name)"
    asked, here = page.browser.execute_script(script), page.browser.current_url
    assert len(asked) > 5
    log = [line["message"] for line in page.browser.get_log("browser")]
    refused = [line for line in log if "violates the following Content Security Policy" in line]
    for address in {a for a in asked if not a.startswith((here, "data:", "blob:"))}:
        assert any(address in line for line in refused), address
