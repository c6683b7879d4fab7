"""Errors that are the user's to mend, told apart from our own bugs."""

from __future__ import annotations


class UserError(ValueError):
    """Something that whoever runs the program can mend: one line that names the file or key, and the fix.

    Commands print it without a traceback and exit with 2 (`cclslr.console.run_command`). Every other exception but
    `OSError` is a bug of ours, and keeps its traceback.
    """


class BadClip(UserError):
    """A clip that cannot be used, with the reason; packing rejects it, reading quarantines it."""
