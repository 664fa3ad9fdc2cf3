"""`promptrec` in a terminal, from a checkout and from a wheel in a folder of its own."""

import ast
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from promptrec import __version__
from promptrec.experiments.parameters import known_parameters
from promptrec.predict.command_line import COMMANDS, main
from promptrec.predict.doctor import VARIABLES

HEAVY = {"torch", "transformers", "pandas", "numpy"}


def promptrec(*words, folder, cwd, **variables):
    "The finished process of `python -m promptrec` with the package in `folder`."
    environment = os.environ | {"PYTHONPATH": str(folder)} | variables
    command = [sys.executable, "-m", "promptrec", *words]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def run(root, tmp_path):
    "Run `promptrec` with words, outside the checkout."
    return lambda *words, **variables: promptrec(*words, folder=root, cwd=tmp_path, **variables)


def test_help_and_version(run):
    done = run("--help")
    assert done.returncode == 0 and done.stderr == ""
    assert all(f"  {name}" in done.stdout for name in COMMANDS)
    assert run("--version").stdout == f"promptrec {__version__}\n"
    for name, command in COMMANDS.items():
        done = run(name, "--help")
        assert done.returncode == 0
        assert command.example in done.stdout and command.description in done.stdout


def test_help_imports_nothing_heavy_and_takes_no_second(root, tmp_path):
    script = (
        "import runpy, sys; sys.argv = ['promptrec', '--help']; "
        "runpy.run_module('promptrec', run_name='__main__'); print(*sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(root)}
    seconds = []
    for _ in range(3):  # the best of three: the machine may be busy
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        seconds.append(time.perf_counter() - started)
    imported = {module.partition(".")[0] for module in done.stdout.splitlines()[-1].split()}
    assert "promptrec" in imported and not imported & HEAVY
    assert min(seconds) < 1


def test_only_a_language_model_loads_its_libraries(root, tmp_path):
    "They take longer to load than a short run takes."
    record = next((root / "figures" / "records").rglob("*-sasrec-seed0-*.json"))
    script = (
        "import sys; from promptrec.experiments.run import configure, read_record; "
        "configure(model='sasrec'); read_record(sys.argv[1]); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(record)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    heavy = {"peft", "transformers.modeling_utils", "transformers.models.t5", "scipy.stats"}
    heavy.add("lark")  # a grammar that jsonschema would compile
    assert not heavy & set(done.stdout.split())


def test_an_unknown_command_is_answered_by_the_known_ones(run):
    done = run("recomend", "k=10")
    assert done.returncode == 2 and done.stdout == ""
    assert "Unknown command 'recomend'" in done.stderr and "Known: recommend, " in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_its_function_and_names_only_known_parameters(name):
    command = COMMANDS[name]
    module, _, function = command.function.partition(":")

    assert callable(getattr(importlib.import_module(module), function))
    if name == "train":
        assert set(command.parameters) <= set(known_parameters("mibert"))


@pytest.mark.parametrize("name", ["train", "mix", "rerank", "doctor"])
def test_a_command_refuses_an_unknown_parameter(name):
    with pytest.raises(SystemExit, match="Error: Unknown .*'no_such_thing'.* Known: "):
        main([name, "no_such_thing=1"])


def test_an_interrupted_command_says_so_without_a_traceback(monkeypatch, capsys):
    def interrupted(words):
        raise KeyboardInterrupt("Stopped by signal 2; resume goes on from checkpoint.pt.")

    monkeypatch.setattr("promptrec.experiments.run.main", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["train"])
    assert ended.value.code == 130
    assert "Interrupted. Stopped by signal 2; resume" in capsys.readouterr().err


def test_the_doctor_says_what_is_broken(run, tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch.so: cannot be opened')")
    done = run("doctor")  # which imports that file in place of torch
    assert done.returncode == 1 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert "! import  ImportError: libtorch.so: cannot be opened" in lines
    assert {"Packages", "Machine", "Data and models", "Variables"} <= set(lines)
    assert lines[-1].endswith("broken: see the lines with !")


def environment_reads(source):
    "The names that a module reads from `os.environ`, as written in it."
    for node in ast.walk(ast.parse(source)):
        parts = [*ast.iter_child_nodes(node)]
        if isinstance(node, (ast.Call, ast.Subscript, ast.Compare)):
            if any("os.environ" in ast.unparse(part) for part in parts):
                texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
                yield from (t for t in texts if isinstance(t, str) and t.isupper())


def test_the_doctor_knows_every_variable_that_the_package_reads(root):
    read = set()
    for path in (root / "promptrec").rglob("*.py"):
        read |= set(environment_reads(path.read_text()))
    assert {"PROMPTREC_DATA", "XDG_CACHE_HOME", "OPENAI_API_KEY"} <= read <= set(VARIABLES)


@pytest.fixture(scope="session")
def installed(root, tmp_path_factory):
    "A folder in which the wheel of this checkout is installed, without the packages it needs."
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"  # pip builds in the folder: not in the checkout
    tracked = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(tracked, cwd=root, capture_output=True, text=True, check=True).stdout
    for name in files.split("\0"):
        if name.startswith("promptrec/") or name in ("setup.py", "settings.ini", "README.md"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((root / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *offline, "-w", place, source], check=True)
    [wheel] = place.glob("promptrec-*.whl")
    subprocess.run([*pip, "install", *offline, "--target", place / "site", wheel], check=True)
    return place / "site"


def test_the_wheel_has_every_file_of_the_package(root, installed):
    def files(folder):
        return {
            str(path.relative_to(folder))
            for path in (folder / "promptrec").rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }

    assert files(installed) == files(root)
    assert (installed / "bin" / "promptrec").is_file()  # the console script


def test_train_from_the_wheel_writes_its_record_where_it_was_started(installed, own, tmp_path):
    words = ("train", f"dataset={own}", "model=popularity", "candidates=uniform-5")
    done = promptrec(*words, folder=installed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip().splitlines()[-1])
    assert path.parent == tmp_path / "runs"
    record = json.loads(path.read_text())
    assert (record["model"], record["dataset"]) == ("popularity", own.name)
    assert record["commit"] is None and record["dirty"] is None  # no git there


def test_the_doctor_from_the_wheel_finds_this_environment_whole(installed, tmp_path):
    (tmp_path / "data").mkdir()
    given = {"OPENAI_API_KEY": "sk-secret", "XDG_CACHE_HOME": str(tmp_path)}
    done = promptrec("doctor", "data_dir=data", folder=installed, cwd=tmp_path, **given)
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("All that is required is here.\n")
    assert str(installed) in done.stdout  # this package, not the checkout's
    assert "ml-100k" in done.stdout and "sk-secret" not in done.stdout
