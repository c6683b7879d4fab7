"""Keypoints of many clips, in tasks that any process may run, stop and run again."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cclslr.errors import UserError
from cclslr.files import atomic_write
from cclslr.keypoints import CONFIDENT, WHOLEBODY
from cclslr.poses import Estimator, EstimatorOptions, open_estimator
from cclslr.shards.dot_pose import write_dot_pose
from cclslr.shards.format import BadClip, ClipSource
from cclslr.shards.keypoint_file import load_keypoints

PARTS = {name: WHOLEBODY[name] for name in ("body", "left_hand", "right_hand")} | {"face": tuple(range(23, 91))}
ALL_PARTS = {  # the 133 points
    "body": slice(0, 17),
    "feet": slice(17, 23),
    "face": slice(23, 91),
    "left_hand": slice(91, 112),
    "right_hand": slice(112, 133),
}


@dataclass(frozen=True)
class PoseTask:
    """Some clips for one process: (name, where it comes from, keypoint file to write) each."""

    clips: tuple[tuple[str, ClipSource, str], ...]
    options: EstimatorOptions
    dot_pose: bool = False  # write a .pose file beside each keypoint file

    @property
    def name(self) -> str:
        return self.clips[0][0]


@dataclass(frozen=True)
class PoseResult:
    """What became of one clip."""

    name: str
    frames: int = 0
    rates: dict[str, float] = field(default_factory=dict)  # by part: share of the frames in which it was found
    reason: str = ""  # why there are no keypoints
    estimator: str = ""
    done_before: bool = False


def detection_rates(keypoints_TKC: np.ndarray) -> dict[str, float]:
    """Share of the frames in which at least half of a part's points are confident, for each part."""
    confident_TK = keypoints_TKC[..., 2] > CONFIDENT
    return {part: float((confident_TK[:, list(points)].mean(axis=1) >= 0.5).mean()) for part, points in PARTS.items()}


def weakest(rates: dict[str, float]) -> float:
    """The lowest of body, face and the better hand: many signs are one-handed."""
    return min(rates["body"], rates["face"], max(rates["left_hand"], rates["right_hand"]))


def run_task(task: PoseTask) -> list[PoseResult]:
    """Extract the clips of a task; those whose file is there already are only measured."""
    return [_extract(name, source, Path(out), task) for name, source, out in task.clips]


@functools.lru_cache(maxsize=4)
def _estimator(options: EstimatorOptions) -> Estimator:
    return open_estimator(options)  # once a process


def _extract(name: str, source: ClipSource, out: Path, task: PoseTask) -> PoseResult:
    estimator = _estimator(task.options)
    dot_pose = out.with_suffix(".pose") if task.dot_pose else None
    before = _measure(name, out, estimator) if out.exists() else None
    if before is not None and (dot_pose is None or dot_pose.exists()):
        return before
    try:
        clip = source.load()
    except BadClip as error:
        return PoseResult(name, reason=str(error))
    assert clip.frames_THWC is not None
    size = clip.frames_THWC.shape[2], clip.frames_THWC.shape[1]
    if before is not None and dot_pose is not None:
        write_dot_pose(dot_pose, load_keypoints(out)[0], clip.fps, size)
        return before
    keypoints_TKC = estimator(clip.frames_THWC)
    with atomic_write(out) as file:
        np.savez_compressed(
            file,
            keypoints=keypoints_TKC,
            estimator=np.array(estimator.name),
            version=np.array(estimator.version),
            fps=np.array(clip.fps),
        )
    if dot_pose is not None:
        write_dot_pose(dot_pose, keypoints_TKC, clip.fps, size)
    return PoseResult(name, len(keypoints_TKC), detection_rates(keypoints_TKC), estimator=estimator.version)


def _measure(name: str, out: Path, estimator: Estimator) -> PoseResult:
    """A file of an earlier run, or of another estimator: then the run stops, for a mixture changes predictions."""
    try:
        keypoints_TKC, texts = load_keypoints(out)
    except BadClip as error:
        raise UserError(f"{error}; remove {out} and run again") from error
    if texts.get("version") != estimator.version:
        raise UserError(
            f"{out} was made with {texts.get('version', 'another estimator')}, this run uses {estimator.version}: "
            "give another --out, mixed estimators change predictions"
        )
    return PoseResult(
        name, len(keypoints_TKC), detection_rates(keypoints_TKC), estimator=estimator.version, done_before=True
    )


def summarise(results: Sequence[PoseResult], threshold: float) -> dict[str, object]:
    """Detection rates over all frames, and the clips to look at, as written to summary.json."""
    good = [result for result in results if not result.reason]
    frames = sum(result.frames for result in good)
    low = sorted(result.name for result in good if weakest(result.rates) < threshold)
    return {
        "clips": len(good),
        "frames": frames,
        "estimators": sorted({result.estimator for result in good}),
        "detection": {
            part: sum(result.rates[part] * result.frames for result in good) / frames if frames else 0.0
            for part in PARTS
        },
        "threshold": threshold,
        "below_threshold": low,
        "failed": {result.name: result.reason for result in results if result.reason},
    }


def compare(ours_TKC: np.ndarray, theirs_TKC: np.ndarray) -> dict[str, np.ndarray]:
    """Distances in pixels between the points that both found, by part; `missing_<part>`: found by one of the two."""
    if ours_TKC.shape != theirs_TKC.shape:
        raise UserError(f"keypoints of {len(ours_TKC)} frames against {len(theirs_TKC)}")
    found_TK, theirs_found_TK = ours_TKC[..., 2] > 0, theirs_TKC[..., 2] > 0
    distance_TK = np.linalg.norm(ours_TKC[..., :2] - theirs_TKC[..., :2], axis=-1)
    result = {}
    for part, points in ALL_PARTS.items():
        both = found_TK[:, points] & theirs_found_TK[:, points]
        result[part] = distance_TK[:, points][both]
        result[f"missing_{part}"] = (found_TK[:, points] != theirs_found_TK[:, points]).sum()
    return result


def compare_folders(ours: Path, theirs: Path) -> dict[str, dict[str, float | int | None]]:
    """Distances between the keypoint files that two folders share, by part, as written to compare.json."""
    names = sorted({path.name for path in ours.glob("*.npz")} & {path.name for path in theirs.glob("*.npz")})
    if not names:
        raise UserError(f"{theirs} has no keypoint file of the same name as one in {ours}")
    found = [compare(load_keypoints(ours / name)[0], load_keypoints(theirs / name)[0]) for name in names]
    summary: dict[str, dict[str, float | int | None]] = {"all": {"clips": len(names)}}
    for part in ALL_PARTS:
        distances = np.concatenate([clip[part] for clip in found])
        summary[part] = {
            "points": len(distances),
            "found_by_one_only": int(sum(clip[f"missing_{part}"] for clip in found)),
            "median_px": float(np.median(distances)) if len(distances) else None,
            "p95_px": float(np.quantile(distances, 0.95)) if len(distances) else None,
        }
    return summary
