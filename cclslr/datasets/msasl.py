"""MS-ASL: 1,000 words of American Sign Language cut from YouTube (Vaezi Joze and Koller, BMVC 2019).

The lists name a YouTube video and a span in seconds. People keep either the downloads, `<youtube id>.mp4`, or clips cut
from them under names of their own; `--names` says which, and is found out where it is one of the usual ones.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cclslr.datasets.base import Import, Importer, VideoFile
from cclslr.datasets.engine import Listed, Published, import_listed
from cclslr.datasets.lists import Ledger, is_int, is_number
from cclslr.datasets.media import Files, Found, Media, Probe, map_threads, probe_video
from cclslr.errors import UserError
from cclslr.files import read_json
from cclslr.shards.format import SPLITS, ClipSource

PUBLISHED = {
    100: {"train": 3790, "val": 1190, "test": 757},
    200: {"train": 6321, "val": 2041, "test": 1359},
    500: {"train": 11403, "val": 3702, "test": 2720},
    1000: {"train": 16054, "val": 5287, "test": 4172},
}
# Names that are tried, in this order; index counts from 0 within the split's list.
NAMES = ("{id}", "{split}_{index:05d}", "{split}_{index}", "{split}/{index:05d}", "{split}/{index}")
SLACK = 0.5  # seconds that a container's own length and a list's end may differ by


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cclslr pack msasl`."""
    parser.add_argument(
        "--annotations",
        required=True,
        metavar="DIR",
        help="folder of MSASL_{train,val,test,classes}.json",
    )
    Media.add_arguments(
        parser, "folder of the videos", "folder of keypoints, named as the videos or as the clips (train_00012.npz)"
    )
    parser.add_argument("--subset", type=int, choices=tuple(PUBLISHED), default=1000, help="MSASL-K: labels below K")
    parser.add_argument(
        "--names",
        metavar="TEMPLATE",
        help="file names without suffix, from {id} {split} {index} {label} {text}, e.g. '{text}/{split}_{index:05d}'; "
        "default: whichever usual one finds most files",
    )


@dataclass(frozen=True)
class _Entry:
    """One line of a list, checked."""

    split: str
    index: int
    label: int
    text: str
    video_id: str
    start: float  # seconds
    end: float
    signer: str | None
    box: tuple[float, float, float, float] | None  # x0, y0, x1, y1 as fractions

    where: str  # file and row

    @property
    def key(self) -> str:
        return f"{self.split}_{self.index:05d}"

    def listed(self, name: str) -> Listed[int]:
        """As the engine wants it, where its video is called `name`."""
        same = f"{self.split} {self.video_id} {self.start} {self.end} {self.label}"
        names = (self.key, self.video_id)
        return Listed(self.where, self.key, self.label, self.split, self.signer, (name,), names, same, self)


def load(args: argparse.Namespace) -> Import:
    """Read the three lists, look for the files, decide whether they are cut already.

    Raises:
        UserError: a list that is no list of MS-ASL, a folder that is not there, a template with an unknown field.
    """
    folder = Path(args.annotations)
    ledger = Ledger()
    classes = _classes(folder, args.subset)
    entries: list[_Entry] = []
    for split in SPLITS:
        path = folder / f"MSASL_{split}.json"
        if path.is_file():
            entries += _read_list(path, split, ledger, args.subset)
        else:
            ledger.notes.append(f"{path.name} is not there: no {split} clips")
    if not entries and not ledger.rejected:
        raise UserError(f"{folder}: no clip of MSASL{args.subset} in MSASL_{{train,val,test}}.json")
    media = Media.walk(args)
    template = "{key}" if media.videos is None else _choose_names(args.names, entries, media.videos, ledger)
    rows = [entry.listed(_format(template, entry)) for entry in entries]
    published = Published(f"MSASL{args.subset}", PUBLISHED[args.subset])
    return import_listed(args, ledger, rows, classes, published, _sources, media)


def _sources(found: Sequence[Found[Listed[int]]], ledger: Ledger) -> list[ClipSource | str]:
    """The source of each clip, cut where its file is the whole download; or why it has none."""
    return [
        span
        if isinstance(span, str)
        else VideoFile(None if video is None else str(video), pose, box=row.entry.box, box_is_fraction=True, **span)
        for (row, video, pose), span in zip(found, _spans(found, ledger), strict=True)
    ]


def _classes(folder: Path, subset: int) -> list[str]:
    path = folder / "MSASL_classes.json"
    if not path.is_file():
        return [f"class {label}" for label in range(subset)]
    classes = read_json(path)
    if not isinstance(classes, list) or len(classes) < subset or not all(isinstance(word, str) for word in classes):
        raise UserError(f"{path}: not a list of at least {subset} words")
    return classes[:subset]


def _read_list(path: Path, split: str, ledger: Ledger, subset: int) -> list[_Entry]:
    """Entries below `subset`."""
    document = read_json(path)
    if not isinstance(document, list):
        raise UserError(f"{path}: not a list of clips")
    ambiguous = _shared_seconds(document)
    entries = []
    for index, row in enumerate(document):
        where = f"{path.name}, row {index}"
        label = row.get("label") if isinstance(row, dict) else None
        if not is_int(label) or not 0 <= label < 1000:
            ledger.reject(where, f"label is {label!r}, not 0 to 999")
            continue
        if label >= subset:
            continue
        entry = _entry(row, split, index, ambiguous, where)
        if isinstance(entry, str):
            ledger.count(split, label)
            ledger.reject(where, entry)
        else:
            entries.append(entry)
    return entries


