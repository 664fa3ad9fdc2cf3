"""What people type: names in other spellings, numbers for folders, paths of all kinds, and settings
as papermill knows them. Each is taken as meant, or refused with advice that works when followed.
"""

import ast
import re
import shutil
from pathlib import Path

import pytest
from papermill.inspection import _infer_parameters
from papermill.iorw import load_notebook_node

from promptrec.core import PromptrecError
from promptrec.data.registry import DATASETS, dataset_name, load_dataset
from promptrec.experiments.grid import GRID, runs_of
from promptrec.experiments.parameters import configure, known_parameters
from promptrec.experiments.registry import MODELS
from promptrec.experiments.run import execute, prepare, train
from promptrec.experiments.search import SPACES, trials

PAPERMILL = ("train", "tune", "recommend", "run_all", "tables", "figures", "benchmark", "speed")


def cells(root, name):
    "The code cells of a notebook."
    notebook = load_notebook_node(str(root / "nbs" / f"{name}.ipynb"))
    return notebook, [cell for cell in notebook.cells if cell.cell_type == "code"]


def assigned(source):
    "Names that a cell assigns at its top level."
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign):
            names |= {t.id for t in node.targets if isinstance(t, ast.Name)}
    return names


# Names ----------------------------------------------------------------------------------------


def spellings(name):
    "A name as people write it."
    return {name.upper(), name.title(), name.replace("-", "_"), name.replace("-", ""), f" {name} "}


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_in_any_spelling(name):
    assert {dataset_name(typed) for typed in spellings(name) | {f"{name}/"}} == {name}


@pytest.mark.parametrize(
    "typed, name",
    [
        ("MovieLens-1M", "ml-1m"),
        ("movielens 100k", "ml-100k"),
        ("movielens_small", "movielens-small"),
        ("Amazon-Beauty", "beauty"),
        ("Video Games", "video-games"),
        ("Last.fm", "lastfm"),
        ("Steam", "steam"),
    ],
)
def test_a_data_set_as_papers_write_it(typed, name):
    assert configure(dataset=typed, model="popularity").config["dataset"] == name


@pytest.mark.parametrize("name", MODELS)
def test_a_model_in_any_spelling(name):
    assert {configure(model=typed).model for typed in spellings(name)} == {name}


def test_the_same_run_whatever_the_spelling():
    typed = {"model": "SASRec", "preset": "Tiny", "split": "leave_one_out", "repeats": "MASK"}
    drawn = {"dataset": "ML_100K", "candidates": "Popularity-100"}
    assert configure(**typed, **drawn) == configure(model="sasrec", preset="tiny")
    read = configure(model="mibert", backbone="MiniLM_L6")
    assert read.config == configure(model="mibert", backbone="minilm-l6").config
    assert configure(model="SBTRec", dataset="ML-100K").dataset == "llara-movielens"
    assert runs_of("Table_4", "Tiny") == runs_of("table-4", "tiny")
    assert runs_of("ALL", "tiny") == runs_of(",".join(GRID), "tiny")
    assert trials("SASRec", 3) == trials("sasrec", 3) and "sasrec" in SPACES


@pytest.mark.parametrize(
    "given, meant",
    [
        ({"dataset": "ml-100"}, {"dataset": "ml-100k"}),
        ({"model": "mibird"}, {"model": "mibert"}),
        ({"preset": "quik"}, {"preset": "quick"}),
        ({"split": "leave-one-uot"}, {"split": "leave-one-out"}),
        ({"candidates": "popularty"}, {"candidates": "popularity"}),
        ({"LR": 1e-3}, {"lr": 1e-3}),
        ({"Max-Items": 5}, {"max_items": 5}),
        ({"monitor": "NGCD@10"}, {"monitor": "ndcg@10"}),
        ({"loss": "Softmax"}, {"loss": "softmax"}),
        ({"schedule": "Linear"}, {"schedule": "linear"}),
    ],
    ids=str,
)
def test_what_is_nearly_right_is_answered_by_what_is_meant(own, given, meant):
    usual = {"dataset": str(own), "model": "sasrec", "preset": "tiny", "candidates": "uniform-5"}
    with pytest.raises(PromptrecError) as error:
        run = configure(**usual | given)
        train(run, prepare(run))
    [(name, value)] = meant.items()
    known = name if set(given) != {name} else value
    assert f"Did you mean {known!r}?" in str(error.value)
    run = configure(**usual | meant)
    if "dataset" not in meant and "candidates" not in meant:
        train(run, prepare(run))


