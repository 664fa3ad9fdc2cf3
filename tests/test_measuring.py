"""Training beside the first version, as the benchmark notebook does it, and what that leaves."""

import subprocess

import nbformat
import pytest

FIRST = "25dbb8e"  # the first version, whose modules had other names


def git(root, *words):
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True)


def worktrees(root):
    listed = git(root, "worktree", "list", "--porcelain").stdout.splitlines()
    return [line for line in listed if line.startswith("worktree ")]


@pytest.fixture
def benchmark(root):
    "The names that the benchmark notebook defines, where one model is trained for a few steps."
    cells = nbformat.read(root / "nbs" / "benchmark.ipynb", as_version=4).cells
    code = {cell.id: cell.source for cell in cells if cell.cell_type == "code"}
    order = list(code)
    names = {}
    for cell in order[: order.index("c003") + 1]:
        exec(code[cell], names)
    names |= {"cases": "gru4rec", "steps": 1}
    for cell in ("c004", *order[order.index("c041") : order.index("c044") + 1]):
        exec(code[cell], names)
    names["CASES"]["gru4rec"]["preset"] = "tiny"
    return names


def test_old_and_new_train_side_by_side_and_the_old_tree_goes(root, benchmark):
    if git(root, "cat-file", "-e", f"{FIRST}^{{commit}}").returncode:
        pytest.skip("this clone has no history, or there is no git")
    before = worktrees(root)
    with benchmark["tree_of"](FIRST) as old:
        trees = {"old": old, "new": root}
        found = list(benchmark["side_by_side"]("gru4rec", trees, turns=1))
    assert [row[""] for row in found] == ["old", "new"]
    assert all(row["examples a second"] > 0 and row["peak MiB"] > 0 for row in found)
    assert abs(found[0]["mean loss"] - found[1]["mean loss"]) < 0.1
    with pytest.raises(ZeroDivisionError), benchmark["tree_of"](FIRST) as old:
        raise ZeroDivisionError
    assert worktrees(root) == before and not old.exists()
    with pytest.raises(benchmark["PromptrecError"], match="since"), benchmark["tree_of"]("0" * 7):
        pass
