"""How many small faults the tests find: an optional check that takes hours.

    python tests/mutants.py --n 200 --seed 0 --out mutants.jsonl

A mutant is this repository with one operator, comparison, constant or index of an exported cell
changed, in the notebook and in the package. It is killed if a test fails: one in its own notebook,
else one in the notebooks and files of `tests` that use it most. What is in `--out` already is
not done again, so that a run which was stopped goes on, and `--others 0` before `--others 6` gives
first figures soon; the survivors are printed at the end.
"""

import argparse
import ast
import copy
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat

ROOT = Path(__file__).parent.parent
CHAPTERS = ("1_data", "2_evaluation", "3_training", "4_mibert", "6_sbtrec")
LONGEST = 900  # seconds that one notebook or one file of tests may take
SKIPPED = {"slow", "cuda", "hub"}  # as `tst_flags` in settings.ini

COMPARED = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
COMPUTED = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}


@dataclass(frozen=True)
class Mutant:
    "One change of one exported cell."

    notebook: str  # below `nbs`
    module: str
    cell: str  # its id
    place: int  # which of the cell's places
    line: str  # what the line was
    change: str  # what became of the part of it that is changed
    code: str  # the cell's code, changed


def _children(node: ast.AST) -> Iterator[ast.AST]:
    "What may be changed below a node: no annotations, decorators, text or imports."
    if isinstance(node, (ast.JoinedStr, ast.Import, ast.ImportFrom)):
        return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield child


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    "A node and all below it that may be changed, in a fixed order."
    yield node
    for child in _children(node):
        yield from _walk(child)


def _changed(node: ast.AST) -> ast.AST | None:
    "Another node in the place of one; None where it is of no kind that is changed."
    new = copy.deepcopy(node)
    match new:
        case ast.Compare(ops=[first, *_]) if type(first) in COMPARED:
            new.ops[0] = COMPARED[type(first)]()
        case ast.BinOp(op=op) if type(op) in COMPUTED:
            new.op = COMPUTED[type(op)]()
        case ast.AugAssign(op=op) if type(op) in COMPUTED:
            new.op = COMPUTED[type(op)]()
        case ast.BoolOp(op=op):
            new.op = ast.Or() if isinstance(op, ast.And) else ast.And()
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert()):
            return new.operand
        case ast.Constant(value=bool(value)):
            new.value = not value
        case ast.Constant(value=int(value)):
            new.value = value + 1
        case ast.Constant(value=float(value)):
            new.value = 2 * value or 1.0
        case _:
            return None
    return new


def _replace(tree: ast.AST, old: ast.AST, new: ast.AST) -> None:
    "Put `new` where `old` is in a tree."
    for node in ast.walk(tree):
        for name, value in ast.iter_fields(node):
            if value is old:
                setattr(node, name, new)
            elif isinstance(value, list):
                value[:] = [new if child is old else child for child in value]


def _mutants_of(notebook: Path) -> Iterator[Mutant]:
    "All mutants of a notebook's exported cells."
    nb = nbformat.read(notebook, as_version=4)
    module = re.search(r"#\| default_exp (\S+)", "\n".join(c.source for c in nb.cells))
    assert module is not None
    for cell in nb.cells:
        if cell.cell_type != "code" or not cell.source.startswith("#| export"):
            continue
        tree = ast.parse(cell.source)
        for place, node in enumerate(_walk(tree)):
            new = _changed(node)
            if new is None:
                continue
            mutated = copy.deepcopy(tree)
            old = list(_walk(mutated))[place]
            _replace(mutated, old, new)
            code = ast.unparse(ast.fix_missing_locations(mutated))
            line = cell.source.splitlines()[node.lineno - 1].strip()
            change = f"{ast.unparse(node)[:100]}  ->  {ast.unparse(new)[:100]}"
            name = str(notebook.relative_to(ROOT / "nbs"))
            yield Mutant(name, module[1], cell.id, place, line, change, code)


def draw(n: int, seed: int) -> list[Mutant]:
    "`n` mutants, each place of all chapters as likely as any other; the first of 2n are the n."
    every = [
        mutant
        for chapter in CHAPTERS
        for notebook in sorted((ROOT / "nbs" / chapter).glob("*.ipynb"))
        if "default_exp" in notebook.read_text()
        for mutant in _mutants_of(notebook)
    ]
    random.Random(seed).shuffle(every)
    return every[:n]


