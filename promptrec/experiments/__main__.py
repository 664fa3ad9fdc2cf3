"""One run from the command line: `python -m promptrec.experiments dataset=ml-100k model=sasrec`."""

from promptrec.experiments.run import main

if __name__ == "__main__":
    main()
