"""One person for the whole clip, the same one every time.

People are linked from frame to frame by the overlap of their boxes. The signer is the one whose box, weighted by how
central it is, covers most of the picture over the clip: large, in the middle, and there all along. Nothing is drawn at
random, and ties go to the earlier and then the more leftward track.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

MIN_OVERLAP = 0.3  # intersection over union of the same person in two frames that follow each other
MAX_GAP = 15  # frames that a person may be overlooked, half a second


@dataclass
class Track:
    """One person over time."""

    frames: list[int] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)  # (4,) x0, y0, x1, y1 for each of `frames`
    rows: list[int] = field(default_factory=list)  # which of the boxes found in each of `frames` it is


def overlap(a_N4: np.ndarray, b_M4: np.ndarray) -> np.ndarray:
    """Intersection over union of every box of `a` with every box of `b`: (N, 4), (M, 4) → (N, M)."""
    low = np.maximum(a_N4[:, None, :2], b_M4[None, :, :2])
    high = np.minimum(a_N4[:, None, 2:], b_M4[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    area_N = (a_N4[:, 2:] - a_N4[:, :2]).prod(axis=-1)
    area_M = (b_M4[:, 2:] - b_M4[:, :2]).prod(axis=-1)
    return shared / np.maximum(area_N[:, None] + area_M[None, :] - shared, 1e-9)


def link(boxes: dict[int, np.ndarray], max_gap: int = MAX_GAP) -> list[Track]:
    """Tracks of the boxes (N, 4) found in each frame; the best overlapping pair is linked first."""
    tracks: list[Track] = []
    for frame in sorted(boxes):
        found = boxes[frame].reshape(-1, 4)
        order = np.lexsort(found.T[::-1])  # from left to right, whatever order the detector has
        found = found[order]
        open_tracks = [track for track in tracks if frame - track.frames[-1] <= max_gap]
        free = set(range(len(found)))
        if open_tracks and len(found):
            table = overlap(np.stack([track.boxes[-1] for track in open_tracks]), found)
            taken: set[int] = set()
            for flat in np.argsort(-table, axis=None, kind="stable"):
                row, column = divmod(int(flat), len(found))
                if table[row, column] < MIN_OVERLAP:
                    break
                if row not in taken and column in free:
                    taken.add(row)
                    free.remove(column)
                    open_tracks[row].frames.append(frame)
                    open_tracks[row].boxes.append(found[column])
                    open_tracks[row].rows.append(int(order[column]))
        tracks += [Track([frame], [found[column]], [int(order[column])]) for column in sorted(free)]
    return tracks


def choose(tracks: list[Track], width: int, height: int) -> Track | None:
    """The signer's track, or None where there is nobody."""

    def weight(track: Track) -> float:
        boxes = np.clip(np.stack(track.boxes), 0, (width, height, width, height))
        share = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) / (width * height)
        centre = (boxes[:, 0] + boxes[:, 2]) / 2
        return float((share * (1 - np.abs(2 * centre / width - 1))).sum())

    return max(tracks, key=weight, default=None)


def fill(track: Track, num_frames: int, max_gap: int = MAX_GAP) -> tuple[np.ndarray, np.ndarray]:
    """The person's box in every frame: interpolated between two finds, held for `max_gap` frames around the others.

    Returns:
        boxes (T, 4), and present (T,) bool; where not present, boxes mean nothing.
    """
    times, known = np.arange(num_frames), np.array(track.frames)
    boxes = np.stack(track.boxes)
    filled = np.stack([np.interp(times, known, boxes[:, corner]) for corner in range(4)], axis=1)
    following = np.searchsorted(known, times)
    before = times - known[np.clip(following - 1, 0, None)]
    after = known[np.clip(following, None, len(known) - 1)] - times
    between = (times >= known[0]) & (times <= known[-1])
    return filled, between | (np.minimum(np.abs(before), np.abs(after)) <= max_gap)
