"""From the command line: one run, one whose record is kept for a grid, or two models together.

    python -m promptrec.experiments dataset=ml-100k model=sasrec
    python -m promptrec.experiments record records=FOLDER dataset=ml-100k model=sasrec
    python -m promptrec.experiments mix members=NAME,NAME
    python -m promptrec.experiments rerank name=NAME
"""

import sys

from promptrec.experiments import engine, mixture, run

if __name__ == "__main__":
    if sys.argv[1:2] == ["mix"]:
        mixture.mix_by_words(sys.argv[2:])
    elif sys.argv[1:2] == ["rerank"]:
        mixture.rerank_by_words(sys.argv[2:])
    elif sys.argv[1:2] == ["record"]:
        engine.record_by_words(sys.argv[2:])
    else:
        run.main(sys.argv[1:])
