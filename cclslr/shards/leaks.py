"""The same clip in two splits, found by content: by its bytes, by the motion in its frames, by its keypoints.

What circulates as another file is often the same take: trimmed, encoded again, resized, mirrored. Of each clip two
signatures are kept, at 25 a second: how the picture changes, on 12x12 cells, and how fast elbows, wrists and finger
tips move, in widths of the shoulders. Neither sees the size of the frames, nor what stands still,
so the studio and the signer alone make no two clips alike. Two clips are held against each other at every shift in
time, as they are and mirrored; what agrees over the better part of the shorter one is one take.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cclslr.keypoints import CONFIDENT
from cclslr.shards.format import RawClip

RATE = 25.0  # samples a second
JUMP = 0.5  # widths of the shoulders: a point that jumps farther was lost and found elsewhere
CELLS = 12  # a side
# Nose, elbows, wrists, then tips of thumb, index and little finger; the same of the mirrored signer.
POINTS = (0, 7, 8, 9, 10, 95, 99, 111, 116, 120, 132)
MIRRORED = (0, 2, 1, 4, 3, 8, 9, 10, 5, 6, 7)
LEFT_SHOULDER, RIGHT_SHOULDER = 5, 6
CANDIDATES = 200  # of a clip, by frames and by keypoints, that are held against it at every shift
MIN_OVERLAP = 0.6  # of the shorter clip, and at least so many samples:
MIN_SAMPLES = 8
# Agreement from which two clips are one take, chosen on seed 0 of docs/results/leaks: of the frames or of the
# keypoints; where a clip has both, the other has to agree by half.
FRAMES_AGREE, KEYPOINTS_AGREE, OTHER_AGREES = 0.88, 0.95, 0.5


@dataclass(frozen=True)
class Signature:
    """What is kept of a clip."""

    digest: bytes  # of its frames and keypoints as they are
    frames_TD: np.ndarray | None  # float16 (T, CELLS²): change of brightness; None: no video, or nothing moves
    keypoints_TD: np.ndarray | None  # float16 (T, 2 points): velocities; None: no keypoints, or nothing moves


@dataclass(frozen=True)
class Leak:
    """Two clips that are one take."""

    first: int  # which of the clips
    second: int
    kind: str  # bytes | frames | keypoints
    agreement: float  # up to 1
    mirrored: bool


def signature(clip: RawClip) -> Signature:
    """The signature of a decoded clip."""
    digest = hashlib.sha256()
    for array in (clip.frames_THWC, clip.keypoints_TKC):
        digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
    frames_TD = None if clip.frames_THWC is None else _change(clip.frames_THWC, clip.fps)
    keypoints_TD = None if clip.keypoints_TKC is None else _velocity(clip.keypoints_TKC, clip.fps)
    return Signature(digest.digest(), frames_TD, keypoints_TD)


def _change(frames_THWC: np.ndarray, fps: float) -> np.ndarray | None:
    """How the brightness of each cell changes, in levels."""
    small = [Image.fromarray(np.ascontiguousarray(frame[..., 1])) for frame in frames_THWC]  # green stands for grey
    cells_TD = np.stack([np.asarray(image.resize((CELLS, CELLS), Image.Resampling.BOX)).ravel() for image in small])
    return _moving(_smooth_change(_sampled(cells_TD.astype(np.float32), fps)), least=1.0)


def _velocity(keypoints_TKC: np.ndarray, fps: float) -> np.ndarray | None:
    """How fast each point moves, in widths of the shoulders; 0 where it was not found."""
    finite_TK = np.isfinite(keypoints_TKC).all(axis=-1)
    keypoints_TKC = np.where(finite_TK[..., None], keypoints_TKC, 0).astype(np.float32)
    found_TK = keypoints_TKC[..., 2] > CONFIDENT
    both_T = found_TK[:, LEFT_SHOULDER] & found_TK[:, RIGHT_SHOULDER]
    if not both_T.any():
        return None
    left_T2, right_T2 = (keypoints_TKC[both_T, joint, :2] for joint in (LEFT_SHOULDER, RIGHT_SHOULDER))
    width = float(np.median(np.linalg.norm(left_T2 - right_T2, axis=-1)))
    if width < 1:
        return None
    places_TP2, found_TP = keypoints_TKC[:, POINTS, :2] / width, found_TK[:, POINTS]
    for point in range(len(POINTS)):  # a point that is lost for a while waits where it was, and moves nowhere
        if found_TP[:, point].any():
            last = np.maximum.accumulate(np.where(found_TP[:, point], np.arange(len(places_TP2)), -1))
            places_TP2[:, point] = places_TP2[np.where(last < 0, np.argmax(found_TP[:, point]), last), point]
        else:
            places_TP2[:, point] = 0
    change_TD = _smooth_change(_sampled(places_TP2.reshape(len(places_TP2), -1), fps))
    return _moving(change_TD.clip(-JUMP, JUMP), least=0.02)


def _sampled(values_TD: np.ndarray, fps: float) -> np.ndarray:
    """Values at RATE a second, between two frames by their distance."""
    steps = np.arange(0, len(values_TD) - 0.999, max(fps, 1.0) / RATE)
    before = steps.astype(int)
    after = np.minimum(before + 1, len(values_TD) - 1)
    share = (steps - before)[:, None].astype(np.float32)
    return values_TD[before] * (1 - share) + values_TD[after] * share


def _smooth_change(values_TD: np.ndarray) -> np.ndarray:
    """The mean of the next three samples less that of the last three: noise and the phase of sampling fade."""
    sums_TD = np.concatenate([np.zeros_like(values_TD[:1]), np.cumsum(values_TD, axis=0)])
    means_TD = (sums_TD[3:] - sums_TD[:-3]) / 3
    return means_TD[3:] - means_TD[:-3]


def _moving(change_TD: np.ndarray, least: float) -> np.ndarray | None:
    """The change, or None where the clip is too short, or too still to be told from others."""
    if len(change_TD) < MIN_SAMPLES or float(np.sqrt((change_TD**2).mean())) < least:
        return None
    return change_TD.astype(np.float16)


def _mirror_frames(values_TD: np.ndarray) -> np.ndarray:
    return values_TD.reshape(-1, CELLS, CELLS)[..., ::-1].reshape(len(values_TD), -1)


def _mirror_keypoints(values_TD: np.ndarray) -> np.ndarray:
    return (values_TD.reshape(len(values_TD), -1, 2)[:, list(MIRRORED)] * (-1, 1)).reshape(len(values_TD), -1)


def agreement(a_TD: np.ndarray, b_TD: np.ndarray) -> float:
    """The largest correlation of two clips' signatures over all shifts in time, -1 to 1."""
    a_TD, b_TD = a_TD.astype(np.float32), b_TD.astype(np.float32)
    products = a_TD @ b_TD.T
    energy_a, energy_b = (np.concatenate([[0], np.cumsum((x_TD**2).sum(axis=1))]) for x_TD in (a_TD, b_TD))
    least = max(MIN_SAMPLES, int(MIN_OVERLAP * min(len(a_TD), len(b_TD))))
    best = -1.0
    for shift in range(least - len(a_TD), len(b_TD) - least + 1):  # a's sample t beside b's t + shift
        begin, end = max(0, -shift), min(len(a_TD), len(b_TD) - shift)
        energy = (energy_a[end] - energy_a[begin]) * (energy_b[end + shift] - energy_b[begin + shift])
        if energy > 0:
            # What of the shorter clip lies outside the overlap counts against it: half a sign is no copy.
            least_energy = energy_a[-1] * (energy_b[end + shift] - energy_b[begin + shift])
            if len(b_TD) < len(a_TD):
                least_energy = energy_b[-1] * (energy_a[end] - energy_a[begin])
            best = max(best, float(products.trace(shift)) / float(np.sqrt(max(energy, least_energy))))
    return best