def _entry(row: dict[str, Any], split: str, index: int, ambiguous: set[tuple[Any, ...]], where: str) -> _Entry | str:
    """The checked line, or why it cannot be used."""
    video_id = youtube_id(row.get("url"))
    if video_id is None:
        return f"url {row.get('url')!r} names no YouTube video"
    start, end = row.get("start_time"), row.get("end_time")
    if _seconds(row) in ambiguous and is_number(row.get("fps")) and row["fps"] > 0:
        start, end = row["start"] / row["fps"], row["end"] / row["fps"]
    if not is_number(start) or not is_number(end) or start < 0 or end <= start:
        return f"{start!r} s to {end!r} s is no span"
    text, signer = row.get("text"), row.get("signer_id")
    return _Entry(
        split=split,
        index=index,
        label=row["label"],
        text=text if isinstance(text, str) else "",
        video_id=video_id,
        start=float(start),
        end=float(end),
        signer=str(signer) if is_int(signer) else None,
        box=_box(row.get("box")),
        where=where,
    )


def _seconds(row: Any) -> tuple[Any, ...]:
    if not isinstance(row, dict):
        return ()
    return (youtube_id(row.get("url")), str(row.get("start_time")), str(row.get("end_time")))


def _shared_seconds(document: list[Any]) -> set[tuple[Any, ...]]:
    """Spans in seconds that several lines share while their frames differ: four pairs of the training list, two takes
    of a word under the span of both. For these the frames decide; everywhere else the seconds do."""
    frames: dict[tuple[Any, ...], set[tuple[int, int]]] = {}
    for row in document:
        if isinstance(row, dict) and is_int(row.get("start")) and is_int(row.get("end")):
            frames.setdefault(_seconds(row), set()).add((row["start"], row["end"]))
    return {seconds for seconds, spans in frames.items() if len(spans) > 1}


def youtube_id(url: Any) -> str | None:
    """The video's id from a URL with or without a scheme, long or short, with other parameters behind it."""
    if not isinstance(url, str):
        return None
    match = re.search(r"(?:[?&]v=|youtu\.be/|/embed/|/shorts/)([A-Za-z0-9_-]{11})(?![A-Za-z0-9_-])", url)
    return match[1] if match else None


def _box(value: Any) -> tuple[float, float, float, float] | None:
    """The list's [y0, x0, y1, x1] as (x0, y0, x1, y1); None where it is no box."""
    if not isinstance(value, list) or len(value) != 4 or not all(is_number(number) for number in value):
        return None
    y0, x0, y1, x1 = (min(max(float(number), 0.0), 1.0) for number in value)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _format(names: str, entry: _Entry) -> str:
    fields = {"id": entry.video_id, "split": entry.split, "index": entry.index, "label": entry.label}
    return names.format(text=entry.text, key=entry.key, **fields)


def _choose_names(names: str | None, entries: list[_Entry], videos: Files, ledger: Ledger) -> str:
    """The template of the file names: the user's, or the one that finds most files."""
    if names is not None:
        try:
            for entry in entries[:1]:
                _format(names, entry)
        except (KeyError, IndexError, ValueError) as error:
            raise UserError(f"--names {names!r}: {error}; known fields: id, split, index, label, text") from error
        ledger.conventions["names"] = names
        return names
    hits = {template: sum(videos.find(_format(template, entry)) is not None for entry in entries) for template in NAMES}
    best = max(hits, key=hits.__getitem__)
    count = hits[best]
    ledger.conventions["names"] = f"{best} ({count} of {len(entries)} clips found)"
    return best


def _spans(found: Sequence[Found[Listed[int]]], ledger: Ledger) -> list[dict[str, Any] | str]:
    """For each clip the span of its `VideoFile`, or why it has none."""
    paths = sorted({path for _, path, _ in found if path is not None})
    probes = dict(zip(paths, map_threads(probe_video, paths)))
    users = Counter(path for _, path, _ in found if path is not None)
    votes: Counter[str] = Counter()
    spans: list[dict[str, Any] | str] = []
    for row, path, _ in found:
        entry = row.entry
        probe = None if path is None else probes[path]
        if path is None or probe is None:  # poses alone; or unreadable, which packing reports with the decoder's reason
            votes["unreadable"] += path is not None
            spans.append({})
            continue
        verdict = judge(entry.start, entry.end, probe, shared=users[path] > 1)
        votes[verdict] += 1
        if verdict == "beyond":
            spans.append(f"starts at {entry.start:g} s, but {path} ends at {probe.seconds:.1f} s: download it again")
        elif verdict == "trimmed":
            spans.append({})
        else:
            spans.append({"seconds": (entry.start, entry.end)})  # a file that ends too early is packing's to reject
    if paths:
        ledger.conventions["files"] = (
            f"{'trimmed' if votes['trimmed'] > votes['untrimmed'] else 'untrimmed'}: {votes['trimmed']} clips are "
            f"whole files, {votes['untrimmed']} are cut by the list's seconds, {votes['beyond']} would start beyond "
            f"their file, {votes['unreadable']} unreadable"
        )
    return spans


def judge(start: float, end: float, probe: Probe, shared: bool) -> str:
    """What a file is to a clip: `trimmed` (the clip itself), `untrimmed` (holds it), `beyond` (ends before it starts).

    Args:
        start, end: the list's span, seconds.
        probe: length and rate of the file.
        shared: several clips of the list name this file, so it cannot be one of them.
    """
    length = end - start
    if not shared and abs(probe.seconds - length) <= max(SLACK, 0.1 * length):
        return "trimmed"
    if start < probe.seconds - 1 / probe.fps:
        return "untrimmed"
    return "beyond" if shared else "trimmed"


IMPORTER = Importer(
    "msasl",
    "MSASL100/200/500/1000 from MSASL_{train,val,test}.json and YouTube downloads or clips cut from them",
    add_arguments,
    load,
)
