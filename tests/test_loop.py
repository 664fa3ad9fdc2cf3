"""What the training loop promises of real models: a batch in pieces is the batch, processes share
the rows that are evaluated, a compiled network is the same network under the same names.
"""

import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from promptrec.core import PromptrecError
from promptrec.evaluation.choice import evaluate_answers
from promptrec.evaluation.metrics import evaluate
from promptrec.experiments.parameters import configure
from promptrec.experiments.run import build, prepare, train
from promptrec.sbtrec.model import PromptBatches
from promptrec.training import loop as loop_module
from promptrec.training.loop import Loop, LoopSettings, Stepper, has_compiler, own_pieces


class Asked(Loop):
    "Keeps what it was asked to train, and trains nothing."

    def run(self, model, batches, groups, validate=None, keep_from=1):
        self.model, self.batches, self.groups = model, batches, groups
        return pd.DataFrame()


def gradient(asked, pieces, which):
    "Loss and gradient of a step over the examples `which` in so many pieces, without dropout."
    settings = LoopSettings(accumulate=pieces, precision="no", clip=0)
    stepper = Stepper(asked.model.eval(), asked.groups, settings)
    stepper.optimizer.zero_grad = lambda: None
    asked.model.zero_grad()
    batches = own_pieces(asked.batches, which, settings, 0, 0)
    logged = stepper.step(batches, 0, 0, 0.0)
    found = {
        name: p.grad.clone() for name, p in asked.model.named_parameters() if p.grad is not None
    }
    return sum(share * logs["loss"].item() for share, logs in logged), found


def check_same(parts, whole):
    "Gradients by name are the same, but for rounding."
    largest = max(g.abs().max() for g in whole.values())
    assert parts.keys() == whole.keys() and largest > 0
    for name, g in whole.items():
        assert torch.allclose(parts[name], g, rtol=1e-5, atol=1e-5 * largest), name


# A batch in pieces ----------------------------------------------------------------------------


class SamePrompts(PromptBatches):
    "Candidates and their order do not depend on the batch that an example is in."

    def negatives(self, examples, generator):
        target = self.dataset.item[self.stop[examples] - 1]
        return (target[:, None] + 1 + np.arange(self.settings.negatives)) % self.dataset.n_items

    def collate(self, which, generator):
        return super().collate(which, np.random.default_rng(0))


MODELS = {
    "sasrec": {},
    "gru4rec": {},
    "p5": {},
    "mibert": {"beta": 0.0},
    "mibert cloze": {"beta": 0.0, "cloze": 0.3},
    "mibert statements": {"beta": 0.0, "reading": "statements", "layers": 2},
    "sbtrec": {"negatives": 4, "encoder_epochs": 1, "codes": 8},
}


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_in_pieces_is_the_batch(name, own, tmp_path, request, monkeypatch):
    given = {"model": name.split()[0], "dataset": own, "preset": "tiny", "out_dir": tmp_path}
    given |= {"candidates": "uniform-5", **MODELS[name]}
    if name == "sbtrec":
        given["llm"] = request.getfixturevalue("llm")
        monkeypatch.setattr("promptrec.sbtrec.model.PromptBatches", SamePrompts)
    run = configure(**{k: str(v) if k in ("dataset", "out_dir") else v for k, v in given.items()})
    data = prepare(run)
    model, asked = build(run, data), Asked(LoopSettings(batch_size=12, precision="no"))
    model.fit(data.split, asked)
    which = max(asked.batches.plan(0), key=len)
    loss, whole = gradient(asked, 1, which)
    assert len(which) > 8
    for pieces in (2, 5):
        in_pieces, parts = gradient(asked, pieces, which)
        assert in_pieces == pytest.approx(loss, rel=1e-5)
        check_same(parts, whole)


def test_a_run_in_pieces_goes_on_where_it_was_interrupted(own, tmp_path, interrupted_at):
    def run(folder, resume=False):
        run = configure(
            model="sasrec",
            dataset=str(own),
            preset="tiny",
            candidates="uniform-5",
            epochs=4,
            batch_size=8,
            accumulate=3,
            precision="fp16",
            out_dir=str(tmp_path / folder),
            resume=resume,
        )
        model, curves, _ = train(run, prepare(run))
        return [w.clone() for w in model.net.state_dict().values()], curves

    whole, curves = run("whole")
    with interrupted_at(2, 1):
        run("stopped")
    again, resumed = run("stopped", resume=True)
    assert all(map(torch.equal, whole, again))
    assert curves["loss"].tolist() == resumed["loss"].tolist()
    assert np.isfinite(curves["loss"]).all() and curves["loss"].is_monotonic_decreasing


# Several processes ----------------------------------------------------------------------------