def find_leaks(signatures: Sequence[Signature | None], splits: Sequence[str]) -> list[Leak]:
    """The pairs of clips in different splits that are one take, each once, by the strongest evidence.

    Args:
        signatures: of each clip; None: it is left out.
        splits: of each clip.
    """
    found: dict[tuple[int, int], Leak] = {}
    by_digest: dict[bytes, list[int]] = {}
    for clip, signed in enumerate(signatures):
        if signed is not None:
            by_digest.setdefault(signed.digest, []).append(clip)
    for clips in by_digest.values():
        for place, first in enumerate(clips):
            for second in clips[place + 1 :]:
                if splits[first] != splits[second]:
                    found[first, second] = Leak(first, second, "bytes", 1.0, False)
    for mirrored in (False, True):
        pairs = _candidates(
            [None if s is None else s.frames_TD for s in signatures], splits, _mirror_frames if mirrored else None
        )
        pairs |= _candidates(
            [None if s is None else s.keypoints_TD for s in signatures], splits, _mirror_keypoints if mirrored else None
        )
        for first, second in sorted(pairs):
            a, b = signatures[first], signatures[second]
            assert a is not None
            assert b is not None
            if (first, second) not in found and (judged := judge(a, b, mirrored)) is not None:
                found[first, second] = Leak(first, second, *judged, mirrored)
    return [found[pair] for pair in sorted(found)]


