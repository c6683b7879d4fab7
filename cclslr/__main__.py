"""The front door: `cclslr COMMAND …`, also `python -m cclslr COMMAND …` and `torchrun -m cclslr COMMAND …`."""

from __future__ import annotations

import difflib
import sys

from rich.table import Table
from rich.text import Text

from cclslr.commands import GROUPS, Command, list_commands
from cclslr.console import console, run_command
from cclslr.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Find the command that the arguments name and run it; without one, list what there is."""
    arguments = sys.argv[1:] if argv is None else argv
    family: tuple[str, ...] = ()
    default: Command | None = None  # what takes the arguments if no member of the family does
    while True:
        word = arguments[0] if arguments else "--help"
        if word in ("-h", "--help", "help"):
            _show(family, default is not None)
            if default is not None and arguments:
                return default.load().main(arguments[:1]) or 0
            return 0
        if word in ("-V", "--version") and not family:
            from cclslr import __version__

            console.print(f"cclslr {__version__}")
            return 0
        known = {command.words[-1]: command for command in list_commands(*family)}
        if word not in known and default is not None:
            return default.load().main(arguments) or 0
        command = _find(word, family, known)
        arguments = arguments[1:]
        if not command.is_family:
            return command.load().main(arguments) or 0
        family, default = command.words, command if command.is_command else None


def _find(word: str, family: tuple[str, ...], known: dict[str, Command]) -> Command:
    if word not in known:
        near = difflib.get_close_matches(word, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"no command {' '.join(('cclslr', *family, word))!r}{hint} (`cclslr --help` lists them)")
    return known[word]


def _show(family: tuple[str, ...], is_command: bool) -> None:
    """The commands in their groups, each with one line."""
    name = " ".join(("cclslr", *family))
    console.print(f"usage: {name} COMMAND …    ({name} COMMAND --help says more)")
    if is_command:
        console.print(f"or:    {name} …    by itself, with what names none of these ({name} --help)")
    commands = list_commands(*family)
    width = max(len(command.words[-1]) for command in commands)
    for group, title in GROUPS.items():
        table = Table.grid(padding=(0, 2))
        table.add_column(min_width=width + 2)
        for command in commands:
            if command.group == group:
                table.add_row(Text(f"  {command.words[-1]}{' …' if command.is_family else ''}"), Text(command.summary))
        if table.row_count:
            console.print() if family else console.print(f"\n{title}", style="bold")
            console.print(table)


def run(*words: str) -> None:
    """Run the command named by `words` on the arguments of this process, and end the process with its exit code."""
    run_command(lambda: main([*words, *sys.argv[1:]]))


if __name__ == "__main__":
    run()
