"""Videos that nobody packed, packed for one use as the model's training data was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cclslr.console import progress_aside
from cclslr.datasets.base import VideoFile
from cclslr.datasets.lists import clean_key
from cclslr.datasets.media import POSE_SUFFIXES, VIDEO_SUFFIXES, Files
from cclslr.errors import BadClip, UserError
from cclslr.files import atomic_write
from cclslr.poses.base import DEFAULT
from cclslr.shards.format import ManifestRow, RawClip
from cclslr.shards.pack import NothingPacked, PackOptions, PackReport, pack
from cclslr.shards.rejections import Rejected


@dataclass(frozen=True)
class Video:
    """A video file, and what is known of it by where it lies."""

    path: Path
    name: str  # path within the folder that was given, without suffix
    pose: Path | None = None  # keypoints (T, 133, 3), .npz or .npy; None: there are none yet

    @property
    def key(self) -> str:
        return clean_key(self.name)

    @property
    def gloss(self) -> str | None:
        """The first sub-folder, as for `cclslr pack folder`."""
        return self.name.split("/")[0] if "/" in self.name else None

    @property
    def source(self) -> VideoFile:
        return VideoFile(str(self.path), str(self.pose) if self.pose else None)


@dataclass(frozen=True)
class Decoded:
    """A `ClipSource`: a clip that is in memory already."""

    clip: RawClip = field(repr=False)

    def load(self) -> RawClip:
        """The clip, in a record of its own."""
        return replace(self.clip, meta=dict(self.clip.meta))


def find_videos(sources: Sequence[str | Path]) -> list[Video]:
    """The videos among files and folders, each with the keypoint file of its name that lies beside it.

    Raises:
        UserError: no such file or folder, a folder without videos, two videos of one name.
    """
    found: dict[str, Video] = {}
    for source in map(Path, sources):
        named = [(source.stem, source)]
        if source.is_dir():
            files = Files.walk(source, VIDEO_SUFFIXES)
            named = [(files.name(path), path) for path in files.paths]
        if not named or not source.exists():
            raise UserError(f"{source}: no such video, folder of videos or packed data set")
        for name, path in named:
            beside = (path.with_suffix(suffix) for suffix in POSE_SUFFIXES)
            video = Video(path, name, next((pose for pose in beside if pose.is_file()), None))
            if (twin := found.setdefault(video.key, video)) is not video:
                raise UserError(f"{twin.path} and {path} have one name: rename one, or give the folder above them")
    return list(found.values())


def pack_videos(
    videos: Sequence[Video], folder: Path, packing: dict[str, Any], needs_pose: bool, estimator: str = DEFAULT
) -> PackReport:
    """Pack videos into `folder`/shards, as clips of split "test" whose labels are their glosses.

    Keypoints that are missing are estimated first where the model or the crop needs them. A second call goes on where
    the first was stopped.

    Args:
        packing: keywords of `PackOptions` (`cclslr.shards.info.packing`).
        needs_pose: the model has a pose branch.
        estimator: name of a backend of `cclslr.poses`; take the one that the training data was made with.

    Raises:
        UserError: the estimator is not installed; no video can be used, with the reason.
    """
    labels = {gloss: label for label, gloss in enumerate(sorted({video.gloss for video in videos if video.gloss}))}
    rows, refused = [], []
    with progress_aside() as progress:
        task = progress.add_task("estimating keypoints", total=len(videos))
        for video in videos:
            try:
                if video.pose is None and (needs_pose or packing["crop"] == "signer"):
                    video = replace(video, pose=_estimated(video, folder / "poses" / f"{video.key}.npy", estimator))
                label = labels[video.gloss] if video.gloss else None
                rows.append(ManifestRow(video.key, video.source, label, video.gloss, "test", None))
            except BadClip as error:
                refused.append(Rejected(video.key, str(error), str(video.path)))
            progress.advance(task)
    options = PackOptions(**packing, allow_unlabelled=True)
    try:
        one = len(videos) == 1  # not worth a process and a progress bar of its own
        out, classes = folder / "shards", list(labels)
        return pack(rows, out, options, classes=classes, workers=0 if one else 1, rejected=refused, aside=one)
    except NothingPacked as error:
        first = error.rejected[0]
        pose = next(video.pose for video in videos if video.key == first.key)
        several = f"none of {len(videos)} videos can be used, e.g. " if len(videos) > 1 else ""
        raise UserError(several + _with_path(first.reason, first.source, pose)) from error


def pack_decoded(clip: RawClip, folder: Path, packing: dict[str, Any]) -> PackReport:
    """Pack one clip that is decoded already, its keypoints with it, into `folder`/shards, as `pack_videos` does.

    Raises:
        UserError: it cannot be used; says why.
    """
    row = ManifestRow("clip", Decoded(clip), None, None, "test", None)
    options = PackOptions(**packing, allow_unlabelled=True)
    try:
        return pack([row], folder / "shards", options, classes=[], workers=0, aside=True)
    except NothingPacked as error:
        raise UserError(error.rejected[0].reason) from error


def _estimated(video: Video, path: Path, estimator: str) -> Path:
    """The file of a video's estimated keypoints, which is made where it is not there."""
    if not path.exists():
        from cclslr.poses import estimate  # its estimators are extras

        keypoints_TKC = estimate(video.path, estimator)
        with atomic_write(path) as file:
            np.save(file, keypoints_TKC)
    return path


def _with_path(reason: str, video: str, pose: Path | None) -> str:
    """A reason that begins with a file's name, with the file's whole path in its place; any other is the video's."""
    for path in (Path(video), pose):
        if path is not None and reason.startswith(f"{path.name}: "):
            return f"{path}{reason.removeprefix(path.name)}"
    return f"{video}: {reason}"
