"""Files that are made up, with coverage guidance, for every reader: `PromptrecError` alone escapes.

    python tests/fuzz.py 60                       # so many seconds a format
    python tests/fuzz.py 60 --formats checkpoint,record

Needs atheris. A reader that raises anything else, takes longer than some seconds for a small file,
or holds more than some gigabytes, does not hold; what it was given is kept in `--found`.
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
import warnings
from contextlib import redirect_stdout
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # more threads of torch would not survive a fork
os.environ["HF_HUB_OFFLINE"] = "1"

import atheris

with atheris.instrument_imports(include=["promptrec"], enable_loader_override=False):
    from formats import FORMATS

    from promptrec.core import PromptrecError

MOST_SECONDS = 20  # for one file of at most `LONGEST` bytes
MOST_MEGABYTES = 4096
LONGEST = 1 << 16


def fuzz_one(name: str, seconds: int, found: Path, outer: Path) -> None:
    "Fuzz one format, with files in the folder `outer`; ends the process."
    warnings.simplefilter("ignore")
    os.environ["XDG_CACHE_HOME"] = str(outer / "cache")
    kept, folder, corpus = outer / "kept", outer / "files", outer / "corpus"
    kept.mkdir()
    corpus.mkdir()
    path = FORMATS[name].make(kept).relative_to(kept)
    shutil.copyfile(kept / path, corpus / "whole")

    def check(content: bytes) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(kept, folder)
        (folder / path).write_bytes(content)
        try:
            with redirect_stdout(None):
                FORMATS[name].read(folder / path)
        except PromptrecError:
            pass

    words = [
        sys.argv[0],
        f"-max_total_time={seconds}",
        f"-timeout={MOST_SECONDS}",
        f"-max_len={LONGEST}",
        f"-artifact_prefix={found}/{re.sub('[^a-z0-9]+', '-', name.lower())}-",
        f"-rss_limit_mb={MOST_MEGABYTES}",
        "-print_final_stats=1",
        str(corpus),
    ]
    atheris.Setup(words, check)
    atheris.Fuzz()


def in_a_fork(name: str, seconds: int, found: Path) -> tuple[int, str]:
    "Fuzz one format in a fork of this process: its exit code, and what it said."
    with tempfile.TemporaryDirectory() as outer, tempfile.TemporaryFile() as log:
        pid = os.fork()
        if not pid:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            fuzz_one(name, seconds, found, Path(outer))
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        log.seek(0)
        return code, log.read().decode(errors="replace")


def main() -> int:
    "Fuzz formats one after another, a line each; returns 1 if one does not hold."
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("seconds", type=int, help="for each format")
    parser.add_argument("--formats", default=",".join(FORMATS), help="names with commas")
    parser.add_argument("--found", type=Path, default=Path(tempfile.gettempdir()) / "fuzz-found")
    given = parser.parse_args()
    given.found.mkdir(exist_ok=True)
    files, failed = 0, []
    for name in given.formats.split(","):
        code, said = in_a_fork(name, given.seconds, given.found)
        ran = re.findall(r"stat::number_of_executed_units:\s*(\d+)", said)
        files += int(ran[-1]) if ran else 0
        state = "holds" if ran and not code else f"ended with {code}"
        print(f"{name:45s} {ran[-1] if ran else '?':>8s} files: {state}", flush=True)
        if state != "holds":
            failed.append(name)
            print("\n".join(said.splitlines()[-25:]), flush=True)
    print(f"{files:,} files in all; what does not hold: {', '.join(failed) or 'none'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
