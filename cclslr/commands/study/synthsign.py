"""How hard SynthSign is for plain baselines.

Hand-made features and linear classifiers on signers never seen in training. No network is trained. The figures say that
classes can be told apart neither trivially nor hopelessly, and which cue (handshape, mouth, fine movement) each
modality sees once the coarse movement is known.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cclslr.cli import command_parser
from cclslr.console import console, progress_bar
from cclslr.datasets.synthetic import SynthClip, SynthOptions, manifest
from cclslr.datasets.synthetic.signs import CUES
from cclslr.environment import describe
from cclslr.files import write_json
from cclslr.keypoints import NOSE_TIP, SLICES, select

EPILOG = """examples:
  cclslr study synthsign --out docs/results/synthsign/difficulty.json
  cclslr study synthsign --labels 3 --seed 1 --out /tmp/difficulty.json
"""
CELLS, ORIENTATIONS, SIDE = 8, 8, 64


def pose_features(keypoints_TKC: np.ndarray) -> np.ndarray:
    """Means, deviations and speeds over parts of the clip, of joints relative to body, wrist or nose."""
    joints = select(keypoints_TKC).astype(np.float64)
    body = joints[:, SLICES["body"], :2]
    low, high = body.min(axis=(0, 1)), body.max(axis=(0, 1))
    origin = np.broadcast_to((low + high) / 2, (len(joints), 75, 2)).copy()
    for group, root in (("left_hand", None), ("right_hand", None), ("face", NOSE_TIP), ("mouth", NOSE_TIP)):
        first = SLICES[group].start if root is None else root
        origin[:, SLICES[group]] = joints[:, first : first + 1, :2]
    x_TJ2 = (joints[..., :2] - origin) / (high - low).max()
    x_TJ2[joints[..., 2] <= 0.3] = np.nan
    parts = [np.nanmean(part, axis=0) for part in np.array_split(x_TJ2, 12)] + [np.nanstd(x_TJ2, axis=0)]
    for lag in (2, 4):
        speed = np.abs(x_TJ2[lag:] - x_TJ2[:-lag])
        parts += [np.nanmean(part, axis=0) for part in np.array_split(speed, 3)]
    return np.nan_to_num(np.stack(parts)).ravel()


def _gradients(gray_HW: np.ndarray) -> np.ndarray:
    """A histogram of oriented gradients."""
    gy, gx = np.gradient(gray_HW)
    bins = np.minimum((np.arctan2(gy, gx) % np.pi) / np.pi * ORIENTATIONS, ORIENTATIONS - 1).astype(int)
    cell_y, cell_x = np.mgrid[:SIDE, :SIDE] // (SIDE // CELLS)
    histogram = np.zeros((CELLS, CELLS, ORIENTATIONS))
    np.add.at(histogram, (cell_y, cell_x, bins), np.hypot(gy, gx))
    return histogram / (np.linalg.norm(histogram, axis=2, keepdims=True) + 8)


def rgb_features(frames_THWC: np.ndarray) -> np.ndarray:
    """Oriented gradients of eight frames and of the changes between frames, at 64x64; small maps of the changes."""
    gray = np.stack([np.asarray(Image.fromarray(f).convert("L").resize((SIDE, SIDE), 4)) for f in frames_THWC])
    gray = gray.astype(np.float32)
    changes = np.abs(np.diff(gray, axis=0))
    moments = (np.linspace(0.12, 0.88, 8) * (len(gray) - 1)).astype(int)
    parts = [_gradients(gray[t]) for t in moments]
    parts += [_gradients(3 * part.mean(axis=0)) for part in np.array_split(changes, 4)]
    maps = [part.mean(axis=0).reshape(16, 4, 16, 4).mean(axis=(1, 3)) / 40 for part in np.array_split(changes, 8)]
    return np.concatenate([part.ravel() for part in (*parts, *maps)])


def score(log_prob_NC: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Top-1, share with the right pair of twins, and within those the share with the right twin, by cue."""
    guess = log_prob_NC.argmax(axis=1)
    right, family = guess == truth, guess // 2 == truth // 2
    cue = (truth // 2) % len(CUES)
    result = {"top1": right.mean(), "pair": family.mean()}
    result |= {f"twin_{name}": right[family & (cue == k)].mean() for k, name in enumerate(CUES)}
    return {name: round(float(value), 3) for name, value in result.items()}


def main(argv: list[str] | None = None) -> None:
    parser = command_parser(__name__, __doc__, EPILOG)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--labels", type=int, nargs="+", default=[3, 5, 20], help="training clips a class (3 5 20)")
    parser.add_argument("--draws", type=int, default=3, help="draws of the training clips (default 3)")
    parser.add_argument("--seed", type=int, default=0, help="of the data set (default 0)")
    args = parser.parse_args(argv)
    most = max(args.labels)
    options = SynthOptions(clips_per_class=(most, 0, 10), signers=(12, 0, 8), size=96, frames=(32, 48), seed=args.seed)
    rows = manifest(options)
    features: dict[str, list[np.ndarray]] = {"pose": [], "rgb": []}
    seconds = 0.0
    with progress_bar() as bar, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # joints never found have no mean
        for row in bar.track(rows, description="rendering"):
            assert isinstance(row.source, SynthClip)
            before = time.process_time()
            clip = row.source.load()
            seconds += time.process_time() - before
            assert clip.frames_THWC is not None
            assert clip.keypoints_TKC is not None
            features["pose"].append(pose_features(clip.keypoints_TKC))
            features["rgb"].append(rgb_features(clip.frames_THWC))
    x = {name: np.stack(values) for name, values in features.items()}
    label = np.array([row.label for row in rows])
    train = np.array([row.split == "train" for row in rows])
    results = []
    for count in args.labels:
        for draw in range(args.draws if count < most else 1):
            rng = np.random.default_rng(draw)
            chosen = np.concatenate(
                [rng.permutation(np.flatnonzero(train & (label == k)))[:count] for k in range(options.classes)]
            )
            log_prob = {}
            for name, reduce in (("pose", []), ("rgb", [PCA(min(150, len(chosen) - 1), random_state=0)])):
                model = make_pipeline(*reduce, StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
                log_prob[name] = model.fit(x[name][chosen], label[chosen]).predict_log_proba(x[name][~train])
            log_prob["fused"] = log_prob["pose"] + log_prob["rgb"]
            scores = {name: score(value, label[~train]) for name, value in log_prob.items()}
            results.append({"labels_per_class": count, "draw": draw, **scores})
            console.print(count, draw, {name: value["top1"] for name, value in scores.items()})
    write_json(
        args.out,
        {
            "command": f"cclslr study synthsign --out {args.out} --labels {' '.join(map(str, args.labels))}"
            f" --draws {args.draws} --seed {args.seed}",
            "environment": describe(),
            "test_clips": int((~train).sum()),
            "render_clips_per_core_second": round(len(rows) / seconds, 1),
            "results": results,
            "confusion_most_labels": {
                name: confusion_matrix(label[~train], value.argmax(axis=1)).tolist() for name, value in log_prob.items()
            },
        },
    )
