"""`cclslr bench accuracy`, from a checkout."""

from cclslr.__main__ import run

if __name__ == "__main__":
    run("bench", "accuracy")
