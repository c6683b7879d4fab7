"""Keypoints drawn over a picture: joints found, in the colours of their groups."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

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
