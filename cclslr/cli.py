"""The command lines of commands and of the programs that a config describes."""

from __future__ import annotations

import argparse
from typing import Any

from cclslr.config import Config, load_config


def command_parser(module: str, doc: str | None, epilog: str | None = None) -> argparse.ArgumentParser:
    """The parser of a command, under the name that people call it by.

    Args:
        module: `__name__` of the command's module, e.g. cclslr.commands.bench.loader for `cclslr bench loader`.
        doc: the module's docstring; --help shows it as it is written.
        epilog: shown below the options, e.g. examples.
    """
    program = " ".join(word for word in module.split(".") if word != "commands")
    return argparse.ArgumentParser(
        prog=program, description=doc, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def config_from_command_line(module: str, kind: type[Config], doc: str | None, argv: list[str] | None = None) -> Config:
    """Parse `--config FILE key=value…` into a `kind`; `--help` shows `doc` and every key with its default."""
    parser = command_parser(module, doc, _keys(kind()))
    parser.add_argument("--config", metavar="FILE", help="YAML file, see configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override one key, e.g. optim.batch=128")
    args = parser.parse_intermixed_args(argv)
    return load_config(kind, args.config, args.overrides)


def _keys(default: Any) -> str:
    lines = ["keys and their defaults (what they mean: cclslr/config.py):"]

    def walk(node: Any, prefix: str) -> None:
        for name, value in vars(node).items():
            if hasattr(value, "__dataclass_fields__"):
                walk(value, f"{prefix}{name}.")
            else:
                lines.append(f"  {prefix}{name}={value}")

    walk(default, "")
    return "\n".join(lines)
