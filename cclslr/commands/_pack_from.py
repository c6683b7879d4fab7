"""`cclslr pack --from`: packed sets dealt anew, or made one, or given smaller sizes."""

from __future__ import annotations

import argparse

from cclslr.commands._pack_arguments import add_smaller, add_workers, check_workers
from cclslr.commands._pack_report import show_result, show_reused
from cclslr.shards import reshard
from cclslr.shards.clip import PackOptions


def from_packed(argv: list[str]) -> int:
    """The command; returns its exit code."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="cclslr pack", description=reshard.__doc__, formatter_class=raw)
    parser.add_argument("--from", dest="sources", nargs="+", required=True, metavar="SET", help="packed sets, or URLs")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder or URL of the new set")
    per_shard = PackOptions().clips_per_shard
    parser.add_argument("--clips-per-shard", type=int, default=per_shard, metavar="N", help=f"default {per_shard}")
    add_smaller(parser)
    parser.add_argument("--prefix", action="store_true", help="put the name of its set before each key")
    add_workers(parser)
    args = parser.parse_args(argv)
    check_workers(args)
    result = reshard.reshard(
        args.sources,
        args.out,
        args.clips_per_shard,
        smaller=args.smaller,
        prefix=args.prefix,
        workers=args.workers,
        scheduler=args.scheduler,
    )
    show_reused(result)
    return show_result(result, args.out)
