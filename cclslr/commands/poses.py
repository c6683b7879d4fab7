"""Estimate the whole-body keypoints of videos, 133 a frame.

Writes OUT/<name>.npz for each clip: `keypoints` float32 (T, 133, 3), x and y in pixels of the source, confidence; and
`estimator`, `version`, `fps`. Beside them summary.json (detection rates by part) and check.csv (clips in which a part
was found in too few frames, and clips that failed). A clip whose file is there is not done again.

With --format pose also OUT/<name>.pose, for the tools of sign-language-processing; cclslr pack folder --poses OUT takes
both.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
from collections import Counter
from pathlib import Path

from rich.table import Table

from cclslr.cli import command_parser
from cclslr.console import console
from cclslr.datasets.base import Importer, VideoFile, importers
from cclslr.datasets.media import VIDEO_SUFFIXES, Files
from cclslr.errors import ExitCode, UserError
from cclslr.files import atomic_write, write_json
from cclslr.poses.base import DEFAULT, EstimatorOptions, backends, complete
from cclslr.poses.extract import ALL_PARTS, PARTS, PoseResult, PoseTask, compare_folders, run_task, summarise, weakest
from cclslr.shards.dot_pose import require_pose_format
from cclslr.shards.executor import run_tasks
from cclslr.shards.format import ClipSource
from cclslr.shards.rejections import Rejected, in_lines

GROUP, PLACE = "data", 1

CLIPS_A_TASK = 4

EXAMPLES = """\
examples:
  cclslr poses videos/ --out poses --backend mediapipe --workers 8
  cclslr poses clip.mp4 --out poses --backend rtmpose --pose-model rtmpose-x.onnx --device cuda
  cclslr poses videos/ --out poses --pose-model rtmpose-x.onnx --device cuda:0,cuda:1 --workers 4
  cclslr poses videos/ --out poses --format pose             .pose files beside the .npz files
  cclslr poses clips.csv --out poses                         a table as of cclslr pack csv; names are its keys
  cclslr poses --dataset msasl --annotations MSASL --videos youtube --out poses/msasl
                                                                 the clips of a data set, cut as packing will cut them
