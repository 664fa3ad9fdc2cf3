"""Trackers beside the record: what TensorBoard's own reader finds is what the record says, also of
a resumed run; a tracker changes no number, and what is missing is said before training.
"""

import sys
from types import SimpleNamespace

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from promptrec.core import PromptrecError
from promptrec.experiments import run as run_module
from promptrec.experiments.parameters import configure
from promptrec.experiments.run import execute, metric_values, parse_arguments, prepare
from promptrec.training import trackers
from promptrec.training.trackers import one_level, start_tracker, tracked_name, tracking


def made(own, folder, **given):
    "A run of four epochs on somebody's own data."
    usual = {"dataset": str(own), "preset": "tiny", "candidates": "uniform-5"}
    usual |= {"model": "sasrec", "epochs": 4, "patience": 9, "out_dir": str(folder)}
    return configure(**usual | given)


def events(folder, run):
    "Step and value of all points of each curve, as TensorBoard reads them."
    found = EventAccumulator(str(folder / "tensorboard" / run.name)).Reload()
    return {
        name: [(e.step, e.value) for e in found.Scalars(name)] for name in found.Tags()["scalars"]
    }


def points(record):
    "What the record says should be there."
    wanted = {name: [] for row in record["curves"] for name in row}
    for row in record["curves"]:
        for name, value in row.items():
            wanted[name].append((row["epoch"], pytest.approx(value, rel=1e-6)))
    last = len(record["curves"])
    tested = metric_values(record).items()
    wanted |= {name: [(last, pytest.approx(value, rel=1e-6))] for name, value in tested}
    return {tracked_name(name): found for name, found in wanted.items()}


def test_tensorboard_has_what_the_record_has(own, tmp_path):
    run = made(own, tmp_path, **parse_arguments(["track=TensorBoard"]))
    result = execute(run, prepare(run))
    assert len(result.record["curves"]) == 4
    assert "test/full/recall@10" in metric_values(result.record)
    assert events(tmp_path, run) == points(result.record)
    (hparams,) = (tmp_path / "tensorboard" / run.name).rglob("hparams.yml")
    said = hparams.read_text()
    for name, value in (("loop/epochs", 4), ("model", "sasrec"), ("settings/d", run.settings.d)):
        assert one_level(run.config)[name] == value and f"{name}: {value}\n" in said


def test_a_tracker_decides_no_number(own, tmp_path):
    plain, tracked = (made(own, tmp_path / str(t), track=t) for t in (None, "tensorboard"))
    assert (plain.name, plain.config) == (tracked.name, tracked.config)
    first, second = (execute(run, prepare(run)) for run in (plain, tracked))
    assert first.record["metrics"] == second.record["metrics"]
    assert first.curves["loss"].tolist() == second.curves["loss"].tolist()
    assert "track" not in str(second.record["config"])
    assert not (tmp_path / "None" / "tensorboard").exists()


def test_a_resumed_run_goes_on_in_the_same_place(own, tmp_path, interrupted_at):
    run = made(own, tmp_path, track="tensorboard")
    data = prepare(run)
    with interrupted_at(2, 0):
        execute(run, data)
    assert [step for step, _ in events(tmp_path, run)["loss"]] == [1, 2]
    again = made(own, tmp_path, track="tensorboard", resume=True)
    result = execute(again, data)
    assert events(tmp_path, run) == points(result.record)
    assert len(list((tmp_path / "tensorboard").rglob("hparams.yml"))) == 1
    anew = execute(again, data)  # it is finished: nothing to resume
    assert events(tmp_path, run) == points(anew.record)


def test_a_model_without_epochs_is_tracked_too(own, tmp_path):
    run = made(own, tmp_path, model="popularity", epochs=None, patience=None, track="tensorboard")
    record = execute(run, prepare(run)).record
    assert events(tmp_path, run) == points(record)


@pytest.mark.parametrize("kind", ["mlflow", "wandb", "trackio"])
def test_a_missing_package_is_said_before_training(own, tmp_path, monkeypatch, kind):
    monkeypatch.setitem(sys.modules, kind, None)
    monkeypatch.setattr(run_module, "train", lambda *args: pytest.fail("it trains"))
    run = made(own, tmp_path, track=kind)
    with pytest.raises(PromptrecError, match=f"track={kind} needs its package: pip install {kind}"):
        execute(run, prepare(run))


def test_an_unknown_tracker_lists_the_known():
    with pytest.raises(PromptrecError, match="Known: tensorboard, mlflow, wandb, trackio"):
        configure(track="neptune")


def test_the_main_process_alone_logs(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "this_process", lambda: SimpleNamespace(is_main_process=False))
    with tracking("tensorboard", "run", tmp_path, {}) as log:
        log({"loss": 1.0}, 1)
    assert not list(tmp_path.iterdir())


class Wandb(GeneralTracker):
    "Stands in for accelerate's class for W&B."

    name = "wandb"
    requires_logging_directory = False
    made = []

    def __init__(self, run_name, **given):
        self.made.append({"project": run_name, **given})

    @property
    def tracker(self):
        return SimpleNamespace(id="x7")

    def store_init_configuration(self, values):
        self.made[-1]["config"] = values


def test_a_resumed_run_is_found_by_the_trackers_own_name(tmp_path, monkeypatch):
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", Wandb)
    for goes_on in (False, True, False):
        start_tracker("wandb", "run", tmp_path, {"loop": {"lr": 0.1}}, goes_on)
    begun, resumed, anew = Wandb.made
    assert begun == anew
    place = {"project": "promptrec", "name": "run", "dir": tmp_path}
    assert begun == place | {"config": {"loop/lr": 0.1}}
    assert resumed == place | {"id": "x7", "resume": "allow"}


def test_a_tracker_that_cannot_end_costs_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(Wandb, "finish", lambda self: 1 / 0)
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", Wandb)
    with pytest.warns(UserWarning, match="wandb did not take the end of the run: ZeroDivision"):
        with tracking("wandb", "run", tmp_path, {}):
            pass
