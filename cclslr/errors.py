"""Errors that are the user's to mend, told apart from our own bugs."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command's end means to the script that called it (docs/cluster.md)."""

    DONE = 0
    BUG = 1  # an exception of ours, with its traceback
    REFUSED = 2  # nothing was done, or not all of it: a `UserError`, an `OSError`, or an option that argparse refuses
    SOME_BAD = 3  # the command did its work; some clips were rejected, some faults found, some stages failed
    STOPPED = 75  # EX_TEMPFAIL of sysexits.h: a signal stopped a training; nothing is lost, the same command goes on
    CTRL_C = 130  # 128 + SIGINT, as shells have it


class UserError(ValueError):
    """Something that whoever runs the program can mend: one line that names the file or key, and the fix.

    Commands print it without a traceback and exit with `ExitCode.REFUSED` (`cclslr.console.run_command`). Every other
    exception but `OSError` is a bug of ours, and keeps its traceback.
    """


class BadClip(UserError):
    """A clip that cannot be used, with the reason; packing rejects it, reading quarantines it."""
