"""Recall and false alarms of the leak finder on planted copies: SynthSign with video, and real keypoints.

    python docs/results/leaks/planted.py OUT.json [--seed 1] [--keypoints signs13_wholebody.npz]

Of each set 200 clips of train are planted in test, 50 each: trimmed, encoded again, resized, mirrored. All other pairs
of train and test are false alarms if they are found; the same signs are on both sides, in signs13 by the same people,
so many are alike. Thresholds were chosen with --seed 0.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from cclslr.codecs import codec_named
from cclslr.datasets.synthetic import SynthOptions, manifest
from cclslr.shards.format import RawClip
from cclslr.shards.leaks import find_leaks, signature

KINDS = ("trimmed", "encoded", "resized", "mirrored")
COPIES = 50  # of a kind
SWAPPED = np.arange(133)
for left, right in ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10)):
    SWAPPED[[left, right]] = right, left
SWAPPED[91:112], SWAPPED[112:133] = np.arange(112, 133), np.arange(91, 112)


def copy(clip: RawClip, kind: str, rng: np.random.Generator) -> RawClip:
    """The same take as another file; keypoints are those of another run of the estimator, but where it was trimmed."""
    frames, points = clip.frames_THWC, clip.keypoints_TKC
    assert points is not None
    total, points = len(points), points.copy()
    if kind == "trimmed":  # a tenth to a third is gone, at both ends
        gone = rng.integers(total // 10, total // 3)
        begin = rng.integers(0, gone + 1)
        span = slice(begin, total - (gone - begin))
        return dataclasses.replace(
            clip, frames_THWC=None if frames is None else frames[span], keypoints_TKC=points[span]
        )
    width = np.median(np.linalg.norm(points[:, 5, :2] - points[:, 6, :2], axis=-1))
    points[..., :2] += rng.normal(0, 0.01 * width, points[..., :2].shape)
    if kind == "encoded" and frames is not None:
        codec = codec_named("h264")
        frames = codec.decode(codec.encode(frames, clip.fps, 38)[0])
    if kind == "resized":
        scale = rng.choice((0.4, 0.5, 0.75, 1.5))
        points[..., :2] *= scale
        if frames is not None:
            size = (round(frames.shape[2] * scale), round(frames.shape[1] * scale))
            frames = np.stack([np.asarray(Image.fromarray(frame).resize(size)) for frame in frames])
    if kind == "mirrored":
        span = 640 if frames is None else frames.shape[2]
        points[..., 0] = (span - points[..., 0]) * (points[..., 2] > 0)
        points = points[:, SWAPPED]
        frames = None if frames is None else frames[:, :, ::-1].copy()
    return dataclasses.replace(clip, frames_THWC=frames, keypoints_TKC=points)


def measure(clips: list[RawClip], splits: list[str], rng: np.random.Generator) -> dict[str, object]:
    """Plant copies, find them by frames alone, by keypoints alone and by both."""
    train = [number for number, split in enumerate(splits) if split == "train"]
    chosen = rng.choice(train, len(KINDS) * COPIES, replace=False)
    planted = {(int(number), len(clips) + place): KINDS[place % len(KINDS)] for place, number in enumerate(chosen)}
    began = time.perf_counter()
    signed = [signature(clip) for clip in clips]
    seconds = time.perf_counter() - began
    signed += [signature(copy(clips[number], kind, rng)) for (number, _), kind in planted.items()]
    splits = splits + ["test"] * len(planted)
    pairs = splits.count("train") * splits.count("test") - len(planted)
    result: dict[str, object] = {
        "clips": len(signed),
        "pairs that are no copies": pairs,
        "ms a clip to sign": round(1000 * seconds / len(clips), 1),
    }
    for name, without in (("both", ()), ("frames", ("keypoints_TD",)), ("keypoints", ("frames_TD",))):
        kept = [dataclasses.replace(each, **dict.fromkeys(without)) for each in signed]
        began = time.perf_counter()
        leaks = {(leak.first, leak.second): leak for leak in find_leaks(kept, splits)}
        found = Counter(kind for pair, kind in planted.items() if pair in leaks)
        false = [leak for pair, leak in leaks.items() if pair not in planted]
        result[name] = {
            "found of 50": {kind: found[kind] for kind in KINDS},
            "false alarms": len(false),
            "highest false": round(max((leak.agreement for leak in false), default=0), 3),
            "too still or short": sum(s.frames_TD is None and s.keypoints_TD is None for s in kept),
            "seconds to find": round(time.perf_counter() - began, 1),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keypoints", help="signs13_wholebody.npz")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    options = SynthOptions(classes=8, clips_per_class=(50, 0, 25), signers=(4, 0, 4), size=96, seed=args.seed)
    rows = list(manifest(options))
    results = {"SynthSign": measure([row.source.load() for row in rows], [row.split for row in rows], rng)}
    if args.keypoints:
        points = np.load(args.keypoints)["keypoints"].astype(np.float32) * (640, 480, 1)
        splits = ["test" if number % 3 == args.seed % 3 else "train" for number in range(len(points))]
        results["signs13"] = measure([RawClip(None, each.astype(np.float32), 25.0) for each in points], splits, rng)
    Path(args.out).write_text(json.dumps(results, indent=1))
    print(json.dumps(results, indent=1))


main()
