"""Keypoints of the clips that a data set has none of, estimated before it is packed and kept beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cclslr.console import console
from cclslr.datasets.base import VideoFile
from cclslr.poses import EstimatorOptions
from cclslr.poses.extract import PoseResult, PoseTask, run_task
from cclslr.shards.executor import run_tasks
from cclslr.shards.format import ManifestRow
from cclslr.shards.rejections import Rejected

CLIPS_A_TASK = 4


def is_bare(row: ManifestRow) -> bool:
    """Whether a clip has a video and no keypoints."""
    return isinstance(row.source, VideoFile) and row.source.path is not None and row.source.pose is None


def keypoint_file(row: ManifestRow, folder: Path) -> Path:
    """Where the estimated keypoints of a clip lie."""
    return folder / f"{row.key}.npz"


def with_files_of(rows: Sequence[ManifestRow], folder: Path) -> list[ManifestRow]:
    """The rows as `with_keypoints` gives them, whether their files are there or not; nothing is estimated."""
    return [
        replace(row, source=replace(row.source, pose=str(keypoint_file(row, folder)))) if is_bare(row) else row  # type: ignore[type-var]
        for row in rows
    ]


def _is_older(path: Path, row: ManifestRow) -> bool:
    """Whether the keypoints are of a video that was mended since."""
    video = Path(getattr(row.source, "path", None) or "")
    return path.exists() and video.exists() and path.stat().st_mtime_ns < video.stat().st_mtime_ns


def with_keypoints(
    rows: Sequence[ManifestRow],
    folder: Path,
    options: EstimatorOptions,
    workers: int = 1,
    scheduler: str | None = None,
) -> tuple[list[ManifestRow], list[Rejected]]:
    """The rows with keypoint files, those of bare clips estimated into `folder`/<key>.npz; and the clips that failed.

    The file of an earlier call is taken again unless the video is newer. A clip with keypoints stays as it is.

    Raises:
        UserError: the estimator is not installed; a file in `folder` is broken or another estimator's.
    """
    bare = [row for row in rows if is_bare(row)]
    path = {row.key: keypoint_file(row, folder) for row in bare}
    for row in bare:
        if _is_older(path[row.key], row):
            path[row.key].unlink()
    parts = [bare[begin : begin + CLIPS_A_TASK] for begin in range(0, len(bare), CLIPS_A_TASK)]
    tasks = [PoseTask(tuple((row.key, row.source, str(path[row.key])) for row in part), options) for part in parts]
    results: dict[str, PoseResult] = {}
    sizes = [len(part) for part in parts]
    for found in run_tasks(
        run_task, tasks, workers=workers, scheduler=scheduler, description="estimating keypoints", sizes=sizes
    ):
        results |= {result.name: result for result in found}
    good, refused = [], []
    for row in rows:
        result, source = results.get(row.key), row.source
        if result is None or not isinstance(source, VideoFile):
            good.append(row)
        elif result.reason:
            refused.append(Rejected(row.key, result.reason, str(source.path)))
        else:
            good.append(replace(row, source=replace(source, pose=str(path[row.key]))))
    before = sum(result.done_before for result in results.values())
    told = f", {before:,} of them from before" if before else ""
    console.print(f"keypoints of {len(results) - len(refused):,} clips in {folder}{told}", soft_wrap=True)
    return good, refused
