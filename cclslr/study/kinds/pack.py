"""Packing a data set: `cclslr pack IMPORTER`, with its options as keys; `source` is its file or folder."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
from pathlib import Path
from typing import Any

from cclslr.datasets.base import importers
from cclslr.errors import ExitCode, UserError
from cclslr.masking.options import mask_options
from cclslr.shards.clip import PackOptions
from cclslr.study.stage import Kind, Settings, Work


def _resolve(settings: Settings, seed: int) -> dict[str, Any]:
    """The command's words, and the options that they mean with all defaults.

    Raises:
        UserError: an option that the importer does not know, or a value that it cannot have.
    """
    settings = dict(settings)
    table = importers()
    name = settings.pop("importer", None)
    if name not in table:
        raise UserError(f"importer is {name!r}; choose one of {', '.join(table)}")
    source = settings.pop("source", None)
    packing: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(PackOptions)}
    packing |= {"masks": False, "mask_options": []}
    of_packing = {key: settings.pop(key) for key in list(settings) if key in packing}
    parser = argparse.ArgumentParser(prog=f"cclslr pack {name}", add_help=False)
    table[name].add_arguments(parser)
    words = [*([] if source is None else [str(source)]), *_flags(settings)]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = vars(parser.parse_args(words))  # some importers set defaults of packing
    except SystemExit:
        raise UserError(said.getvalue().strip().splitlines()[-1]) from None
    return {"words": [name, *words, *_flags(of_packing)], "options": packing | options | of_packing}


def _flags(settings: Settings) -> list[str]:
    """Options of a command line, from keys and values."""
    words = []
    for key, value in settings.items():
        flag = f"--{str(key).replace('_', '-')}"
        if isinstance(value, bool):
            words += [flag] if value else []
        elif value is not None:
            words += [flag, *map(str, value if isinstance(value, list) else [value])]
    return words


def _commands(work: Work) -> list[list[str]]:
    out = ["--out", str(work.folder / "data"), "--workers", str(work.threads)]
    return [["pack", *work.stage.config["words"], *out]]


def _identity(config: dict[str, Any]) -> dict[str, Any]:
    options = dict(config["options"])
    masks = mask_options(options.pop("mask_options")).recorded()  # in full: a default may change
    return {"importer": config["words"][0], "options": options | ({"masks": masks} if options["masks"] else {})}


def _output(folder: Path, config: dict[str, Any]) -> str:
    return str(folder / "data")


KIND = Kind(
    "pack",
    inputs=(),
    resolve=_resolve,
    identity=_identity,
    commands=_commands,
    output=_output,
    scores=lambda folder, config: {},
    fine=(ExitCode.DONE, ExitCode.SOME_BAD),  # its log lists the clips that were rejected
)
