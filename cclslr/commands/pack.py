"""Pack a data set into shards: videos and keypoints in, tars out.

It begins with a report of what is there and what is missing; --dry-run stops after it. A clip that cannot be used is
listed with its reason in OUT/rejected.csv and the rest goes on; the exit code is then 3. Stopped or killed, the same
command continues where it was. The same input gives the same bytes, whatever the number of workers.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cclslr.cli import command_parser
from cclslr.commands._pack_arguments import add_arguments, check_arguments, pack_options
from cclslr.commands._pack_from import from_packed
from cclslr.commands._pack_report import (
    NO_ESTIMATE,
    estimate_cost,
    show_rejected,
    show_report,
    show_result,
    show_reused,
)
from cclslr.console import console
from cclslr.datasets.base import Import, VideoFile, importers
from cclslr.datasets.estimate import with_files_of
from cclslr.datasets.frames import FrameFolder
from cclslr.datasets.repeat import as_before, command_of
from cclslr.errors import ExitCode, UserError
from cclslr.files import atomic_write, write_json
from cclslr.poses.base import EstimatorOptions, complete
from cclslr.shards.add import add
from cclslr.shards.clip import PackOptions
from cclslr.shards.difference import check_out, compare
from cclslr.shards.format import SPLITS, ManifestRow
from cclslr.shards.info import equal_glosses
from cclslr.shards.keypoint_file import PoseReading
from cclslr.shards.leak_search import evidence, search_rows, shared_signers
from cclslr.shards.pack import NothingPacked, PackReport, pack
from cclslr.shards.place import Place, place_of
from cclslr.shards.rejections import Rejected
from cclslr.shards.sources import read_sources

if TYPE_CHECKING:
    from cclslr.masking.settings import MaskSettings

GROUP, PLACE = "data", 2

MISSING_NAME, DUPLICATES_NAME = "missing.txt", "duplicates.txt"

EXAMPLES = """\
examples:
  cclslr pack synthetic --out shards/synth --classes 20
  cclslr pack folder my_signs --out shards/mine --codec jpeg
  cclslr pack folder my_signs --out shards/mine --estimate mediapipe     videos alone: keypoints are made first
  cclslr pack csv clips.csv --out shards/mine --test-share 0.2 --workers 8
  cclslr pack wlasl --annotations WLASL --videos WLASL/videos --poses poses --subset 300 --out shards/wlasl300
  cclslr pack wlasl --help                     the options of one importer
  cclslr pack msasl ... --dry-run --report msasl.json
  cclslr pack slr500 ... --scheduler tcp://head:8786     on a cluster, see docs/cluster.md
  cclslr pack wlasl ... --out s3://bucket/shards/wlasl   object storage; credentials as fsspec finds them
  cclslr pack folder my_signs --out shards/mine --add    new and mended clips, by the options it was packed with
  cclslr pack --from shards/a --out shards/b --clips-per-shard 1000       packed clips in other shards; --from --help
  cclslr pack --from shards/a --out shards/b --smaller 128                and in a second size, for small views
  cclslr pack --from shards/a shards/b --out shards/ab                    two sets as one, without decoding