def judge(a: Signature, b: Signature, mirrored: bool) -> tuple[str, float] | None:
    """By what two clips are one take, and how well they agree; None: they are two."""
    frames = keypoints = None
    if a.frames_TD is not None and b.frames_TD is not None:
        frames = agreement(a.frames_TD, _mirror_frames(b.frames_TD) if mirrored else b.frames_TD)
    if a.keypoints_TD is not None and b.keypoints_TD is not None:
        keypoints = agreement(a.keypoints_TD, _mirror_keypoints(b.keypoints_TD) if mirrored else b.keypoints_TD)
    for kind, value, least, other in (
        ("frames", frames, FRAMES_AGREE, keypoints),
        ("keypoints", keypoints, KEYPOINTS_AGREE, frames),
    ):
        if value is not None and value >= least and (other is None or other >= OTHER_AGREES):
            return kind, value
    return None


Mirror = Callable[[np.ndarray], np.ndarray]


def _candidates(
    values: Sequence[np.ndarray | None], splits: Sequence[str], mirror: Mirror | None
) -> set[tuple[int, int]]:
    """Pairs of clips in different splits whose motion is spread alike, the likeliest of each clip of test and val."""
    pairs: set[tuple[int, int]] = set()
    there = [clip for clip, value in enumerate(values) if value is not None]
    for split, against in (("test", ("train", "val")), ("val", ("train",))):
        others = [clip for clip in there if splits[clip] in against]
        if not others:
            continue
        others_ND = np.stack([_spread(values[clip]) for clip in others])
        for clip in (clip for clip in there if splits[clip] == split):
            value_TD = values[clip]
            assert value_TD is not None
            likeness_N = others_ND @ _spread(value_TD if mirror is None else mirror(value_TD))
            for place in np.argsort(-likeness_N, kind="stable")[:CANDIDATES].tolist():
                pairs.add((min(clip, others[place]), max(clip, others[place])))
    return pairs


def _spread(values_TD: np.ndarray | None) -> np.ndarray:
    """Where a clip moves, whenever: float32 (D,) of length 1."""
    assert values_TD is not None
    energy_D = np.sqrt((values_TD.astype(np.float32) ** 2).sum(axis=0))
    return energy_D / max(float(np.linalg.norm(energy_D)), 1e-9)
