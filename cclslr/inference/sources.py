"""What a user calls clips: packed data sets, or videos that are packed for the occasion."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cclslr.distributed import Process
from cclslr.errors import UserError
from cclslr.files import read_json, write_json
from cclslr.inference.model import Model
from cclslr.inference.videos import find_videos, pack_videos
from cclslr.poses.base import DEFAULT
from cclslr.shards.info import INFO_NAME
from cclslr.shards.reader import ShardSet

VIDEOS_NAME = "videos"  # folder of packed videos, within that of the parts


def split_arguments(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(clips, overrides): what of a command line is a key=value of the config, unless there is a file of that name."""
    overrides = [word for word in words if "=" in word and not Path(word).exists()]
    return [word for word in words if word not in overrides], overrides


def open_clips(
    model: Model,
    clips: Sequence[str],
    split: str | None,
    folder: Path,
    process: Process,
    estimator: str = DEFAULT,
) -> tuple[ShardSet, dict[str, Any]]:
    """The clips to read, and where they are from, as plain JSON; every rank calls it.

    Args:
        clips: packed data sets, or videos and folders of videos; none: what the model was trained on.
        split: of packed data sets; None: all.
        folder: where videos are packed, which goes on where it was stopped.
        estimator: of keypoints that videos lack.

    Raises:
        UserError: both kinds at once, nothing there, no video that can be used.
    """
    paths = list(clips) or model.config.data.shards
    packed = ["://" in path or (Path(path) / INFO_NAME).is_file() for path in paths]
    if all(packed):
        where = [path if "://" in path else str(Path(path).resolve()) for path in paths]
        cfg = model.config.data
        shards = ShardSet(paths, split, cache_dir=cfg.cache_dir, cache_gb=cfg.cache_gb)
        return shards, {"shards": where, "split": split}
    if any(packed):
        raise UserError(f"{paths[packed.index(False)]} is no packed data set, others are; give one kind at a time")
    if split is not None:
        raise UserError("--split is for packed data sets; videos have none")
    about = process.from_main(lambda: _pack(model, paths, folder / VIDEOS_NAME, estimator))
    return ShardSet([str(folder / VIDEOS_NAME / "shards")]), about


def _pack(model: Model, paths: Sequence[str], folder: Path, estimator: str) -> dict[str, Any]:
    videos = find_videos(paths)
    packing = model.how_to_pack()
    asked = {"packing": packing, "estimator": estimator, "videos": [video.source.fingerprint() for video in videos]}
    known = folder / "asked.json"
    if not known.exists() or read_json(known) != asked:  # other videos than those that a stopped run had
        shutil.rmtree(folder, ignore_errors=True)
        write_json(known, asked)
    report = pack_videos(videos, folder, packing, "pose" in model.modalities, estimator)
    rejected = {item.key: item.reason for item in report.rejected}
    return {
        "videos": {video.key: str(video.path.resolve()) for video in videos if video.key not in rejected},
        "rejected": rejected,
    }
