"""Every model by its name, and the grid that fills in missing records."""

import json

import pytest

from promptrec.core import PromptrecError
from promptrec.experiments.engine import run_all
from promptrec.experiments.grid import BASELINES, GRID, missing, record_path, runs_of
from promptrec.experiments.parameters import configure, known_parameters
from promptrec.experiments.registry import MODELS
from promptrec.experiments.run import execute, prepare


@pytest.mark.parametrize("model", BASELINES)
def test_every_baseline_makes_a_record(model, own, tmp_path):
    run = configure(
        dataset=str(own), candidates="uniform-5", model=model, preset="tiny", out_dir=str(tmp_path)
    )
    result = execute(run, prepare(run))
    assert result.record["model"] == model and len(result.ranks) == 40
    if MODELS[model].presets is not None:
        assert result.record["parameters"]["total"] > 0
        assert ("full recall@10" in result.curves) == ("valid" in MODELS[model].full_parts)
    assert (tmp_path / f"{run.name}.json").is_file() and run.folder.is_dir()


def test_models_without_training_take_no_loop_settings():
    known = known_parameters("ease")
    assert "epochs" not in known and "regularisation" in known
    assert "lr" in known_parameters("sasrec")
    with pytest.raises(PromptrecError, match="Unknown parameter of ease"):
        configure(model="ease", epochs=3)
    assert configure(model="sasrec", loss="bce").settings.loss == "bce"


def test_every_run_of_the_grid_is_one_that_can_be_configured():
    for runs in GRID.values():
        for given in runs:
            assert configure(**given, preset="paper").name


def test_a_deleted_record_is_made_again_with_the_same_metrics(tmp_path):
    given = {"dataset": "ml-100k", "model": "sasrec", "preset": "tiny", "seed": 0}

    def read():
        return json.loads(record_path(given, tmp_path / "records").read_text())["metrics"]

    run_all([given], tmp_path / "records", tmp_path / "runs")
    first = read()
    record_path(given, tmp_path / "records").unlink()
    assert missing([given], tmp_path / "records") == [given]
    run_all([given], tmp_path / "records", tmp_path / "others")
    assert read() == first


def test_papermill_fills_in_what_is_missing(papermill, tmp_path):
    done = papermill(
        "run_all",
        tmp_path / "out.ipynb",
        table="quick",
        preset="tiny",
        shard="1/17",
        records=tmp_path / "records",
        out_dir=tmp_path / "runs",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "1 runs made, 0 failed" in (tmp_path / "out.ipynb").read_text()
    assert missing(runs_of("quick", "tiny"), tmp_path / "records", "1/17") == []
