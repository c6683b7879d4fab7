"""WLASL: 2,000 words of American Sign Language collected from web pages and YouTube (Li et al., WACV 2020).

The list gives frames of the *source* videos, 1-based and inclusive, at 25 frames a second; the files that circulate
are mostly cut already. Which of the two a file is shows in its length, so files whose entries say a span are measured.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cclslr.datasets.base import Import, Importer, VideoFile
from cclslr.datasets.engine import Listed, Published, import_listed
from cclslr.datasets.lists import Ledger, clean_key, is_int, is_number, read_lines
from cclslr.datasets.media import Found, Media, Probe, map_threads, probe_video, sample
from cclslr.errors import UserError
from cclslr.files import read_json
from cclslr.shards.format import SPLITS, ClipSource

FPS = 25.0  # of the list's frame numbers
PUBLISHED = {
    100: {"train": 1442, "val": 338, "test": 258},
    300: {"train": 3549, "val": 900, "test": 668},
    1000: {"train": 8974, "val": 2318, "test": 1876},
    2000: {"train": 14289, "val": 3916, "test": 2878},
}
# Ids that the nslt lists have and WLASL_v0.3.json has not.
ONLY_NSLT = frozenset(
    ("09500", "12209", "13422", "16096", "20065", "20138", "39347", "47639", "48251", "51153", "57839", "60721")
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cclslr pack wlasl`."""
    parser.add_argument(
        "--annotations",
        required=True,
        metavar="PATH",
        help="WLASL_v0.3.json, the folder that holds it, or an nslt_K.json",
    )
    Media.add_arguments(parser, "folder of <video_id>.mp4", "folder of <video_id>.npz, from cclslr poses")
    parser.add_argument("--subset", type=int, choices=tuple(PUBLISHED), default=2000, help="WLASL-K: classes below K")


def load(args: argparse.Namespace) -> Import:
    """Read the list, look for the files, decide how each is to be cut.

    Raises:
        UserError: a list that is no list of WLASL, or a folder that is not there.
    """
    path = Path(args.annotations)
    if path.is_dir():
        path = path / "WLASL_v0.3.json"
    if not path.is_file():
        raise UserError(f"{path} is not there; --annotations takes WLASL_v0.3.json or an nslt_K.json")
    document = read_json(path)
    ledger = Ledger()
    if isinstance(document, list):
        rows, classes = _read_v03(document, ledger, args.subset)
    elif isinstance(document, dict):
        rows, classes = _read_nslt(document, ledger, args.subset, path)
    else:
        raise UserError(f"{path}: neither WLASL_v0.3.json (a list of glosses) nor nslt_K.json (ids to subsets)")
    if not rows and not ledger.rejected:
        raise UserError(f"{path}: no instance of WLASL{args.subset} in it")
    _note_extras(ledger, path, {row.entry.video_id for row in rows})
    published = Published(f"WLASL{args.subset}", PUBLISHED[args.subset])
    return import_listed(args, ledger, rows, classes, published, _sources)


def _sources(found: Sequence[Found[Listed[int]]], ledger: Ledger) -> list[ClipSource | str]:
    """The source of each clip: its file, cut where it is the source video, with the signer's box where boxes fit."""
    pairs = [(row.entry, video) for row, video, _ in found]
    keep_boxes = _boxes_fit([(entry, video) for entry, video in pairs if video is not None], ledger)
    return [
        VideoFile(
            None if video is None else str(video), pose, box=row.entry.box if keep_boxes else None, fps=FPS, **span
        )
        for (row, video, pose), span in zip(found, _spans(pairs, ledger), strict=True)
    ]


class _Entry:
    """One instance of the list, checked."""

    def __init__(self, label: int, instance: dict[str, Any]) -> None:
        self.label = label
        self.video_id: str = instance["video_id"]
        self.split: str = instance["split"]
        self.start: int = instance["frame_start"]  # 1-based
        self.end: int = instance["frame_end"]  # inclusive; -1: the end of the video
        signer = instance.get("signer_id")
        self.signer = str(signer) if is_int(signer) else None
        self.box = _box(instance.get("bbox"))

    def listed(self, where: str) -> Listed[int]:
        """As the engine wants it."""
        key, names = clean_key(self.video_id), (self.video_id,)
        return Listed(where, key, self.label, self.split, self.signer, names, same=self.video_id, entry=self)


