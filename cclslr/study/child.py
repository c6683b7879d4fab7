"""A command of `cclslr` that ends when whoever started it is gone: `python -m cclslr.study.child WORD …`.

Its standard input is a pipe that nobody writes to. When the other end closes, because the study was killed, this
process gets SIGTERM, upon which a training may still save where it is.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def _end_with_parent() -> None:
    def watch() -> None:
        os.read(sys.stdin.fileno(), 1)  # not through sys.stdin: its lock would be held when the interpreter ends
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    _end_with_parent()
    runpy.run_module("cclslr", run_name="__main__")
