"""What importers say of given lists and folders, as JSON: run it on two checkouts and compare the files.

    PYTHONPATH=CHECKOUT python docs/results/importers/reports.py CASES.txt OUT.json

Each line of CASES.txt is a `cclslr pack` command without `--out`: `wlasl --annotations WLASL --videos videos`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

from cclslr.datasets.base import importers


def report(words: list[str]) -> dict[str, object]:
    importer, parser = importers()[words[0]], argparse.ArgumentParser()
    importer.add_arguments(parser)
    found = importer.load(parser.parse_args(words[1:]))
    lists = {name: getattr(found.report, name) for name in ("missing", "duplicates", "rejected")}
    rows = [repr(row) for row in found.rows]
    return {"report": found.report.to_json(), **lists, "classes": found.classes, "rows": rows}


cases, out = map(Path, sys.argv[1:3])
lines = cases.read_text().splitlines()
out.write_text(json.dumps({line: report(shlex.split(line)) for line in lines}, indent=1, ensure_ascii=False))
