"""What do damaged data sets do to training?

Thousands of random corruptions of small data sets, each read in a process of its own with a limit of time, by every
codec and backend.

    cclslr study faults --trials 3000 --out docs/results/faults

Half of the trials change one file (tar, .idx, index, its columns, dataset.json, .beton). The others are hostile: a
clip, a row of the index or dataset.json is changed, and all checksums are made to fit. Two epochs are read, of hostile
sets twice, with new memory filled with other bytes; what came out is one of

named        refused, in one line that a user can act on
substituted  bad clips were named, and the stream is the one that the good clips alone give
same         the stream is that of the undamaged set
accepted     hostile only: the changed clip is a valid one, and no other differs
silent       the stream differs, and nothing says so; or it holds what is not finite, or foreign memory
fatal        an error that is ours, or the process died
hanging      no end within the limit

A trial is a pure function of the seed and its number. A run that is begun again goes on.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import io
import itertools
import json
import multiprocessing
import re
import shutil
import tempfile
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cclslr.bench.damage import Damage, damage_a_file, damage_on_purpose, has_beton
from cclslr.cli import command_parser
from cclslr.codecs import codecs
from cclslr.config import DataConfig, ViewConfig
from cclslr.console import console
from cclslr.data.beton import check_beton, write_beton
from cclslr.data.loader import Loader
from cclslr.data.plan import Plan
from cclslr.datasets.synthetic import SynthOptions, manifest
from cclslr.distributed import Process
from cclslr.environment import describe
from cclslr.errors import UserError
from cclslr.files import atomic_write, read_json
from cclslr.masking.methods import MpmOptions
from cclslr.masking.rewrite import make_masks
from cclslr.masking.settings import MaskSettings
from cclslr.shards.clip import PackOptions
from cclslr.shards.pack import pack
from cclslr.shards.reader import ShardSet
from cclslr.shards.verify import check_shard, plan_checks

OUTCOMES = ("named", "substituted", "same", "accepted", "silent", "fatal", "hanging")
BATCH, SEED = 4, 3
VIEWS = ViewConfig(rgb_frames=4, pose_frames=6, size=32, mask_alpha=0.5)
FILLS = (0x01, 0xAA)  # what glibc fills new memory with, in the two readings of a set
_M_PERTURB = -6  # mallopt's number for that


@dataclasses.dataclass(frozen=True)
class Way:
    """One way from shards to batches."""

    codec: str
    backend: str
    decode: str


@dataclasses.dataclass
class Stream:
    """What two epochs gave."""

    batches: list[list[tuple[int, int, int]]]  # clip id, label, CRC-32 of the views
    quarantined: dict[int, str]
    finite: bool


def list_ways(sets: Path) -> list[Way]:
    """Every codec by every backend and decoder that takes it on a CPU."""
    ways = [Way(name, "numba", "auto") for name in codecs()] + [Way(name, "dali", "libav") for name in codecs()]
    ways += [Way(name, "dali", "dali") for name, codec in codecs().items() if codec.dali_cpu]
    return ways + [Way(name, "ffcv", "auto") for name in codecs() if has_beton(sets / name)]


def make_sets(out: Path) -> None:
    """A small data set with masks for each codec, and its .beton where FFCV is installed."""
    options = SynthOptions(classes=3, clips_per_class=(4, 0, 0), signers=(2, 1, 1), size=64, frames=(8, 12))
    for name, codec in codecs().items():
        if (out / name / "dataset.json").exists():
            continue
        pack(manifest(options), out / name, PackOptions(name, 64, "none", clips_per_shard=6), workers=0)
        alone = Process(0, 1, torch.device("cpu"))
        make_masks(out / name, MaskSettings(MpmOptions(method="temporal_std")), 0, alone)
        if codec.alone:
            with contextlib.suppress(UserError), contextlib.redirect_stderr(io.StringIO()):  # FFCV's progress bar
                write_beton(out / name)


def read_stream(folder: Path, way: Way, bad: frozenset[int] = frozenset()) -> Stream:
    """Two epochs of a data set, without the clips `bad`."""
    cfg = DataConfig(shards=[str(folder)], workers=1, prefetch=2, max_bad_share=1.0)
    cfg.backend, cfg.decode = way.backend, way.decode
    shards = ShardSet(cfg.shards, "train")
    plan = Plan.for_training(shards, cfg, BATCH, SEED)
    process = Process(0, 1, torch.device("cpu"))
    stream = Stream([], {}, True)
    loader = Loader(cfg, VIEWS, shards, plan, process, ("rgb", "pose"), SEED)
    loader.quarantine.reasons.update(dict.fromkeys(bad, "left out"))
    with loader.start():
        for _ in range(2 * plan.batches_per_epoch):
            batch = next(loader)
            ids, labels = batch.clip_ids_B.tolist(), batch.labels_B.tolist()
            stream.batches.append(list(zip(ids, labels, loader.batch_hashes(batch), strict=True)))
            assert batch.pose_VBTJC is not None
            stream.finite = stream.finite and bool(torch.isfinite(batch.pose_VBTJC).all())
            assert all(-1 <= label < len(shards.classes) for label in labels), "a label that is no class"
        stream.quarantined = loader.quarantine.found()
    return stream


def judge(whole: Stream, sets: Path, folder: Path, way: Way, damage: Damage, hostile: bool) -> tuple[str, str]:
    """One of `OUTCOMES`, and why; `whole` is the stream of the undamaged set."""
    streams = []
    for fill in FILLS if hostile else FILLS[:1]:  # checksums that differ are found before anything is computed
        ctypes.CDLL(None).mallopt(_M_PERTURB, fill)
        try:
            streams.append(read_stream(folder, way))
        except (UserError, OSError) as error:
            return "named", str(error).splitlines()[0][:200]
        finally:
            ctypes.CDLL(None).mallopt(_M_PERTURB, 0)
    stream, again = streams[0], streams[-1]
    reasons = "; ".join(stream.quarantined.values())[:200]
    if stream.batches != again.batches:
        return "silent", "foreign memory: two readings differ"
    if not stream.finite:
        return "silent", "not all poses are finite"
    if stream.batches == whole.batches:
        return "same", reasons
    rows = ShardSet([str(folder)], "train").rows
    changed = {number for number, row in enumerate(rows) if row.key in damage.victims}
    rest = read_stream(sets / way.codec, way, frozenset(stream.quarantined)) if stream.quarantined else whole
    if len(stream.batches) == len(whole.batches):
        entries = (itertools.chain(*batches) for batches in (stream.batches, whole.batches, rest.batches))
        # A clip of which some frames decode is shown until others are wanted.
        if all(mine == good or (mine[0] in changed and mine[0] == theirs[0]) for mine, theirs, good in zip(*entries)):
            return ("substituted", reasons) if stream.quarantined else ("accepted", damage.how)
    if hostile and damage.target == "info" and len(stream.batches) != len(whole.batches):
        return "accepted", "another number of batches"
    return "silent", f"the stream differs ({reasons or 'nothing said'})"


def check(folder: Path) -> str:
    """What `cclslr check --decode` says: found | refused | nothing."""
    try:
        tasks, faults = plan_checks(folder, decode=True)
        for task in tasks:
            faults += check_shard(task).faults
        if has_beton(folder):
            faults += check_beton(folder)
    except (UserError, OSError):
        return "refused"
    return "found" if faults else "nothing"


def trial(number: int, seed: int, whole: Stream, sets: Path, way: Way, pipe: Connection) -> None:
    """Damage a copy of a data set, read it and check it; in a process of its own."""
    console.quiet = True
    rng = np.random.default_rng((seed, number))
    hostile = bool(number % 2)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "set"
        shutil.copytree(sets / way.codec, folder)
        damage = damage_on_purpose(folder, rng, way.backend == "ffcv") if hostile else damage_a_file(folder, rng)
        pipe.send(dataclasses.asdict(damage))
        try:
            outcome, why = judge(whole, sets, folder, way, damage, hostile)
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            outcome, why = "fatal", f"{type(error).__name__}: {error} ({Path(at.filename).name}:{at.lineno})"[:300]
        pipe.send((outcome, why))
        try:
            pipe.send(check(folder))
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            pipe.send(f"fatal: {type(error).__name__}: {error} ({Path(at.filename).name}:{at.lineno})"[:300])


def run_trial(
    context: Any, number: int, seed: int, whole: Stream, sets: Path, way: Way, limit: float
) -> dict[str, Any]:
    """A trial, its end awaited for `limit` seconds."""
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=trial, args=(number, seed, whole, sets, way, theirs))
    process.start()
    theirs.close()
    told: list[Any] = []
    with contextlib.suppress(EOFError):
        while len(told) < 3 and mine.poll(limit):
            told.append(mine.recv())
    process.join(5 if len(told) == 3 else 0.1)
    alive = process.is_alive()
    if alive:
        process.kill()
        process.join()
    lost = ("hanging", f"after {limit:.0f} s") if alive else ("fatal", f"exit code {process.exitcode}")
    damage = told[0] if told else {}
    outcome, why = told[1] if len(told) > 1 else lost
    why = re.sub(r"\S*/set/", "", why)  # the scratch folder
    checked = told[2] if len(told) > 2 else ": ".join(lost) if len(told) == 2 else "not reached"
    return {
        "trial": number, "hostile": bool(number % 2), **dataclasses.asdict(way),
        "target": damage.get("target", "?"), "how": damage.get("how", "?"),
        "outcome": outcome, "why": why, "check": checked,
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """The counts as Markdown: what was damaged by what came of it, and the same by way."""
    lines = []
    for title, group in (
        ("damaged", lambda row: f"{'hostile' if row['hostile'] else 'random'}: {row['target']}"),
        ("way", lambda row: f"{row['codec']}, {row['backend']}, {row['decode']}"),
    ):
        lines += [f"| {title} | trials | {' | '.join(OUTCOMES)} |", "|---" * (len(OUTCOMES) + 2) + "|"]
        counts: dict[str, Counter[str]] = {}
        for row in rows:
            counts.setdefault(group(row), Counter())[row["outcome"]] += 1
        for name, count in [*sorted(counts.items()), ("all", sum(counts.values(), Counter()))]:
            lines.append(f"| {name} | {count.total()} | {' | '.join(str(count[o]) for o in OUTCOMES)} |")
        lines.append("")
    checks = Counter(row["check"] if ":" not in row["check"] else "fatal" for row in rows if not row["hostile"])
    said = ", ".join(f"{number} {what}" for what, number in sorted(checks.items()))
    lines.append(f"`cclslr check --decode` on the random ones: {said}.")
    return "\n".join(lines) + "\n"


def write(out: Path, seed: int, rows: list[dict[str, Any]]) -> None:
    """faults.json, a line a trial, and its table."""
    with atomic_write(out / "faults.json", "w") as file:
        head = json.dumps({"seed": seed, "environment": describe()})[:-1]
        file.write(head + ', "rows": [\n' + ",\n".join(json.dumps(row) for row in rows) + "\n]}\n")
    with atomic_write(out / "README.md", "w") as file:
        file.write(
            "# Damaged data sets\n\n`cclslr study faults`; what the words mean: `cclslr study faults --help`.\n\n"
        )
        file.write(table(rows))


def main(argv: list[str] | None = None) -> int:
    parser = command_parser(__name__, __doc__)
    parser.add_argument("--trials", type=int, default=3000, help="(default 3000)")
    parser.add_argument("--seed", type=int, default=0, help="(default 0)")
    parser.add_argument("--limit", type=float, default=120, metavar="S", help="seconds without news (default 120)")
    parser.add_argument("--out", type=Path, default=Path("runs/faults"), help="folder (default runs/faults)")
    parser.add_argument("--work", type=Path, help="folder for the data sets (default: a temporary one)")
    parser.add_argument("--only", type=int, nargs="*", metavar="N", help="these trials again, printed")
    args = parser.parse_args(argv)

    path = args.out / "faults.json"
    rows = read_json(path)["rows"] if path.exists() and not args.only else []
    context = multiprocessing.get_context("fork")  # from here, where kernels are compiled and no thread runs
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        sets = args.work or Path(scratch)
        make_sets(sets)
        ways = list_ways(sets)
        wholes = [read_stream(sets / way.codec, way) for way in ways]
        done = {row["trial"] for row in rows}
        numbers = args.only or [number for number in range(args.trials) if number not in done]
        for number in numbers:
            at = number // 2 % len(ways)
            row = run_trial(context, number, args.seed, wholes[at], sets, ways[at], args.limit)
            rows.append(row)
            if args.only or row["outcome"] in ("silent", "fatal", "hanging") or ":" in row["check"]:
                console.print(str(row))
            if not args.only and (len(rows) % 50 == 0 or number == numbers[-1]):
                write(args.out, args.seed, rows)
                console.print(f"{len(rows)} trials")
    bad = Counter(row["outcome"] for row in rows)
    console.print(", ".join(f"{bad[outcome]} {outcome}" for outcome in OUTCOMES))
    return int(bad["silent"] + bad["fatal"] + bad["hanging"] > 0)
