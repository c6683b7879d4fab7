"""Keypoints drawn over a picture or a film: joints found, in the colours of their groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cclslr.inspect.contact import COLOURS
from cclslr.keypoints import CONFIDENT, EDGES, SLICES, select


def draw_keypoints(image: Image.Image, points_KC: np.ndarray, scale: float = 1.0, width: int = 2) -> None:
    """Draw the joints' edges into `image`.

    Args:
        points_KC: (133, 3), x and y in pixels, confidence.
        scale: pixels of the image a pixel of the points.
        width: of the lines, in pixels.
    """
    canvas, joints_JC = ImageDraw.Draw(image), select(points_KC.astype(np.float32))
    for group, edges in EDGES.items():
        start = SLICES[group].start
        for a, b in edges:
            ends = joints_JC[[start + a, start + b]]
            if (ends[:, 2] > CONFIDENT).all():
                canvas.line([*(ends[:, :2] * scale).ravel().tolist()], fill=COLOURS[group], width=width)


def annotated(
    frames_THWC: np.ndarray,
    keypoints_TKC: np.ndarray | None,
    fps: float,
    height: int,
    most: int,
    lines: Sequence[str] = (),
) -> tuple[list[Image.Image], float]:
    """A clip as a film with its keypoints.

    Args:
        frames_THWC: uint8 RGB.
        keypoints_TKC: (T, 133, 3) in their pixels; None: they are not drawn.
        fps: frames a second of the clip; the film takes as long.
        height: pixels of the film at most.
        most: frames of the film, evenly spread.
        lines: of text, at the top of each picture.

    Returns:
        Its pictures, and for how many milliseconds each is shown.
    """
    total, rows, columns, _ = frames_THWC.shape
    chosen = np.unique(np.linspace(0, total - 1, min(total, most)).round().astype(int))
    scale = min(1.0, height / rows)
    size = max(1, round(columns * scale)), max(1, round(rows * scale))
    images = []
    for t in chosen:
        image = Image.fromarray(frames_THWC[t]).resize(size, Image.Resampling.BILINEAR)
        if keypoints_TKC is not None:
            draw_keypoints(image, keypoints_TKC[t], scale)
        if lines:
            font = ImageFont.load_default(max(10, size[1] // 24))
            ImageDraw.Draw(image).text((4, 2), "\n".join(lines), "white", font, stroke_width=2, stroke_fill="black")
        images.append(image)
    return images, 1000 * total / max(fps, 1e-6) / len(images)


def write_film(file: IO[bytes], images: list[Image.Image], milliseconds: float) -> None:
    """Write a WebP: a picture, or a film that goes round."""
    film: dict[str, Any] = {"save_all": True, "append_images": images[1:], "loop": 0}
    film["duration"] = max(1, round(milliseconds))
    images[0].save(file, "WEBP", quality=60, method=0, **(film if len(images) > 1 else {}))