def _apply(mutant: Mutant, tree: Path) -> None:
    "Change the notebook and the package in a copy of the repository."
    notebook = tree / "nbs" / mutant.notebook
    nb = nbformat.read(notebook, as_version=4)
    cell = next(c for c in nb.cells if c.id == mutant.cell)
    cell.source = f"#| export\n{mutant.code}"
    nbformat.write(nb, notebook)
    path = tree / "promptrec" / f"{mutant.module.replace('.', '/')}.py"
    text = path.read_text()
    head = re.search(rf"^# %% \S+ #{re.escape(mutant.cell)}\n", text, re.M)
    assert head is not None, f"{path} has no cell {mutant.cell}: run nbdev_export."
    end = text.find("\n# %% ", head.end())
    path.write_text(text[: head.end()] + mutant.code + "\n" + (text[end:] if end > 0 else ""))


def _users_of(mutant: Mutant) -> list[str]:
    """The files of tests and the notebooks that use what a mutant is part of, but for its own
    notebook: those that name it most come first.
    """
    module = f"promptrec.{mutant.module}"
    tree = ast.parse(mutant.code)
    names = [module, *(node.name for node in tree.body if hasattr(node, "name"))]
    named = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in names))
    files = [*(ROOT / "tests").glob("test_*.py"), *(ROOT / "nbs").glob("[0-9A]_*/*.ipynb")]
    uses = {str(file.relative_to(ROOT)): len(named.findall(file.read_text())) for file in files}
    uses.pop(f"nbs/{mutant.notebook}")
    return sorted((path for path, n in uses.items() if n), key=lambda path: (-uses[path], path))


def _in_child(tree: Path, notebook: Path) -> bool:
    "Whether a notebook of a copy passes its tests, in a process forked from this one."
    pid = os.fork()
    if not pid:  # the child: torch and transformers are imported already
        os.setsid()
        code = 3
        try:
            sys.stdout = sys.stderr = open(os.devnull, "w")
            os.chdir(tree)
            sys.path.insert(0, str(tree))
            os.environ["PYTHONPATH"] = str(tree)
            from nbdev.test import test_nb

            code = 0 if test_nb(notebook, SKIPPED, showerr=False)[0] else 1
        finally:
            os._exit(code)
    end = time.monotonic() + LONGEST
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.1)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


def _tests_pass(tree: Path, file: str) -> bool:
    "Whether a file of tests passes in a copy."
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", file]
    env = os.environ | {"PYTHONPATH": str(tree)}
    quiet = subprocess.DEVNULL
    try:
        done = subprocess.run(
            command, cwd=tree, env=env, stdout=quiet, stderr=quiet, timeout=LONGEST
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def killed_by(mutant: Mutant, tree: Path, begin: int, end: int) -> str:
    """What kills a mutant, in a copy of the repository that is made anew, of its own notebook (0)
    and its users (from 1) from `begin` to `end`; '' if nothing does.
    """
    shutil.rmtree(tree, ignore_errors=True)
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{ROOT}", str(tree)], check=True)
    _apply(mutant, tree)
    own = f"nbs/{mutant.notebook}"
    users = dict.fromkeys(["tests/test_same_numbers.py", *_users_of(mutant)])
    for path in [own, *users][begin:end]:
        passed = (
            _in_child(tree, tree / path) if path.endswith(".ipynb") else _tests_pass(tree, path)
        )
        if not passed:
            return path
    return ""


def main() -> None:
    "Try the mutants that are not in the file yet, then say how many were killed."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("mutants.jsonl"))
    parser.add_argument("--others", type=int, default=6, help="users of a module that are tried")
    parser.add_argument("--shard", default="0/1", help="every n-th mutant from the i-th: i/n")
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"}
    import matplotlib.pyplot  # noqa: F401  once, for all that are forked
    import pandas  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401

    rows = [json.loads(line) for line in given.out.open()] if given.out.exists() else []
    made = {(m["notebook"], m["cell"], m["place"]): m for m in rows}  # the last of each
    i, _, n = given.shard.partition("/")
    with tempfile.TemporaryDirectory() as folder:
        for mutant in draw(given.n, given.seed)[int(i) :: int(n)]:
            place = (mutant.notebook, mutant.cell, mutant.place)
            before = made.get(place, {"killed_by": "", "tried": 0})
            if before["killed_by"] or before["tried"] > given.others:
                continue
            started, tree = time.monotonic(), Path(folder) / "mutant"
            killer = killed_by(mutant, tree, before["tried"], 1 + given.others)
            row = {name: value for name, value in vars(mutant).items() if name != "code"}
            row |= {"killed_by": killer, "tried": 1 + given.others}
            row["seconds"] = round(time.monotonic() - started, 1)
            with given.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            made[place] = row
    survivors = [m for m in made.values() if not m["killed_by"]]
    print(f"{len(made) - len(survivors)} of {len(made)} mutants killed")
    for m in survivors:
        print(f"{m['notebook']}: {m['line']}\n    {m['change']}")


if __name__ == "__main__":
    main()
