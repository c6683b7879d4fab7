"""SynthSign: isolated signs by rendered signers, made from nothing, with everything true about them known.

A clip is a pure function of the options and its number. `manifest` lists the clips, `SynthClip.load` renders one with
the keypoints that an estimator would report; `clean_keypoints` and `moving_region` tell the truth behind it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from cclslr.errors import UserError

from ...shards.format import SPLITS, ManifestRow, RawClip
from . import render
from .body import skeleton
from .estimator import observe
from .motion import Performance, perform
from .signer import Signer, draw_signer
from .signs import MAX_CLASSES, Sign, sign

_SIGNER, _SCENE, _MOTION, _ESTIMATOR, _LENGTH, _CAST = range(6)  # what a stream of random numbers is for


@dataclass(frozen=True)
class SynthOptions:
    """What the data set is made of."""

    classes: int = 20
    twins: int | None = None  # pairs among the classes that differ by one cue; None: all of them are in such pairs
    clips_per_class: tuple[int, int, int] = (20, 5, 10)  # of the train, val and test splits
    signers: tuple[int, int, int] = (12, 4, 8)  # of the train, val and test splits; no signer is in two of them
    size: int = 128  # pixels, both sides
    frames: tuple[int, int] = (32, 64)  # shortest and longest clip
    fps: float = 25.0
    seed: int = 0
    noise: float = 1.0  # factor on the keypoints' errors
    drop_out: float = 1.0  # factor on the rate at which the estimator loses a hand
    camera: float = 1.0  # factor on the movement of the camera
    video: bool = True  # render frames; without them, the keypoints are the same

    def __post_init__(self) -> None:
        if not 1 <= self.classes <= MAX_CLASSES:
            raise UserError(f"classes is {self.classes}; choose 1 to {MAX_CLASSES}")
        if self.twins is not None and not 0 <= 2 * self.twins <= self.classes:
            raise UserError(
                f"twins is {self.twins}; choose 0 to {self.classes // 2} pairs among {self.classes} classes"
            )
        if self.signs[-1] >= MAX_CLASSES:
            raise UserError(f"{self.classes} classes with {self.twins} twins need more than {MAX_CLASSES} signs")
        if min(self.clips_per_class) < 0 or any(c and not s for c, s in zip(self.clips_per_class, self.signers)):
            raise UserError(f"clips_per_class is {self.clips_per_class}, signers {self.signers}; clips need signers")
        if not 8 <= self.frames[0] <= self.frames[1]:
            raise UserError(f"frames is {self.frames}; choose 8 <= shortest <= longest")
        if self.size < 32:
            raise UserError(f"size is {self.size}; choose at least 32 pixels")

    @property
    def signs(self) -> tuple[int, ...]:
        """The sign of each label: families in order, the first `twins` of them with both of their signs."""
        twins = (self.classes + 1) // 2 if self.twins is None else self.twins
        numbers = [2 * family + twin for family in range(self.classes) for twin in range(2 if family < twins else 1)]
        return tuple(numbers[: self.classes])


def manifest(options: SynthOptions) -> list[ManifestRow]:
    """Every clip of the data set, split by split, class by class."""
    rows: list[ManifestRow] = []
    for split in range(len(SPLITS)):
        first = sum(options.signers[:split])
        for label in range(options.classes):
            cast = _rng(options, split, label, _CAST).permutation(options.signers[split])
            for take in range(options.clips_per_class[split]):
                index = len(rows)
                source = SynthClip(options, index, label, first + int(cast[take % len(cast)]))
                rows.append(
                    ManifestRow(f"synth-{options.seed}-{index:06d}", source, label, source.sign.gloss, SPLITS[split],
                                f"s{source.signer_id:03d}")
                )  # fmt: skip
    return rows


def _rng(options: SynthOptions, *key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((options.seed, *key))))


@dataclass(frozen=True)
class SynthClip:
    """One clip of one sign by one signer; renders itself."""

    options: SynthOptions
    index: int
    label: int
    signer_id: int

    @property
    def sign(self) -> Sign:
        """What is signed."""
        return sign(self.options.signs[self.label])

    @property
    def signer(self) -> Signer:
        """Who signs."""
        return draw_signer(_rng(self.options, self.signer_id, _SIGNER))

    @property
    def num_frames(self) -> int:
        """T."""
        low, high = self.options.frames
        return int(_rng(self.options, self.index, _LENGTH).integers(low, high + 1))

    def performance(self) -> Performance:
        """How the sign is made this time."""
        return perform(self.sign, self.signer, self.num_frames, _rng(self.options, self.index, _MOTION))

    def _camera(self) -> tuple[float, np.ndarray]:
        """Shoulder width in pixels, and where the middle of the shoulders is (T, 2)."""
        rng, time = _rng(self.options, self.index, _SCENE), np.linspace(0, 1, self.num_frames)
        unit = 0.285 * self.options.size * rng.uniform(0.9, 1.1)
        where = np.array((0.5, 0.44)) + rng.normal(0, (0.03, 0.02))
        drift = (
            0.012
            * self.options.camera
            * np.sin(2 * np.pi * (rng.uniform(0, 1.5, 2) * time[:, None] + rng.uniform(size=2)))
        )
        return unit, (where + drift) * self.options.size

    def _points(self, performance: Performance) -> np.ndarray:
        unit, origin = self._camera()
        points = unit * skeleton(performance, self.signer)
        points[..., :2] += origin[:, None]
        return points

    def clean_keypoints(self) -> np.ndarray:
        """The true keypoints: (T, 133, 3) float32, x, y in pixels, confidence 1."""
        points = self._points(self.performance()).astype(np.float32)
        points[..., 2] = 1
        return points

    def load(self) -> RawClip:
        """Render the frames and estimate the keypoints."""
        options, signer, performance = self.options, self.signer, self.performance()
        points, (unit, _) = self._points(performance), self._camera()
        rng = _rng(options, self.index, _ESTIMATOR)
        exposure, grain, grain_seed = rng.uniform(0.8, 1.1), rng.uniform(1, 3), int(rng.integers(2**62))
        frames = self._render(performance, points, exposure, grain, grain_seed) if options.video else None
        keypoints = observe(points, unit, options.noise, options.drop_out, rng)
        meta = {
            "generator": "synthsign",
            "index": self.index,
            "seed": options.seed,
            "sign": dataclasses.asdict(self.sign),
            "span": list(performance.span),
            "true_signer": dataclasses.asdict(signer),
        }
        return RawClip(frames, keypoints, options.fps, meta)

    def _render(
        self, performance: Performance, points: np.ndarray, exposure: float, grain: float, grain_seed: int
    ) -> np.ndarray:
        options, signer, (unit, origin) = self.options, self.signer, self._camera()
        behind = render.background(options.size + 8, signer.background)
        shift = np.clip(np.rint(origin - origin.mean(axis=0)) + 4, 0, 8).astype(int)
        frames = np.stack([behind[y : y + options.size, x : x + options.size] for x, y in shift])
        upper, moving = render.arms(points, signer, unit)
        body = render.trunk(points, performance.mouth_T2, signer, unit)
        render.paint(frames, np.concatenate((body, upper), axis=1), 0.15)
        render.paint(frames, moving, 0.45)
        strength, direction = signer.light
        at = np.linspace(-1, 1, options.size)
        light = exposure + strength * (np.cos(direction) * at + np.sin(direction) * at[:, None])
        render.expose(frames, light.astype(np.float32), grain, grain_seed)
        return frames


def moving_region(clip: SynthClip) -> np.ndarray:
    """Where forearms and hands are in every frame: (T, size, size) bool; `.any(0)` is what they sweep."""
    unit, _ = clip._camera()
    _, moving = render.arms(clip._points(clip.performance()), clip.signer, unit)
    moving[..., 6:] = 255
    canvas = np.zeros((clip.num_frames, clip.options.size, clip.options.size, 3), dtype=np.uint8)
    render.paint(canvas, moving, 0.0)
    return canvas[..., 0] >= 128