"""


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; `given` lists the options that the user wrote."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = command_parser(__name__, __doc__, EXAMPLES)
    commands = parser.add_subparsers(dest="importer", required=True, metavar="importer")
    by_name = {}
    for name, importer in importers().items():
        command = commands.add_parser(name, help=importer.help, description=importer.description, formatter_class=raw)
        add_arguments(command)
        importer.add_arguments(command)
        command.set_defaults(load=importer.load, licence_note=importer.licence)
        by_name[name] = command
    words = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(words)
    # Once more, where every option has a value already: what changes was given.
    absent = argparse.Namespace(**dict.fromkeys(vars(args), _ABSENT))
    by_name[args.importer].parse_args(words[1:], absent)
    args.given = [name for name, value in vars(absent).items() if value is not _ABSENT]
    return args


_ABSENT = object()


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if any(word.split("=")[0] == "--from" for word in words):
        if "--add" in words:
            raise UserError("--from makes a set of packed ones: cclslr pack --from OLD NEW --out BOTH")
        return from_packed(words)
    args = parse(argv)
    place = check_arguments(args)
    masks = mask_settings(args.mask_options) if args.masks else None  # a wrong one is found before hours of packing
    if args.add:
        masks = continue_set(args, masks)
    options = pack_options(args)
    found: Import = args.load(args)
    if args.layout is not None or args.normalised is not None:
        found.rows = read_otherwise(found.rows, args.layout, args.normalised)
    tell_what_is_there(found, options, args, place)
    if args.dry_run:
        tell_what_would_be(found, options, args)
        return ExitCode.DONE
    result = pack_found(found, options, args)
    show_reused(result)
    if masks is not None:
        make_masks(args.out, masks, args.workers, args.scheduler)
    if result.without_keypoints:
        console.print(
            f"{result.without_keypoints:,} clips have no keypoints; training with pose refuses them (--estimate "
            "mediapipe makes keypoints, model.modalities=[rgb] does without)",
            style="yellow", soft_wrap=True,
        )  # fmt: skip
    return show_result(result, args.out)


def tell_what_is_there(found: Import, options: PackOptions, args: argparse.Namespace, place: Place) -> None:
    """Print the report; write what is missing and what is there twice into files beside the set."""
    estimate = NO_ESTIMATE if args.add else estimate_cost(found, options, args.workers)
    show_report(args.importer, found, estimate)
    if (told := equal_glosses(found.classes or [])) is not None:
        console.print(told, style="yellow", soft_wrap=True)
    if args.report:
        write_json(args.report, {**found.report.to_json(), **estimate})
    for what, name, lines in (
        ("missing files", MISSING_NAME, sorted(set(found.report.missing))),
        ("duplicates", DUPLICATES_NAME, found.report.duplicates),
    ):
        if lines:
            with place.writing(name) as folder, atomic_write(folder / name, "w") as file:
                file.writelines(f"{line}\n" for line in lines)
            console.print(f"{what} are listed in {place.name}/{name}", soft_wrap=True)


def tell_what_would_be(found: Import, options: PackOptions, args: argparse.Namespace) -> None:
    """Print, with --dry-run, what the importer rejects and what --add would do."""
    show_rejected(rejected_by_importer(found, args))
    if args.add:
        rows = found.rows if args.estimate is None else with_files_of(found.rows, poses_folder(args))
        difference = compare(args.out, rows, options, found.classes, drop_gone=args.drop_gone)
        console.print("\n".join(difference.lines()), soft_wrap=True)


def rejected_by_importer(found: Import, args: argparse.Namespace) -> list[Rejected]:
    """What does not become a clip."""
    return [Rejected("", reason, args.importer) for reason in found.report.rejected]


def pack_found(found: Import, options: PackOptions, args: argparse.Namespace) -> PackReport:
    """Pack what an importer found, without leaks and with keypoints where that is asked for.

    Raises:
        UserError: there is nothing to pack.
    """
    refused, rows = rejected_by_importer(found, args), found.rows
    here = {row.key for row in rows}
    if args.drop_leaks:
        rows, leaks = without_leaks(rows, args.workers, args.scheduler)
        refused += leaks
    if not rows:
        show_rejected(refused)
        raise UserError("no clip to pack; see the report above")
    if args.estimate is not None:
        rows, failed = estimate_keypoints(rows, args)
        refused += failed
    common: dict[str, Any] = {
        "workers": args.workers,
        "scheduler": args.scheduler,
        "settings": {"importer": args.importer, "conventions": found.report.conventions},
        "rejected": refused,
        "command": command_of(args),
    }
    try:
        if args.add:
            difference = compare(args.out, rows, options, found.classes, found=here, drop_gone=args.drop_gone)
            console.print("\n".join(difference.lines()), soft_wrap=True)
            return add(difference, options, **common)
        return pack(rows, args.out, options, classes=found.classes, **common)
    except NothingPacked as error:
        show_rejected(error.rejected)
        raise


def read_otherwise(rows: list[ManifestRow], layout: str | None, normalised: list[int] | None) -> list[ManifestRow]:
    """The rows with keypoint files in another layout, or of fractions.

    Raises:
        UserError: a size that is none, or clips whose keypoints are in no files.
    """
    if normalised and (len(normalised) != 2 or min(normalised) < 1):
        raise UserError("--normalised takes nothing, or WIDTH HEIGHT of the frames of clips without video")
    size = (normalised[0], normalised[1]) if normalised else None
    reading = PoseReading(layout, normalised is not None, size)
    if not all(isinstance(row.source, VideoFile | FrameFolder) for row in rows):
        raise UserError("--layout and --normalised are for keypoint files; this data set has its own")
    return [replace(row, source=replace(row.source, reading=reading)) for row in rows]  # type: ignore[type-var]


def without_leaks(
    rows: list[ManifestRow], workers: int, scheduler: str | None
) -> tuple[list[ManifestRow], list[Rejected]]:
    """The rows less those that are the same take as a clip of another split; test clips stay, then those of val."""
    search = search_rows(rows, workers, scheduler)
    dropped: dict[int, Rejected] = {}
    for leak in search.leaks:
        drop, stay = sorted((leak.first, leak.second), key=lambda clip: SPLITS.index(search.clips[clip].split))
        kept = search.clips[stay]
        reason = f"the same take as a clip to {kept.split} on: {kept.name}, {evidence(leak)}"
        dropped.setdefault(drop, Rejected(rows[drop].key, reason, "--drop-leaks"))
    console.print(f"{len(dropped):,} clips are the same take as one of another split and are left out")
    if shared := shared_signers(search.clips):
        console.print(f"{len(shared):,} signers train and are tested or validated on", soft_wrap=True)
    return [row for number, row in enumerate(rows) if number not in dropped], list(dropped.values())


def estimate_keypoints(rows: list[ManifestRow], args: argparse.Namespace) -> tuple[list[ManifestRow], list[Rejected]]:
    """The rows with keypoints; what was estimated lies beside the data set, and is not estimated again."""
    from cclslr.datasets.estimate import with_keypoints

    options = complete(EstimatorOptions(backend=args.estimate))
    return with_keypoints(rows, poses_folder(args), options, args.workers, args.scheduler)


def poses_folder(args: argparse.Namespace) -> Path:
    """Where estimated keypoints are kept."""
    return Path(args.out).with_name(f"{Path(args.out).name}.poses")


def continue_set(args: argparse.Namespace, masks: MaskSettings | None) -> MaskSettings | None:
    """Give `args` the options of the set that is added to; returns how its masks are made, where it has any.

    Raises:
        UserError: there is no set, or it was packed otherwise than this command says.
    """
    info = check_out(args.out)
    for line in as_before(args, args.given, read_sources(place_of(args.out)).command, info):
        console.print(line, style="yellow", soft_wrap=True)
    if (recorded := info["masks"]) is None:
        return masks
    if masks is None or not args.mask_options:
        from cclslr.masking.options import settings_of

        masks = settings_of(recorded)
    elif masks.recipe() != recorded["recipe"]:
        raise UserError(
            f"{args.out} has masks by {recorded['options']}, --mask-options says others: leave them out, and make all "
            f"masks anew with cclslr masks {args.out}"
        )
    if masks is None:
        console.print(
            f"the masks of {args.out} are of another flow than the shipped one: make those of new clips afterwards, "
            f"with cclslr masks {args.out} --flow FILE",
            style="yellow", soft_wrap=True,
        )  # fmt: skip
    return masks


# Imported within: the worker processes import this file too, and most of them make no masks.
def mask_settings(words: list[str]) -> MaskSettings:
    """Masks on this machine's processors, with the shipped flow, by options like `method=flow`."""
    import torch

    from cclslr.masking.options import mask_options, with_flow

    return with_flow(mask_options(words), torch.device("cpu"))


def make_masks(out: str, settings: MaskSettings, workers: int, scheduler: str | None) -> None:
    """Give every clip its mask."""
    import torch

    from cclslr.distributed import Process
    from cclslr.masking import rewrite

    rewrite.make_masks(out, settings, workers, Process(0, 1, torch.device("cpu")), scheduler)
