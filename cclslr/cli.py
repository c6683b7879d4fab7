"""The command lines of commands and of the programs that a config describes."""

from __future__ import annotations

import argparse
import dataclasses
import textwrap
import typing
from types import NoneType
from typing import Any

from cclslr.config import Config, load_config
from cclslr.keys import get, list_keys, show

WIDTH = 79  # of help texts


def command_parser(module: str, doc: str | None, epilog: str | None = None) -> argparse.ArgumentParser:
    """The parser of a command, under the name that people call it by.

    Args:
        module: `__name__` of the command's module, e.g. cclslr.commands.bench.loader for `cclslr bench loader`.
        doc: the module's docstring; --help shows it, with its prose cut to the width of a terminal.
        epilog: shown below the options, e.g. examples.
    """
    program = " ".join(word for word in module.split(".") if word != "commands")
    return argparse.ArgumentParser(
        prog=program,
        description=_reflow(doc or ""),
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _reflow(text: str) -> str:
    """Prose cut to `WIDTH` columns; paragraphs with indented lines or columns stay as they are."""
    paragraphs = text.strip().split("\n\n")
    kept = [any(line.startswith(" ") or "   " in line for line in p.splitlines()) for p in paragraphs]
    return "\n\n".join(p if keep else textwrap.fill(p, WIDTH) for p, keep in zip(paragraphs, kept))


def config_from_command_line(
    module: str,
    kind: type[Config],
    doc: str | None,
    argv: list[str] | None = None,
    stored: dict[str, Any] | None = None,
) -> Config:
    """Parse `--config FILE key=value…` into a `kind`; `--help` shows `doc` and every key: default, values, meaning.

    `stored` takes the place of defaults, as in `load_config`.
    """
    parser = command_parser(module, doc, describe_keys(kind))
    parser.add_argument("--config", metavar="FILE", help="YAML file, or the name of one of configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override one key, e.g. optim.batch=128")
    args = parser.parse_intermixed_args(argv)
    return load_config(kind, args.config, args.overrides, stored)


def describe_keys(kind: Any) -> str:
    """Every key of a config, two lines each, in sections: default and values that it may have, then its meaning."""
    lines = ["keys, their defaults and the values that they may have:"]
    section = None
    for key in list_keys(kind):
        name = key.name.rpartition(".")[0]
        if name != section:
            section = name
            title = (get(kind(), name).__doc__ if name else None) or "The rest"
            lines += ["", *textwrap.wrap(f"{name or 'no section'}: {title}", WIDTH)]
        values = key.choice_text or " ".join(filter(None, (_type_text(key.kind), key.range_text)))
        head = f"  {key.name}={show(key.default)}"
        lines += [head, f"{'':<36}{values}"] if len(head) > 35 else [f"{head:<36}{values}"]
        lines += textwrap.wrap(key.meaning, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
        for part in key.parts:
            indent = " " * 12
            head, values = f"{' ' * 8}{part.name}:", " ".join((_type_text(part.kind), part.range_text))
            lines.append(f"{head:<36}{values}")
            lines += textwrap.wrap(part.meaning, WIDTH, initial_indent=indent, subsequent_indent=indent)
    return "\n".join(lines)


def _type_text(kind: Any) -> str:
    """A type annotation in words."""
    words = {int: "whole number", float: "number", str: "text", bool: "true or false", NoneType: "null"}
    if kind in words:
        return words[kind]
    if dataclasses.is_dataclass(kind):
        return "{key: value} pair"
    arguments = [_type_text(argument) for argument in typing.get_args(kind)]
    if typing.get_origin(kind) is list:
        return f"list of {arguments[0]}s"
    if typing.get_origin(kind) is tuple:
        return f"[{', '.join(arguments)}]"
    return " or ".join(reversed(arguments))
