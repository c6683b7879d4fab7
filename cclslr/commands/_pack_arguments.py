"""What `cclslr pack` takes on its command line, whatever the importer."""

from __future__ import annotations

import argparse

from cclslr.codecs import codecs
from cclslr.errors import UserError
from cclslr.poses.base import backends
from cclslr.shards.clip import PackOptions
from cclslr.shards.crop import CROPS
from cclslr.shards.layouts import LAYOUTS
from cclslr.shards.place import FolderPlace, Place, place_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that all importers have."""
    default = PackOptions()
    group = parser.add_argument_group("packing")
    group.add_argument(
        "--out", required=True, metavar="DIR", help="folder or URL of the packed data set, e.g. shards/mine"
    )
    group.add_argument(
        "--codec", choices=codecs(), default=default.codec,
        help="; ".join(f"{codec.name}: {codec.about}" for codec in codecs().values()) + f" (default {default.codec})",
    )  # fmt: skip
    group.add_argument(
        "--size", type=int, default=default.size, help=f"pixels of the square, or of the short side ({default.size})"
    )
    add_smaller(group)
    group.add_argument(
        "--crop", choices=CROPS, default=default.crop,
        help="signer: one square a clip around the keypoints; none: the whole frame (default signer)",
    )  # fmt: skip
    group.add_argument("--quality", type=int, help="JPEG quality, or crf of the other codecs (default: the codec's)")
    group.add_argument(
        "--clips-per-shard", type=int, default=default.clips_per_shard, help=f"default {default.clips_per_shard}"
    )
    group.add_argument("--allow-unlabelled", action="store_true", help="clips without a label are packed, not rejected")
    group.add_argument(
        "--licence-note", default="", metavar="TEXT", help="kept in dataset.json and the data set's card"
    )
    add_workers(group)
    group.add_argument(
        "--masks", action="store_true", help="add motion-preserving masks, by the defaults of cclslr masks"
    )
    group.add_argument(
        "--mask-options", nargs="+", default=[], metavar="KEY=VALUE",
        help="of --masks, where they differ: options of cclslr masks, e.g. method=flow threshold=absolute",
    )  # fmt: skip
    group.add_argument(
        "--estimate", choices=backends(), metavar="BACKEND",
        help=f"estimate the keypoints of clips that have none, by {' or '.join(backends())}; kept in OUT.poses",
    )  # fmt: skip
    group.add_argument(
        "--layout", choices=tuple(LAYOUTS), metavar="NAME",
        help=f"of the keypoint files, where it is not the 133: {', '.join(LAYOUTS)} (docs/keypoints.md)",
    )  # fmt: skip
    group.add_argument(
        "--normalised", type=int, nargs="*", metavar="PIXELS",
        help="keypoint files have fractions of the frame; of clips without video, of a frame of WIDTH HEIGHT",
    )  # fmt: skip
    group.add_argument(
        "--drop-leaks", action="store_true",
        help="leave out of train (or val) what is the same take as a clip of another split; decodes every clip twice",
    )  # fmt: skip
    group.add_argument(
        "--add", action="store_true",
        help="take new and mended clips into the set that is in --out, by the options that it was packed with",
    )  # fmt: skip
    group.add_argument(
        "--drop-gone", action="store_true", help="of --add: clips of the set that are not found now are taken out"
    )
    group.add_argument("--report", metavar="FILE", help="write the report as JSON")
    group.add_argument("--dry-run", action="store_true", help="stop after the report")


def add_smaller(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """The sizes that clips have besides the full one."""
    parser.add_argument(
        "--smaller", type=int, nargs="+", default=[], metavar="PIXELS",
        help="each video in these sizes too, e.g. 128: small views are read and decoded faster (docs/throughput.md)",
    )  # fmt: skip


def add_workers(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Where the work is done."""
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes on this machine (default 1)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="dask.distributed scheduler to use instead")


def check_workers(args: argparse.Namespace) -> None:
    """Raises UserError where there are none."""
    if args.workers < 1:
        raise UserError(f"--workers is {args.workers}; choose at least 1")


def check_arguments(args: argparse.Namespace) -> Place:
    """Where the set is to lie, after a look at options that do not go together.

    Raises:
        UserError: such options.
    """
    check_workers(args)
    if args.mask_options and not args.masks:
        raise UserError("--mask-options says how masks are made, so it needs --masks")
    if args.drop_gone and not args.add:
        raise UserError("--drop-gone says what becomes of a set's clips that are gone, so it needs --add")
    place = place_of(args.out)
    if not isinstance(place, FolderPlace) and (args.masks or args.estimate or args.add):
        raise UserError(
            "--masks, --estimate and --add work on a folder of this machine: pack into one, then cclslr pack --from "
            f"FOLDER --out {args.out}"
        )
    return place


def pack_options(args: argparse.Namespace) -> PackOptions:
    """How clips are to be packed."""
    return PackOptions(
        codec=args.codec,
        size=args.size,
        crop=args.crop,
        quality=args.quality,
        clips_per_shard=args.clips_per_shard,
        allow_unlabelled=args.allow_unlabelled,
        licence_note=args.licence_note,
        smaller=tuple(sorted(set(args.smaller), reverse=True)),
    )
