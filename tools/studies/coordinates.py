"""`cclslr study coordinates`, from a checkout."""

from cclslr.__main__ import run

if __name__ == "__main__":
    run("study", "coordinates")
