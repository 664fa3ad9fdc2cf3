"""`python -m promptrec` is the command `promptrec`."""

from promptrec.predict.command_line import main

if __name__ == "__main__":
    main()