# Numbers that papermill makes ------------------------------------------------------------------


def test_a_folder_named_by_a_number(own, tmp_path, monkeypatch, notebook):
    "Papermill reads -p dataset 2018 and -p out_dir 7 as numbers."
    own.rename(tmp_path / "2018")
    monkeypatch.chdir(tmp_path)
    given = {"model": "popularity", "candidates": "uniform-5"}
    said = notebook("train", dataset=2018, out_dir=7, **given)
    assert "record: 2018-popularity-seed0" in said
    [record] = (tmp_path / "7").glob("2018-popularity-seed0-*.json")
    assert record.with_suffix("").is_dir()
    assert notebook("tables", dataset=2018, records=7, out_dir="drawn").count("2018")


@pytest.mark.parametrize("typed, read", [("007", 7), ("2018.10", 2018.1), ("1e3", 1000.0)])
def test_a_folder_whose_name_is_lost_as_a_number(own, tmp_path, monkeypatch, typed, read):
    own.rename(tmp_path / typed)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PromptrecError) as error:
        configure(dataset=read, model="popularity")
    assert "write ./" in str(error.value)
    run = configure(dataset=f"./{typed}", model="popularity")
    assert run.config["dataset"] == typed


# Paths ----------------------------------------------------------------------------------------


def test_a_path_in_any_form(own, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(own.parent))
    monkeypatch.chdir(own.parent)
    link = tmp_path / "elsewhere"
    link.symlink_to(own)
    paths = ["~/my-books", "my-books", "./my-books/", f"{own}/", f"{own}/../my-books", str(link)]
    runs = [configure(dataset=path, model="popularity") for path in paths]
    assert {run.name for run in runs} == {runs[0].name}
    assert {load_dataset(path).hash for path in paths} == {load_dataset(str(own)).hash}
    at_home = configure(dataset="my-books", data_dir="~", model="popularity")
    monkeypatch.chdir("/")
    away = configure(dataset="my-books", data_dir="~", model="popularity")
    assert (away.dataset, away.name) == (at_home.dataset, at_home.name)
    assert load_dataset("my-books", "~").hash == load_dataset(str(own)).hash


@pytest.fixture
def movielens(tmp_path):
    "A made-up MovieLens 1M and 100K, unpacked."
    one = tmp_path / "data" / "ml-1m"
    hundred = tmp_path / "data" / "ml-100k"
    for folder in (one, hundred):
        folder.mkdir(parents=True)
    rows = [
        (user, item, 5, 9 * user + item)
        for user in range(1, 9)
        for item in range(1, 9)
        if (user + item) % 4
    ]
    movies = [f"{item}::Film {item} (1990)::Drama\n" for item in range(1, 9)]
    (one / "ratings.dat").write_text("".join("::".join(map(str, row)) + "\n" for row in rows))
    (one / "movies.dat").write_text("".join(movies))
    (hundred / "u.data").write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    catalogue = [f"{item}|Film {item} (1990)|||x|1\n" for item in range(1, 9)]
    (hundred / "u.item").write_text("".join(catalogue))
    (hundred / "u.genre").write_text("Drama|0\n")
    return tmp_path / "data"


def test_an_unpacked_release_is_that_data_set(movielens, tmp_path):
    given = {"model": "popularity", "candidates": "uniform-1", "out_dir": str(tmp_path / "runs")}
    by_name = configure(dataset="ml-1m", data_dir=str(movielens), **given)
    by_path = configure(dataset=f"{movielens}/ml-1m/", **given)
    assert by_path.name == by_name.name and by_path.config["dataset"] == "ml-1m"
    assert prepare(by_path).dataset.hash == prepare(by_name).dataset.hash
    assert execute(by_path, prepare(by_path)).record["dataset"] == "ml-1m"
    renamed = (movielens / "ml-100k").rename(movielens / "films of the nineties")
    assert configure(dataset=str(renamed), **given).config["dataset"] == "ml-100k"
    assert load_dataset(str(renamed)).n_users == 8


def follow(error):
    "Parameters that an error advises: dataset=... and data_dir=..., at its end or before 'and'."
    said = str(error.value)
    found = dict(re.findall(r"\b(dataset|data_dir)=(.+?)(?:, and | and |\.$|,|\. )", f"{said} "))
    return {name: value.rstrip(".") for name, value in found.items()}


