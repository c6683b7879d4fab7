"""`python -m cclslr.datasets.synthetic --picture docs/pictures/synthsign.png`: look at the data set."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ...console import console, run_command
from ...files import atomic_write
from ...keypoints import EDGES, GROUPS, SLICES, select
from . import SynthClip, SynthOptions

COLOURS = {"body": "#ffd400", "left_hand": "#00e0ff", "right_hand": "#ff4fd8", "face": "#ffffff", "mouth": "#ff3b30"}
MOMENTS = (0.0, 0.35, 0.6)  # through the clip; the last is shown with the keypoints too


def draw_keypoints(frame_HWC: np.ndarray, keypoints_KC: np.ndarray) -> Image.Image:
    """The frame with the 75 joints that the models use, joined along the skeleton; lost ones are left out."""
    picture = Image.fromarray(frame_HWC)
    pencil = ImageDraw.Draw(picture)
    joints = select(keypoints_KC)
    for group in GROUPS:
        points = joints[SLICES[group]]
        for a, b in EDGES[group]:
            if group == "face" and a == 17:  # the rays from the nose would hide the face
                continue
            if min(points[a, 2], points[b, 2]) > 0.3:
                pencil.line((*points[a, :2], *points[b, :2]), fill=COLOURS[group], width=1)
    return picture


def contact_sheet(clips: list[SynthClip]) -> Image.Image:
    """One row a clip: three moments as rendered, and the last again under the keypoints."""
    rows = []
    for clip in clips:
        raw = clip.load()
        assert raw.frames_THWC is not None
        assert raw.keypoints_TKC is not None
        at = [int(moment * (len(raw.frames_THWC) - 1)) for moment in MOMENTS]
        drawn = draw_keypoints(raw.frames_THWC[at[-1]], raw.keypoints_TKC[at[-1]])
        rows.append(np.concatenate([*raw.frames_THWC[at], np.asarray(drawn)], axis=1))
    half = (len(rows) + 1) // 2
    columns = [np.concatenate(rows[:half]), np.concatenate(rows[half:])]
    sheet = Image.new("RGB", (sum(column.shape[1] for column in columns), columns[0].shape[0]))
    sheet.paste(Image.fromarray(columns[0]), (0, 0))
    sheet.paste(Image.fromarray(columns[1]), (columns[0].shape[1], 0))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m cclslr.datasets.synthetic",
        description="Draw a contact sheet of SynthSign: eight signers, with the keypoints of an estimator.",
    )
    parser.add_argument("--picture", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--size", type=int, default=128, help="pixels of a frame (default 128)")
    parser.add_argument("--seed", type=int, default=0, help="of the data set (default 0)")
    args = parser.parse_args()
    options = SynthOptions(size=args.size, seed=args.seed, frames=(48, 48))
    clips = [SynthClip(options, index, label=2 * index, signer_id=index) for index in range(8)]
    with atomic_write(args.picture) as file:
        contact_sheet(clips).quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    console.print(f"{args.picture}: {len(clips)} signers")


if __name__ == "__main__":
    run_command(main)
