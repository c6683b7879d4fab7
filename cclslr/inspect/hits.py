"""The sheet of a search: the clip that was asked with above those that were found, a row of frames each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cclslr.inspect.contact import CAPTION, GAP, TILE

FRAMES = 6  # of a clip


@dataclass(frozen=True)
class Strip:
    """One clip of the sheet."""

    caption: str
    frames_THWC: np.ndarray | None  # uint8; None: its video is not at hand


def draw_strips(strips: list[Strip]) -> np.ndarray:
    """The clips one below the other, `FRAMES` frames at segment centres each: uint8 (H, W, 3)."""
    block = CAPTION + TILE + 3 * GAP
    sheet = Image.new("RGB", (FRAMES * (TILE + GAP), block * len(strips)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for number, strip in enumerate(strips):
        top = number * block
        draw.text((2 * GAP, top + GAP), strip.caption, "black", font)
        if strip.frames_THWC is None:
            draw.text((2 * GAP, top + CAPTION + TILE // 2), "its video is not at hand", "grey", font)
            continue
        centres = ((np.arange(FRAMES) + 0.5) / FRAMES * len(strip.frames_THWC)).astype(int)
        for place, frame_HWC in enumerate(strip.frames_THWC[centres]):
            sheet.paste(_square(frame_HWC), (place * (TILE + GAP), top + CAPTION))
    return np.asarray(sheet)


def _square(frame_HWC: np.ndarray) -> Image.Image:
    """The whole frame in a grey square."""
    height, width = frame_HWC.shape[:2]
    scale = TILE / max(height, width)
    small = Image.fromarray(frame_HWC).resize((max(1, round(width * scale)), max(1, round(height * scale))))
    square = Image.new("RGB", (TILE, TILE), (225, 225, 225))
    square.paste(small, ((TILE - small.width) // 2, (TILE - small.height) // 2))
    return square