def _box(value: Any) -> tuple[float, float, float, float] | None:
    if not isinstance(value, list) or len(value) != 4 or not all(is_number(number) for number in value):
        return None
    x0, y0, x1, y1 = (float(number) for number in value)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _problem(instance: Any) -> str | None:
    """Why an instance cannot be used, or None."""
    if not isinstance(instance, dict):
        return "not an object"
    if not isinstance(instance.get("video_id"), str) or not instance["video_id"].strip("/. "):
        return f"video_id is {instance.get('video_id')!r}, not a string of digits"
    if instance.get("split") not in SPLITS:
        return f"split is {instance.get('split')!r}, not train, val or test"
    start, end = instance.get("frame_start"), instance.get("frame_end")
    if not is_int(start) or not is_int(end) or start < 1 or (end != -1 and end < start):
        return f"frames {start!r} to {end!r} are no span"
    return None


def _read_v03(document: list[Any], ledger: Ledger, subset: int) -> tuple[list[Listed[int]], list[str]]:
    """Rows and glosses. A class is the place of its gloss in the file."""
    rows: list[Listed[int]] = []
    classes: list[str] = []
    for label, gloss in enumerate(document[:subset]):
        where = f"gloss {label}"
        named = isinstance(gloss, dict) and isinstance(gloss.get("gloss"), str)
        classes.append(gloss["gloss"] if named else f"class {label}")
        instances = gloss.get("instances") if isinstance(gloss, dict) else None
        if not isinstance(instances, list):
            ledger.reject(where, "has no list of instances")
            continue
        for number, instance in enumerate(instances):
            problem, place = _problem(instance), f"{where} ({classes[-1]}), instance {number}"
            if problem is not None:
                ledger.reject(place, problem)
            else:
                rows.append(_Entry(label, instance).listed(f"{instance['video_id']} in {place}"))
    return rows, classes


def _read_nslt(
    document: dict[str, Any], ledger: Ledger, subset: int, path: Path
) -> tuple[list[Listed[int]], list[str]]:
    """The same from nslt_K.json: {video_id: {subset, action: [class, start, end]}}; glosses from the class list."""
    classes = _class_list(path.with_name("wlasl_class_list.txt"), subset)
    rows: list[Listed[int]] = []
    for video_id, value in document.items():
        if video_id in ONLY_NSLT:
            continue
        action = value.get("action") if isinstance(value, dict) else None
        where = f"entry {video_id}"
        if not isinstance(action, list) or len(action) != 3 or not is_int(action[0]) or action[0] < 0:
            ledger.reject(where, "action is not [class, start, end]")
            continue
        if action[0] >= subset:
            continue
        # With start 1 the end is the length of an already cut file, which the file itself knows better.
        instance = {
            "video_id": video_id,
            "split": value.get("subset"),
            "frame_start": action[1],
            "frame_end": -1 if action[1] == 1 else action[2],
        }
        problem = _problem(instance)
        if problem is not None:
            ledger.reject(where, problem)
            continue
        rows.append(_Entry(action[0], instance).listed(where))
    return rows, classes


def _class_list(path: Path, subset: int) -> list[str]:
    if not path.is_file():
        return [f"class {label}" for label in range(subset)]
    classes = [line.split("\t", 1)[-1] for line in read_lines(path)]
    if len(classes) < subset:
        raise UserError(f"{path}: {len(classes)} classes, WLASL{subset} has {subset}")
    return classes[:subset]


def _note_extras(ledger: Ledger, path: Path, ids: set[str]) -> None:
    """Say which ids only an nslt list has; people look for their videos in vain."""
    for list_path in [path] if path.name.startswith("nslt") else sorted(path.parent.glob("nslt_*.json")):
        document = read_json(list_path)
        extras = sorted(ONLY_NSLT & set(document) - ids) if isinstance(document, dict) else []
        if extras:
            ledger.notes.append(f"{list_path.name}: ids that WLASL_v0.3.json has not are ignored: {' '.join(extras)}")