"""


def explain_backends() -> str:
    """Which estimators there are and what they need, for --help."""
    lines = ["Which backend (one for a whole data set and for prediction: two disagree by several pixels):"]
    lines += [f"  {backend.name:<11} {backend.help}" for backend in backends().values()]
    lines += [
        "",
        "What pip install -c constraints.txt brings for it, beside everything else of the project:",
    ]
    return "\n".join(lines + [f"  {backend.name:<11} {backend.packages}" for backend in backends().values()])


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; with --dataset, the options of its importer as well."""
    parser = command_parser(__name__, __doc__, f"{explain_backends()}\n\n{EXAMPLES}")
    variables = ", ".join(f"${b.model_variable} for {b.name}" for b in backends().values() if b.model_variable)
    parser.add_argument("--dataset", choices=importers(), help="clips of a data set, with the options of cclslr pack")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the keypoint files, e.g. poses")
    parser.add_argument("--backend", choices=backends(), default=DEFAULT, help=f"default {DEFAULT}")
    parser.add_argument(
        "--pose-model", default="", metavar="FILE",
        help=f"model of the keypoints, a file or a URL (default: {variables}, then the backend's own)",
    )  # fmt: skip
    parser.add_argument(
        "--person-model", default="", metavar="FILE", help="model that finds people (default: the backend's own)"
    )
    parser.add_argument("--device", default="cpu", metavar="D", help="cpu, cuda, or cuda:0,cuda:1,…: tasks take turns")
    parser.add_argument("--batch", type=int, default=16, help="frames that pass the pose model together (default 16)")
    parser.add_argument("--detect-every", type=int, default=5, metavar="N", help="look for people every N frames (5)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes on this machine (default 1)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="dask.distributed scheduler to use instead")
    parser.add_argument(
        "--threshold", type=float, default=0.3, metavar="S",
        help="list clips whose body, face or better hand is found in a smaller share of the frames (default 0.3)",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=("npz", "pose"), default="npz",
        help="pose: .pose files as well (extra pose); they don't say which estimator they are from (default npz)",
    )  # fmt: skip
    parser.add_argument(
        "--compare", metavar="DIR", help="measure the distance to keypoints of the same names, by part, in compare.json"
    )
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--dataset")
    dataset = chooser.parse_known_args(argv)[0].dataset
    if dataset in importers():
        importers()[dataset].add_arguments(parser.add_argument_group(dataset))
    else:
        parser.add_argument("inputs", nargs="+", metavar="INPUT", help="videos, folders of videos, or one .csv table")
    return parser.parse_args(argv)


def collect(args: argparse.Namespace) -> list[tuple[str, ClipSource]]:
    """The clips and their names, in the order of the names.

    Raises:
        UserError: an input that is not there, no clip at all, or two clips of one name.
    """
    if args.dataset is not None:
        clips = _import(importers()[args.dataset], args)
    elif len(args.inputs) == 1 and args.inputs[0].endswith(".csv"):
        table, parser = importers()["csv"], argparse.ArgumentParser()
        table.add_arguments(parser)
        clips = _import(table, parser.parse_args(args.inputs))
    else:
        clips = [clip for name in args.inputs for clip in _videos(Path(name))]
    if not clips:
        raise UserError(f"nothing to do: no video was found ({' '.join(VIDEO_SUFFIXES)})")
    twice = [name for name, count in Counter(name for name, _ in clips).items() if count > 1]
    if twice:
        raise UserError(f"{len(twice)} names occur twice, e.g. {twice[0]}: their keypoints would be one file")
    return sorted(clips, key=lambda clip: clip[0])


def _videos(path: Path) -> list[tuple[str, ClipSource]]:
    if path.is_file():
        return [(path.stem, VideoFile(str(path)))]
    if not path.is_dir():
        raise UserError(f"{path} is not there")
    # Each suffix alone: of two files that differ in it only, one walk would show one.
    walks = [Files.walk(path, (suffix,)).by_path for suffix in VIDEO_SUFFIXES]
    return [(stem, VideoFile(str(file))) for walk in walks for stem, file in walk.items()]


def _import(importer: Importer, args: argparse.Namespace) -> list[tuple[str, ClipSource]]:
    found = importer.load(args)
    rows, missing = found.report.rows, len(found.report.missing)
    console.print(f"{importer.name}: {rows:,} clips in the list, {len(found.rows):,} found, {missing:,} files missing")
    for line in in_lines([Rejected("", reason, importer.name) for reason in found.report.rejected]):
        console.print(line, soft_wrap=True)
    return [(row.key, row.source) for row in found.rows]


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.format == "pose":
        require_pose_format()
    clips = collect(args)
    out = Path(args.out)
    devices = args.device.split(",")
    tasks = []
    chosen = complete(
        EstimatorOptions(
            backend=args.backend,
            pose_model=args.pose_model,
            person_model=args.person_model,
            batch=args.batch,
            detect_every=args.detect_every,
        )
    )
    for number, begin in enumerate(range(0, len(clips), CLIPS_A_TASK)):
        options = dataclasses.replace(chosen, device=devices[number % len(devices)])
        part = clips[begin : begin + CLIPS_A_TASK]
        files = tuple((name, source, str(out / f"{name}.npz")) for name, source in part)
        tasks.append(PoseTask(files, options, dot_pose=args.format == "pose"))
    results: list[PoseResult] = []
    sizes = [len(task.clips) for task in tasks]
    for part_results in run_tasks(
        run_task, tasks, workers=args.workers, scheduler=args.scheduler, description=args.backend, sizes=sizes
    ):
        results += part_results
    results.sort(key=lambda result: result.name)
    code = report(results, out, args.threshold)
    if args.compare is not None:
        distances = compare_folders(out, Path(args.compare))
        write_json(out / "compare.json", distances)
        for name in ALL_PARTS:
            console.print(f"{name.replace('_', ' ')}: median distance {distances[name]['median_px']} px")
    return code


def report(results: list[PoseResult], out: Path, threshold: float) -> int:
    """Write and show the summary; the exit code is 3 if a clip failed."""
    summary = summarise(results, threshold)
    write_json(out / "summary.json", summary)
    to_check = [result for result in results if result.reason or weakest(result.rates) < threshold]
    with atomic_write(out / "check.csv", "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", "frames", *PARTS, "reason"])
        for result in to_check:
            rates = [f"{result.rates[part]:.3f}" if result.rates else "" for part in PARTS]
            writer.writerow([result.name, result.frames, *rates, result.reason])
    table = Table(title=f"keypoints in {out}", show_header=False, title_justify="left")
    done_before = sum(result.done_before for result in results)
    failed = sum(bool(result.reason) for result in results)
    table.add_row("clips", f"{len(results) - failed:,} ({done_before:,} of them were there)")
    table.add_row("frames", f"{summary['frames']:,}")
    detection = summary["detection"]
    assert isinstance(detection, dict)
    for part, rate in detection.items():
        table.add_row(f"{part.replace('_', ' ')} found", f"{rate:.1%} of the frames")
    table.add_row(f"below {threshold:g}", f"{len(to_check) - failed:,} clips")
    table.add_row("failed", f"{failed:,} clips")
    console.print(table)
    for line in in_lines([Rejected(result.name, result.reason, result.name) for result in results if result.reason]):
        console.print(line, soft_wrap=True)
    if to_check:
        console.print(f"clips to look at are listed in {out / 'check.csv'}", soft_wrap=True)
    return ExitCode.SOME_BAD if failed else ExitCode.DONE