@pytest.mark.parametrize("typed", ["", "/ml-1m/ratings.dat", "/ml-100k/u.data", "/mine"])
def test_the_advice_on_paths_of_releases_works(movielens, typed):
    shutil.copytree(movielens / "ml-1m", movielens / "mine")
    with pytest.raises(PromptrecError) as error:
        configure(dataset=f"{movielens}{typed}", model="popularity")
    advised = follow(error)
    assert advised, str(error.value)
    run = configure(model="popularity", **advised)
    assert run.config["dataset"] in ("ml-1m", "ml-100k")
    assert load_dataset(run.dataset, run.data_dir).n_users == 8


def test_the_path_of_an_archive_is_its_data_set(tmp_path):
    archive = tmp_path / "ml-1m.zip"
    archive.write_bytes(b"cut off")
    run = configure(dataset=str(archive), model="popularity")
    assert run.config["dataset"] == "ml-1m"
    with pytest.raises(PromptrecError, match=f"{archive} is not the file we know"):
        prepare(run)


def test_a_single_file(own, tmp_path):
    with pytest.raises(PromptrecError) as error:
        configure(dataset=str(own / "interactions.csv"), model="popularity")
    assert configure(model="popularity", **follow(error)).config["dataset"] == "my-books"
    alone = shutil.copy(own / "interactions.csv", tmp_path / "ratings.csv")
    with pytest.raises(PromptrecError, match="is a file. Give a folder with") as error:
        configure(dataset=str(alone), model="popularity")
    folder = Path(re.search("such as (.*), with this file", str(error.value))[1])
    folder.mkdir()
    shutil.move(alone, folder / "interactions.csv")
    shutil.copy(own / "items.csv", folder)
    assert load_dataset(str(folder)).n_users == load_dataset(str(own)).n_users


@pytest.mark.parametrize("name", ["x" * 240, "é" * 120, "日" * 80])
def test_a_folder_with_a_very_long_name(own, tmp_path, name):
    folder = own.rename(own.with_name(name))
    given = {"dataset": str(folder), "model": "popularity", "preset": "tiny"}
    run = configure(**given, candidates="uniform-5", out_dir=str(tmp_path / "runs"))
    result = execute(run, prepare(run))
    assert result.path.is_file() and result.record["dataset"] == name


@pytest.mark.parametrize("typed", ["x" * 300, "/tmp/" + "x" * 300, "/tmp/" + "x/" * 3000])
def test_a_path_longer_than_any_may_be(typed):
    with pytest.raises(PromptrecError, match="Or give the path of a folder"):
        configure(dataset=typed, model="popularity")


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(PromptrecError, match=f"There is no folder {tmp_path}/nowhere"):
        configure(dataset=f"{tmp_path}/nowhere", model="popularity")
    for setting, model in (("backbone", "mibert"), ("llm", "sbtrec")):
        with pytest.raises(PromptrecError, match=f"no folder {tmp_path}/nowhere for {setting}"):
            configure(model=model, **{setting: f"{tmp_path}/nowhere"})


# What papermill knows --------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAPERMILL)
def test_papermill_knows_every_documented_parameter(root, name):
    "Else it warns: Passed unknown parameter."
    notebook, code = cells(root, name)
    known = {parameter.name for parameter in _infer_parameters(notebook)}
    text = "\n".join(cell.source for cell in code)
    if name == "train":
        documented = {n for model in MODELS for n in known_parameters(model)} | {"progress"}
    else:
        strings = re.search(r"check_parameters\(\s*globals\(\),([^)]+)\)", text)[1]
        documented = set(ast.literal_eval(f"({strings})".replace(",", "")).split())
    assert known == documented


def test_no_cell_of_train_assigns_what_is_a_parameter(root):
    "Else a cell that is run again would take it for a setting."
    _, code = cells(root, "train")
    parameters, *others = [assigned(cell.source) for cell in code]
    assert not parameters & set.union(*others) - {"dataset"}


def test_papermill_does_not_warn_of_settings(own, tmp_path, papermill):
    given = {"dataset": own, "model": "popularity", "candidates": "uniform-5"}
    done = papermill("train", tmp_path / "out.ipynb", out_dir=tmp_path / "runs", lr="None", **given)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "unknown parameter" not in done.stderr