SHARED = """
import copy
import sys
import pandas as pd
import torch
sys.path.insert(0, sys.argv[1])
from test_loop import Asked, check_same, found_by_evaluation, gradient, trained
from promptrec.experiments.parameters import configure
from promptrec.experiments.run import build, prepare
from promptrec.processes import this_process
from promptrec.training import loop
from promptrec.training.loop import LoopSettings

here = this_process()
run = configure(model="sasrec", dataset=sys.argv[2], preset="tiny", candidates="uniform-5")
data = prepare(run)
model, asked = build(run, data), Asked(LoopSettings(precision="no"))
ranks, answers = found_by_evaluation(model, data)
model.fit(data.split, asked)
which = max(asked.batches.plan(0), key=len)
found = []
for pieces in (1, 2):
    asked.model = copy.deepcopy(model.net)  # processes are joined to a network once
    asked.groups = [{"params": asked.model.parameters(), "lr": 0.0}]
    found.append(gradient(asked, pieces, which)[1])
whole, parts = found
check_same(parts, whole)
mean = next(iter(whole.values())).clone()
torch.distributed.all_reduce(mean)
assert torch.allclose(mean / 2, next(iter(whole.values())))  # the same in both
for name, table in (("ranks", ranks), ("answers", answers)):
    table.to_parquet(f"{sys.argv[3]}/{name}-{here.process_index}.parquet")

# a signal to one of them stops both behind the same step
loop._ASK_EVERY = 3
whole, curves = trained("no")
try:
    trained("no", sys.argv[3], stop_at=6 if here.process_index == 1 else None)
except KeyboardInterrupt as e:
    assert ("another process" in str(e)) == here.is_main_process, e
    here.wait_for_everyone()
    state = torch.load(f"{sys.argv[3]}/checkpoint.pt")["state"]
    assert (state["epoch"], state["step"]) == (1, 3), state
else:
    raise AssertionError("not stopped")
again, resumed = trained("no", sys.argv[3], resume=True)
assert resumed["loss"].tolist() == curves["loss"].tolist()
assert resumed["targets"].tolist() == [16] * 3
assert all(map(torch.equal, again.state_dict().values(), whole.state_dict().values()))
"""


class SaysBest:
    "Answers with the title that another model scores best."

    def __init__(self, model):
        self.model = model
        self.names = list(model.dataset.titles)

    def answers(self, histories, candidates):
        return [
            self.names[row[i]] for row, i in zip(candidates, self.choose(histories, candidates))
        ]

    def choose(self, histories, candidates):
        return self.model.score(histories, candidates).argmax(1)


def found_by_evaluation(model, data):
    "The ranks of an untrained model, and the answers made of its scores."
    torch.manual_seed(0)
    for p in model.net.parameters():
        nn.init.normal_(p)
    candidates = data.candidates["test"]
    ranks = evaluate(model, data.split, "test", candidates)
    return ranks, evaluate_answers(SaysBest(model), data.split, candidates)


def test_two_processes_share_the_rows(own, root, tmp_path):
    (tmp_path / "shared.py").write_text(SHARED)
    words = ["--nproc_per_node", "2", "--standalone", str(tmp_path / "shared.py")]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words, root / "tests", own, tmp_path],
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    run = configure(model="sasrec", dataset=str(own), preset="tiny", candidates="uniform-5")
    data = prepare(run)
    for name, table in zip(("ranks", "answers"), found_by_evaluation(build(run, data), data)):
        for process in (0, 1):
            shared = pd.read_parquet(tmp_path / f"{name}-{process}.parquet")
            pd.testing.assert_frame_equal(shared, table)


# Compiled -------------------------------------------------------------------------------------


class Small(nn.Module):
    "A network with a part worth compiling."

    compiled_part = "inner"

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Dropout(0.1), nn.Linear(4, 1))
        self.seen = []

    def forward(self, batch):
        self.seen.append("forward" in self.inner.__dict__)
        return (self.inner(batch["x"]) - batch["target"]).pow(2).mean(), {}


class Few:
    x = torch.linspace(-1, 1, 64).view(16, 4)

    def __init__(self, stop_at=None):
        self.stop_at = stop_at

    def plan(self, epoch):
        return np.split(np.random.default_rng(epoch).permutation(16), 4)

    def collate(self, which, generator):
        if self.stop_at is not None:
            self.stop_at -= 1
            if not self.stop_at:
                os.kill(os.getpid(), signal.SIGINT)
        return {"x": self.x[which], "target": self.x[which].sum(1, keepdim=True)}


def trained(compile, folder=None, resume=False, stop_at=None):
    torch.manual_seed(0)
    net = Small()
    settings = LoopSettings(epochs=3, lr=0.05, compile=compile, precision="no", monitor="near")
    groups = [{"params": net.parameters(), "lr": 0.05}]

    def validate():
        assert not net.training
        batch = Few().collate(np.arange(16), None)
        return {"near": -net(batch)[0].item()}

    curves = Loop(settings, folder, resume).run(net, Few(stop_at), groups, validate)
    return net, curves


@pytest.mark.skipif(not has_compiler("cpu"), reason="no C++ compiler, or no headers of Python")
def test_a_compiled_network(tmp_path, capsys):
    plain, curves = trained("no")
    assert not any(plain.seen)
    net, compiled = trained("yes")
    assert "compiles" in capsys.readouterr().err
    assert net.seen == ([True] * 4 + [False]) * 3  # validation is not compiled
    assert list(net.state_dict()) == list(plain.state_dict())
    assert compiled["loss"].iloc[-1] < compiled["loss"].iloc[0]
    assert compiled["loss"].tolist() == pytest.approx(curves["loss"].tolist(), rel=0.5)
    with pytest.raises(KeyboardInterrupt):
        trained("yes", tmp_path, stop_at=6)
    again, resumed = trained("yes", tmp_path, resume=True)
    assert resumed["loss"].tolist() == compiled["loss"].tolist()
    assert all(map(torch.equal, again.state_dict().values(), net.state_dict().values()))


def test_without_a_compiler(monkeypatch):
    monkeypatch.setattr(loop_module.shutil, "which", lambda name: None)
    with pytest.raises(PromptrecError, match="use compile='no'"):
        trained("yes")
    net, _ = trained("auto")
    assert not any(net.seen)
