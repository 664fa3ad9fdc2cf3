"""From the command line: one run, or the mixture of two.

    python -m promptrec.experiments dataset=ml-100k model=sasrec
    python -m promptrec.experiments mix members=NAME,NAME
"""

import sys

from promptrec.experiments import mixture, run

if __name__ == "__main__":
    if sys.argv[1:2] == ["mix"]:
        mixture.mix_by_words(sys.argv[2:])
    else:
        run.main(sys.argv[1:])
