"""A dictionary: the clips of a feature file or of a packed set, the model that goes with it, and their frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cclslr.distributed import Process
from cclslr.errors import BadClip, UserError
from cclslr.inference.embed import checksum, describe, embed_here
from cclslr.inference.features import FeatureSet, read_features
from cclslr.inference.model import Model, load
from cclslr.shards.decode import decode_file
from cclslr.shards.reader import ShardSet


def open_index(
    path: Path, checkpoint: Path | None, split: str | None, overrides: list[str]
) -> tuple[Model, FeatureSet]:
    """The model and the clips to search.

    Raises:
        UserError: no checkpoint, another than that of the features, no clip of the split.
    """
    if path.is_dir():
        if checkpoint is None:
            raise UserError(f"{path} is a data set: give --checkpoint, or a feature file of it")
        model = load(checkpoint, overrides=overrides)
        shards = ShardSet([str(path)], split)
        about = describe(model, shards, {"shards": [str(path.resolve())], "split": split})
        return model, embed_here(model, shards, Process(0, 1, model.device), about)
    index = read_features(path)
    if split is not None:
        index = index.chosen(np.array(index.splits) == split)
    if not len(index):
        raise UserError(f"{path}: no clip of split {split!r}")
    if "checkpoint" not in index.about:
        raise UserError(
            f"{path}: features of no checkpoint, so no clip can be compared with them; cclslr embed makes such"
        )
    model = load(checkpoint or index.about["checkpoint"], overrides=overrides)
    if checksum(model.source) != index.about["checkpoint_sha256"]:
        raise UserError(
            f"{model.source} is not the checkpoint that {path} was made with; give that one with --checkpoint, or make "
            "the feature file again with cclslr embed"
        )
    return model, index


def searchable(index: FeatureSet) -> list[str]:
    return [name for name in index.values if not name.startswith("logits_")]


def default_feature(model: Model, index: FeatureSet) -> str:
    """The features to search by: of both branches where the index has them."""
    return "g_fused" if "g_fused" in index.values else f"g_{model.modalities[0]}"


class Frames:
    """The frames of a dictionary's clips, as far as their files are still there."""

    def __init__(self, index: FeatureSet) -> None:
        self._index = index
        self._shards = _shards(index)
        self._places = {} if self._shards is None else self._shards.rows.find(set(index.keys))

    def of(self, key: str) -> np.ndarray | None:
        """uint8 (T, H, W, 3) of the clip `key`; None where its video is not at hand."""
        if self._shards is not None and key in self._places:
            return _packed_frames(self._shards, self._places[key])
        if key in self._index.about.get("videos", {}):
            return file_frames(Path(self._index.about["videos"][key]))
        return None


def _shards(index: FeatureSet) -> ShardSet | None:
    """The data sets that the index is of, if they are still there."""
    try:
        return ShardSet(index.about["shards"]) if "shards" in index.about else None
    except (OSError, UserError):
        return None


def _packed_frames(shards: ShardSet, clip_id: int) -> np.ndarray | None:
    try:
        video = shards.read(clip_id, ("video",)).video
        return None if video is None else shards.codec(clip_id).decode(video)
    except BadClip:
        return None


def file_frames(path: Path) -> np.ndarray | None:
    """The frames of a video file; None where it cannot be read."""
    try:
        return decode_file(path).frames_THWC
    except BadClip:
        return None
