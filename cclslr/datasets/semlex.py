"""Sem-Lex: 3,149 signs of American Sign Language, produced freely by 41 signers (Kezar et al., ASSETS 2023).

The benchmark's signs are the rows of label type `asllex`; the others carry words that people typed. The same video is
in the list more than once, in some cases in two splits: the first row counts, and the report names the others.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from cclslr.datasets.base import Import, Importer
from cclslr.datasets.engine import Listed, Published, bare_name, import_listed, number_words
from cclslr.datasets.lists import Ledger, clean_key, read_table
from cclslr.datasets.media import Media
from cclslr.errors import UserError
from cclslr.shards.format import SPLITS

PUBLISHED = Published("Sem-Lex", {}, classes=3_149)
ROWS, IDS = 91_148, 88_174  # of the whole list
COLUMNS = ("video_id", "signer_id", "split", "label_type", "label")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cclslr pack semlex`."""
    parser.add_argument("--annotations", required=True, metavar="FILE", help="semlex_metadata.csv, or its folder")
    Media.add_arguments(parser, "folder of <video_id>.webm or .mp4, in any subfolder", "folder of <video_id>.npz")
    parser.add_argument(
        "--label-types", nargs="+", default=["asllex"], metavar="TYPE", help="which rows to take (default asllex)"
    )


def load(args: argparse.Namespace) -> Import:
    """Read the list, find the videos.

    Raises:
        UserError: no list, one without the columns or without such rows, or a folder that is not there.
    """
    path = Path(args.annotations)
    path = path / "semlex_metadata.csv" if path.is_dir() else path
    ledger, rows, ids = Ledger(), [], set()
    types: Counter[str] = Counter()
    table = read_table(path, COLUMNS, ledger)
    for where, row in table:
        video, split, kind = bare_name(row["video_id"]), row["split"].lower(), row["label_type"]
        types[kind] += 1
        ids.add(video)
        if kind not in args.label_types:
            continue
        if not video or not row["label"] or split not in SPLITS:
            ledger.reject(where, f"video {video!r}, label {row['label']!r}, split {split!r}: one of them is none")
            continue
        rows.append(Listed(where, clean_key(video), row["label"], split, row["signer_id"] or None, (video,)))
    if not rows and not ledger.rejected:
        raise UserError(f"{path}: no row of type {', '.join(args.label_types)}; it has {', '.join(sorted(types))}")
    counts = ", ".join(f"{kind or 'none'} {count:,}" for kind, count in types.most_common(6))
    ledger.conventions["label types"] = f"{', '.join(args.label_types)}; the list has {counts}"
    whole = "as published" if (len(table), len(ids)) == (ROWS, IDS) else f"published: {ROWS:,} and {IDS:,}"
    ledger.notes.append(f"Sem-Lex: the list has {len(table):,} rows of {len(ids):,} videos, {whole}")
    numbered, classes = number_words(rows, ledger)
    return import_listed(args, ledger, numbered, classes, PUBLISHED)


IMPORTER = Importer(
    "semlex", "the Sem-Lex Benchmark from semlex_metadata.csv and <video_id> files", add_arguments, load,
    licence="Sem-Lex: CC BY-NC-SA; see the licence that came with the download",
)  # fmt: skip