def _boxes_fit(found: list[tuple[_Entry, Path]], ledger: Ledger) -> bool:
    """Whether the list's boxes, in pixels of the source videos, lie inside the files; a resized copy has none."""
    chosen = sample([(entry, path) for entry, path in found if entry.box is not None], 64)
    outside = measured = 0
    for (entry, _), probe in zip(chosen, map_threads(lambda pair: probe_video(pair[1]), chosen)):
        if probe is not None and entry.box is not None:
            measured += 1
            outside += entry.box[2] > probe.width + 1 or entry.box[3] > probe.height + 1
    if not measured:
        return False
    # A box of the source never sticks out of the source; a few may belong to replaced videos.
    fits = outside <= 0.05 * measured
    ledger.conventions["signer boxes"] = (
        f"used: they lie inside the frames of {measured - outside} of {measured} files measured"
        if fits
        else f"ignored: they stick out of {outside} of {measured} files measured, so the files were resized or cropped"
    )
    return fits


def _spans(found: list[tuple[_Entry, Path | None]], ledger: Ledger) -> list[dict[str, Any]]:
    """For each clip the `frames` or `seconds` of its `VideoFile`; {} is the whole file."""
    asked = [index for index, (entry, path) in enumerate(found) if path is not None and _cuts(entry)]
    probes = map_threads(lambda index: probe_video(_path(found[index])), asked)
    verdicts = {index: "unreadable" if probe is None else judge(found[index][0].start, found[index][0].end, probe)
                for index, probe in zip(asked, probes)}  # fmt: skip
    votes = Counter(verdicts.values())
    majority = "trimmed" if votes["trimmed"] > votes["untrimmed"] else "untrimmed"
    spans: list[dict[str, Any]] = [{} for _ in found]
    for index, probe in zip(asked, probes):
        verdict = majority if verdicts[index] == "unclear" else verdicts[index]
        if verdict == "untrimmed" and probe is not None:
            spans[index] = cut(found[index][0].start, found[index][0].end, probe)
    if asked:
        ledger.conventions["files"] = (
            f"{majority}: of {len(asked)} files whose entry gives a start or an end, {votes['trimmed']} are cut "
            f"already (used whole), {votes['untrimmed']} are source videos (cut at 25 fps), {votes['unclear']} unclear "
            f"(taken as {majority}), {votes['unreadable']} unreadable"
        )
    elif any(path is not None for _, path in found):
        ledger.conventions["files"] = "used whole: no entry here gives a start or an end"
    return spans


def _cuts(entry: _Entry) -> bool:
    return entry.start > 1 or entry.end != -1


def _path(pair: tuple[_Entry, Path | None]) -> Path:
    assert pair[1] is not None
    return pair[1]


def judge(start: int, end: int, probe: Probe) -> str:
    """Whether a file is the source video (untrimmed), already cut (trimmed), or either (unclear).

    The tolerance of 15 % is no guess: the nslt lists give the lengths of 1,827 cut files, and all are within it.

    Args:
        start: first frame of the list's entry, 1-based, at 25 fps.
        end: its last frame, inclusive; -1 where it ends with the video.
        probe: length and rate of the file.
    """
    frames = probe.seconds * FPS  # the file's length in frames of the list
    if start > frames:
        return "trimmed"  # the start lies beyond the file
    if end == -1:
        return "untrimmed"  # the entry's video runs to its own end
    length = end - start + 1
    if abs(frames - length) <= max(3.0, 0.15 * length):
        return "trimmed"
    return "untrimmed" if frames >= end - 1 else "unclear"


def cut(start: int, end: int, probe: Probe) -> dict[str, Any]:
    """The span of a source video: frames where it runs at the list's 25 fps, else seconds."""
    if abs(probe.fps - FPS) < 0.01:
        return {"frames": (start - 1, None if end == -1 else end)}
    return {"seconds": ((start - 1) / FPS, None if end == -1 else end / FPS)}


IMPORTER = Importer(
    "wlasl",
    "WLASL100/300/1000/2000 from WLASL_v0.3.json (or nslt_K.json) and <video_id>.mp4 files",
    add_arguments,
    load,
)
