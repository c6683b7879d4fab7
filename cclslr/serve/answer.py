"""What a model says of a clip, as the page shows it: plain JSON, pictures within."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cclslr.errors import BadClip
from cclslr.inference.dictionary import Frames, default_feature
from cclslr.inference.features import FeatureSet
from cclslr.inference.model import Embedding, Model, Prediction
from cclslr.inference.retrieval import search
from cclslr.inspect.keypoints import annotated, write_film
from cclslr.keypoints import CONFIDENT
from cclslr.poses import Estimator
from cclslr.serve.limits import Limits, check_video
from cclslr.shards.decode import decode_file

FILM_HEIGHT, FILM_FRAMES = 240, 48  # pixels; of a film, evenly spread
STRIP_HEIGHT, STRIP_FRAMES = 90, 5  # of a dictionary's clip
TOP = 5


@dataclass
class Answerer:
    """A model, an estimator and, where there is one, a dictionary. One clip at a time."""

    model: Model
    estimator: Estimator
    index: FeatureSet | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        self._frames = None if self.index is None else Frames(self.index)

    def __call__(self, path: Path) -> dict[str, Any]:
        """Everything about the video in `path`, which is only read.

        Returns:
            "top": branch → [[gloss, probability], …], empty for a pre-trained model; "nearest": of the dictionary;
            "film": a WebP as data URI; "stages": milliseconds by name; "frames", "fps", "found" (share of the frames
            with a hand).

        Raises:
            UserError: it cannot be used; says why.
        """
        stages: dict[str, float] = {}
        with timed(stages, "decode"):
            check_video(path, self.limits)
            clip = decode_file(path)
            frames_THWC = clip.frames_THWC
            assert frames_THWC is not None
        with timed(stages, "keypoints"):
            keypoints_TKC = self.estimator(frames_THWC)
            if not np.isfinite(keypoints_TKC).all() or not (keypoints_TKC[..., 2] > CONFIDENT).any():
                raise BadClip("nobody was found in the video: the signer's head, arms and hands must be seen")
        with timed(stages, "recognise"):
            clip.keypoints_TKC = keypoints_TKC
            embedded = self.model.embed(clip)
        with timed(stages, "nearest"):
            nearest = self.nearest(embedded)
        with timed(stages, "film"):
            film = film_of(frames_THWC, keypoints_TKC, clip.fps)
        hands_T = (keypoints_TKC[:, 91:, 2] > CONFIDENT).any(1)
        return {
            "top": top_of(self.model, embedded),
            "nearest": nearest,
            "film": film,
            "stages": {name: round(1000 * seconds, 1) for name, seconds in stages.items()},
            "frames": len(frames_THWC),
            "fps": round(clip.fps, 2),
            "hands": round(float(hands_T.mean()), 3),
        }

    def nearest(self, embedded: Embedding) -> list[dict[str, Any]]:
        """The clips of the dictionary that are nearest, one of each gloss, with a strip of frames."""
        if self.index is None or self._frames is None:
            return []
        name = default_feature(self.model, self.index)
        found = []
        for hit in search(embedded.g[name.removeprefix("g_")], self.index, name, TOP):
            key = self.index.keys[hit.row]
            frames_THWC = self._frames.of(key)
            strip = None if frames_THWC is None else strip_of(frames_THWC)
            gloss, score = self.index.glosses[hit.row], round(hit.score, 3)
            found.append({"gloss": gloss, "key": key, "score": score, "strip": strip})
        return found


def top_of(model: Model, embedded: Embedding) -> dict[str, list[tuple[str, float]]]:
    """The likeliest glosses by branch; none of a pre-trained model."""
    if not model.classes:
        return {}
    said = Prediction(model.classes, embedded.logits)
    return {branch: [(gloss, round(share, 4)) for gloss, share in said.top(TOP, branch)] for branch in said.logits}


@contextmanager
def timed(stages: dict[str, float], name: str) -> Iterator[None]:
    """Note how many seconds a stage took."""
    began = time.perf_counter()
    yield
    stages[name] = time.perf_counter() - began


def film_of(frames_THWC: np.ndarray, keypoints_TKC: np.ndarray, fps: float) -> str:
    """The clip with its keypoints, as a WebP within the page."""
    images, milliseconds = annotated(frames_THWC, keypoints_TKC, fps, FILM_HEIGHT, FILM_FRAMES)
    return data_uri(images, milliseconds)


def strip_of(frames_THWC: np.ndarray) -> str:
    """Some frames side by side."""
    total, height, width, _ = frames_THWC.shape
    size = max(1, round(width * STRIP_HEIGHT / height)), STRIP_HEIGHT
    sheet = Image.new("RGB", (STRIP_FRAMES * size[0], STRIP_HEIGHT))
    for place, t in enumerate(((np.arange(STRIP_FRAMES) + 0.5) / STRIP_FRAMES * total).astype(int)):
        sheet.paste(Image.fromarray(frames_THWC[t]).resize(size), (place * size[0], 0))
    return data_uri([sheet], 0)


def data_uri(images: list[Image.Image], milliseconds: float) -> str:
    """One picture, or a film of several, as WebP within the page."""
    file = io.BytesIO()
    write_film(file, images, milliseconds)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
