"""Recall and false alarms of the leak finder on real video: windows of real clips, and copies of them.

    python docs/results/leaks/real.py OUT.json CLIPS [--seed 1] [--estimate]

CLIPS holds <name>.mp4 and <name>.npz. Windows of every clip, of 24 and 40 frames and of all, one each 8 frames, are
train. In test are 50 copies of each kind: trimmed, encoded again, resized, mirrored; and, harder, with a crop of 80 %,
with a caption over the lower fifth, 1.25 times as fast. Their keypoints are those of the window, moved as the frames
are and by noise of 1 % of the shoulders' width, or with --estimate those that MediaPipe finds in the copy.

Found is a copy that is named together with the window that it was made from. A pair of windows that share no frame,
of one recording or of two, is no copy: one that is named is a false alarm. Pairs that share some are not judged.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cclslr.codecs import codec_named
from cclslr.poses.base import EstimatorOptions, complete, find_backend
from cclslr.shards.decode import decode_file
from cclslr.shards.format import RawClip
from cclslr.shards.leaks import Signature, find_leaks, signature

KINDS = ("trimmed", "encoded", "resized", "mirrored", "cropped", "captioned", "faster")
COPIES = 50  # of a kind
LENGTHS, STEP = (24, 40, None), 8  # frames
SWAPPED = np.arange(133)
for left, right in ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10)):
    SWAPPED[[left, right]] = right, left
SWAPPED[91:112], SWAPPED[112:133] = np.arange(112, 133), np.arange(91, 112)


@dataclass(frozen=True)
class Window:
    """Frames `begin` to `end` of a recording."""

    name: str
    begin: int
    end: int

    def shares(self, other: Window) -> bool:
        """Whether a frame is in both."""
        return self.name == other.name and self.begin < other.end and other.begin < self.end


def windows_of(name: str, frames: int) -> list[Window]:
    """All windows of a recording."""
    found = [
        Window(name, begin, begin + length)
        for length in LENGTHS
        if length is not None
        for begin in range(0, frames - length + 1, STEP)
    ]
    return [*found, Window(name, 0, frames)]


def cut(clip: RawClip, window: Window) -> RawClip:
    """The frames and keypoints of a window."""
    assert clip.frames_THWC is not None
    assert clip.keypoints_TKC is not None
    span = slice(window.begin, window.end)
    return dataclasses.replace(clip, frames_THWC=clip.frames_THWC[span], keypoints_TKC=clip.keypoints_TKC[span])


def resize(frames_THWC: np.ndarray, width: int, height: int) -> np.ndarray:
    """Frames of another size."""
    return np.stack([np.asarray(Image.fromarray(frame).resize((width, height))) for frame in frames_THWC])


def copy(clip: RawClip, window: Window, kind: str, rng: np.random.Generator) -> tuple[RawClip, Window]:
    """The same take as another file, and which frames of the recording it shows."""
    frames, points = clip.frames_THWC, clip.keypoints_TKC
    assert frames is not None
    assert points is not None
    points, fps = points.copy(), clip.fps
    height, width = frames.shape[1:3]
    if kind == "trimmed":  # a tenth to a third is gone, at both ends
        gone = int(rng.integers(len(points) // 10, len(points) // 3))
        begin = int(rng.integers(0, gone + 1))
        end = len(points) - (gone - begin)
        frames, points = frames[begin:end], points[begin:end]
        window = Window(window.name, window.begin + begin, window.begin + end)
    elif kind == "encoded":
        codec = codec_named("h264")
        frames = codec.decode(codec.encode(frames, fps, 38)[0])
    elif kind == "resized":
        scale = rng.choice((0.4, 0.5, 0.75, 1.5))
        frames = resize(frames, round(width * scale), round(height * scale))
        points[..., :2] *= scale
    elif kind == "mirrored":
        frames = frames[:, :, ::-1].copy()
        points = points[:, SWAPPED]
        points[..., 0] = (width - points[..., 0]) * (points[..., 2] > 0)
    elif kind == "cropped":  # 80 % of each side, anywhere
        top, left = int(rng.integers(0, height // 5 + 1)), int(rng.integers(0, width // 5 + 1))
        frames = frames[:, top : top + height * 4 // 5, left : left + width * 4 // 5].copy()
        points[..., :2] -= (left, top)
    elif kind == "captioned":
        frames = frames.copy()
        frames[:, height * 4 // 5 :] = rng.integers(0, 256, (1, height - height * 4 // 5, width, 3), dtype=np.uint8)
    elif kind == "faster":
        fps *= 1.25
    if kind != "trimmed":
        shoulders = np.median(np.linalg.norm(points[:, 5, :2] - points[:, 6, :2], axis=-1))
        points[..., :2] += rng.normal(0, 0.01 * shoulders, points[..., :2].shape)
    return dataclasses.replace(clip, frames_THWC=frames, keypoints_TKC=points, fps=fps), window


def judge(train: list[Signature], test: list[Signature], sources: list[int], kinds: list[str], of: list[Window],
          shown: list[Window], without: tuple[str, ...]) -> dict[str, object]:  # fmt: skip
    """Find by what is left of the signatures, and count."""
    signed = [dataclasses.replace(each, **dict.fromkeys(without)) for each in (*train, *test)]
    began = time.perf_counter()
    leaks = find_leaks(signed, ["train"] * len(train) + ["test"] * len(test))
    seconds = time.perf_counter() - began
    pairs = {(leak.first, leak.second - len(train)): leak for leak in leaks}
    found = Counter(kind for number, kind in enumerate(kinds) if (sources[number], number) in pairs)
    false = [leak for (first, second), leak in pairs.items() if not of[first].shares(shown[second])]
    apart = sum(not window.shares(other) for window in of for other in shown)
    one = sum(not window.shares(other) and window.name == other.name for window in of for other in shown)
    return {
        "found of 50": {kind: found[kind] for kind in KINDS},
        "false alarms": len(false),
        "of pairs that share no frame": apart,
        "of these of one recording": one,
        "highest false": round(max((leak.agreement for leak in false), default=0), 3),
        "too still or short": sum(s.frames_TD is None and s.keypoints_TD is None for s in signed),
        "seconds to find": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("clips")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--estimate", action="store_true", help="keypoints of copies by MediaPipe, from their frames")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    options = complete(EstimatorOptions(backend="mediapipe"))
    estimator = find_backend("mediapipe").open(options) if args.estimate else None
    recordings: dict[str, RawClip] = {}
    for path in sorted(Path(args.clips).glob("*.mp4")):
        points = np.load(path.with_suffix(".npz"))["keypoints"].astype(np.float32)
        recordings[path.stem] = dataclasses.replace(decode_file(path), keypoints_TKC=points)
    of = [
        window
        for name, clip in recordings.items()
        for window in windows_of(name, len(clip.frames_THWC))  # type: ignore[arg-type]
    ]
    train = [signature(cut(recordings[window.name], window)) for window in of]
    test, shown, sources, kinds = [], [], [], []
    for kind in KINDS:
        for source in rng.choice(len(of), COPIES, replace=False).tolist():
            clip, window = copy(cut(recordings[of[source].name], of[source]), of[source], kind, rng)
            if estimator is not None:
                assert clip.frames_THWC is not None
                clip = dataclasses.replace(clip, keypoints_TKC=estimator(clip.frames_THWC))
            test.append(signature(clip))
            shown.append(window)
            sources.append(source)
            kinds.append(kind)
    result: dict[str, object] = {
        "recordings": {name: len(clip.frames_THWC) for name, clip in recordings.items()},  # type: ignore[arg-type]
        "windows": len(of),
        "copies": len(test),
        "keypoints of copies": "estimated" if args.estimate else "moved",
        "seed": args.seed,
    }
    for name, without in (("both", ()), ("frames", ("keypoints_TD",)), ("keypoints", ("frames_TD",))):
        result[name] = judge(train, test, sources, kinds, of, shown, without)
    Path(args.out).write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))


main()
