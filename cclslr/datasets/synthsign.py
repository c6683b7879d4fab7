"""SynthSign as an importer: the data set that makes itself."""

from __future__ import annotations

import argparse

from cclslr.datasets.base import Import, Importer
from cclslr.datasets.lists import Ledger
from cclslr.datasets.synthetic import SynthOptions, manifest
from cclslr.datasets.synthetic.signs import sign


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cclslr pack synthetic`; the frames are rendered at --size."""
    default = SynthOptions()
    three = ("TRAIN", "VAL", "TEST")
    parser.add_argument("--classes", type=int, default=default.classes, help=f"default {default.classes}")
    parser.add_argument(
        "--twins", type=int, metavar="PAIRS",
        help="pairs of classes that differ by handshape, mouth or a fine movement alone (default: all classes)",
    )  # fmt: skip
    parser.add_argument(
        "--clips-per-class", type=int, nargs=3, metavar=three, default=default.clips_per_class,
        help=f"default {' '.join(map(str, default.clips_per_class))}",
    )  # fmt: skip
    parser.add_argument(
        "--signers", type=int, nargs=3, metavar=three, default=default.signers,
        help=f"disjoint between the splits; default {' '.join(map(str, default.signers))}",
    )  # fmt: skip
    parser.add_argument(
        "--frames", type=int, nargs=2, metavar=("SHORTEST", "LONGEST"), default=default.frames,
        help=f"default {' '.join(map(str, default.frames))}",
    )  # fmt: skip
    parser.add_argument("--noise", type=float, default=1.0, help="factor on the errors of the keypoints (default 1)")
    parser.add_argument(
        "--drop-out", type=float, default=1.0, help="factor on the rate at which the estimator loses a hand (default 1)"
    )
    parser.add_argument(
        "--no-video", action="store_true", help="keypoints alone: for the pose branch, packed in no time"
    )
    parser.add_argument("--seed", type=int, default=default.seed, help=f"default {default.seed}")
    # It is rendered as large as it is packed: no crop to make, nothing to enlarge.
    parser.set_defaults(crop="none", size=default.size)


def load(args: argparse.Namespace) -> Import:
    """List the clips.

    Raises:
        UserError: options out of range.
    """
    options = SynthOptions(
        classes=args.classes,
        twins=args.twins,
        clips_per_class=tuple(args.clips_per_class),
        signers=tuple(args.signers),
        size=args.size,
        frames=tuple(args.frames),
        seed=args.seed,
        noise=args.noise,
        drop_out=args.drop_out,
        video=not args.no_video,
    )
    ledger = Ledger(conventions={"seed": str(options.seed), "signers": "disjoint between the splits"})
    for row in manifest(options):
        assert row.label is not None
        ledger.count(row.split, row.label)
        ledger.rows.append(row)
    return ledger.finish(len(ledger.rows), [sign(number).gloss for number in options.signs])


IMPORTER = Importer(
    "synthetic",
    "SynthSign: rendered signers, made from nothing, for tests, demos and measurements",
    add_arguments,
    load,
)
