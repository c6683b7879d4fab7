"""Write a packed data set as one FFCV file, for data.backend=ffcv."""

from __future__ import annotations

from cclslr.cli import command_parser
from cclslr.console import console
from cclslr.data.beton import write_beton

GROUP, PLACE = "data", 9

EXAMPLES = """\
examples:
  cclslr beton shards/wlasl300                     writes shards/wlasl300/dataset.beton
  cclslr beton shards/wlasl300 --workers 8
  torchrun -m cclslr.train data.shards=[shards/wlasl300] data.backend=ffcv

The file holds JPEG frames, whatever the codec of the shards: five times the bytes of H.264. It pays where all of it
fits into memory and there are cores to spare for decoding. The index and labels stay those of the shards, which must
remain where they are; write the file again after packing again.
"""


def main(argv: list[str] | None = None) -> int:
    parser = command_parser(__name__, __doc__, EXAMPLES)
    parser.add_argument("shards", metavar="DIR", help="folder of the packed data set")
    parser.add_argument(
        "--quality", type=int, default=None, metavar="Q", help="of JPEG, where the shards hold video (default 85)"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default 1)")
    args = parser.parse_args(argv)

    path = write_beton(args.shards, args.quality, args.workers)
    console.print(f"{path}: {path.stat().st_size / 1e6:,.1f} MB")
    return 0
