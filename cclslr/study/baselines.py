"""Baselines on the same shards, splits and draws of labels as fine-tuning: no network of theirs is trained.

Features: `shoulders`, body and hands about the clip's mean shoulders, in units of their distance; `input`, what the
pose encoder gets; `encoder`, g of a pre-trained checkpoint, frozen. Classifiers: `logistic`, a logistic regression on
standardised features; `nearest`, the nearest labelled clip, by Euclidean distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cclslr import checkpoint
from cclslr.config import DataConfig, ModelConfig, PretrainConfig, RunConfig, ViewConfig, load_config
from cclslr.data.plan import select_clips
from cclslr.data.pose import CONFIDENT
from cclslr.distributed import Process, process_group
from cclslr.errors import UserError
from cclslr.files import write_json
from cclslr.inference.embed import features_of
from cclslr.inference.features import FeatureSet
from cclslr.inference.passes import Outputs, over_clips
from cclslr.keypoints import WHOLEBODY
from cclslr.keys import key
from cclslr.models.ccl import Branches, ByModality
from cclslr.models.fusion import join
from cclslr.models.precision import Precision
from cclslr.shards.reader import ShardSet
from cclslr.training.metrics import accuracies

LEFT_SHOULDER, RIGHT_SHOULDER = 5, 6  # of the whole-body keypoints
COORDINATES = ("shoulders", "input")  # features that no network made
USED = [k for group in ("body", "left_hand", "right_hand") for k in WHOLEBODY[group]]


@dataclass
class BaselineConfig:
    """`cclslr study baseline`."""

    data: DataConfig = field(default_factory=DataConfig)
    views: ViewConfig = field(default_factory=lambda: ViewConfig(pose_frames=12))
    model: ModelConfig = field(default_factory=lambda: ModelConfig(modalities=["pose"]))
    run: RunConfig = field(default_factory=lambda: RunConfig(dir="runs/baseline"))
    features: str = key("shoulders", "what is classified", choices=(*COORDINATES, "encoder"))
    classifier: str = key("logistic", "how", choices=("logistic", "nearest"))
    pretrained: str | None = key(None, "checkpoint of cclslr train, for the features of its encoder")
    eval_split: str = key("test", "clips of this split are classified")


def about_shoulders(keypoints_TKC: np.ndarray, frames: int) -> np.ndarray:
    """(T, 133, 3) → (frames * 49 * 2,) float32: x and y of body and hands at the centres of `frames` segments.

    Origin and unit are the mean of the shoulders' middle and of their distance over the clip. What is not confident is
    0, and so is a clip without shoulders.
    """
    points_TKC = keypoints_TKC.astype(np.float32)
    shoulders_T2C = points_TKC[:, [LEFT_SHOULDER, RIGHT_SHOULDER]]
    seen_T = (shoulders_T2C[..., 2] > CONFIDENT).all(1)
    flat = np.zeros((frames, len(USED), 2), np.float32)
    unit = np.linalg.norm(np.diff(shoulders_T2C[seen_T, :, :2], axis=1), axis=-1).mean() if seen_T.any() else 0.0
    if unit > 0:
        origin = shoulders_T2C[seen_T, :, :2].mean((0, 1))
        shown = ((np.arange(frames) + 0.5) * len(points_TKC) / frames).astype(int)
        used_TKC = points_TKC[shown][:, USED]
        confident = used_TKC[..., 2:] > CONFIDENT
        flat = np.where(confident, (used_TKC[..., :2] - origin) / unit, 0.0).astype(np.float32)
    return flat.ravel()


def features(cfg: BaselineConfig, shards: ShardSet, process: Process) -> dict[str, np.ndarray]:
    """The features of every clip, (N, D) by branch.

    Raises:
        UserError: features of an encoder without a checkpoint, a clip that cannot be read.
    """
    if cfg.features == "shoulders":
        rows = []
        for clip_id in range(len(shards)):
            pose_TKC = shards.read(clip_id, ("pose",)).pose_TKC
            if pose_TKC is None:
                raise UserError(f"clip {shards.rows[clip_id].key} has no keypoints")
            rows.append(about_shoulders(pose_TKC, cfg.views.pose_frames))
        return {"pose": np.stack(rows)}
    if cfg.features == "input":

        def forward(views: ByModality) -> ByModality:
            return views

        views, modalities = cfg.views, ["pose"]
    else:
        if cfg.pretrained is None:
            raise UserError("features=encoder needs pretrained=CHECKPOINT")
        state = checkpoint.load(cfg.pretrained)
        stored = load_config(PretrainConfig, None, ["model.rgb_weights=null"], stored=state["config"])
        query = Branches(stored.model)
        query.load_state_dict(state["query"])
        query.to(process.device).eval()

        def forward(views: ByModality) -> ByModality:
            return query(views)[0]

        views, modalities = stored.views, stored.model.modalities
    precision = Precision(cfg.run.amp, process.device)
    found, clip_ids, _ = over_clips(forward, shards, cfg.data, views, modalities, 32, precision, process)
    if len(clip_ids) < len(shards):
        raise UserError(f"{len(shards) - len(clip_ids)} clips cannot be read; see cclslr check")
    return {name: x.flatten(1).numpy() for name, x in join(found).items()}


def coordinates(paths: Sequence[str], what: str, frames: int) -> FeatureSet:
    """The coordinates of every clip as one vector of length 1, in the place of an encoder's g.

    Args:
        what: one of `COORDINATES`.
        frames: of each clip, evenly spread.

    Raises:
        UserError: a clip without keypoints, or one that cannot be read.
    """
    shards = ShardSet(list(paths))
    cfg = BaselineConfig(DataConfig(list(paths)), ViewConfig(pose_frames=frames), features=what)
    x_ND = torch.from_numpy(features(cfg, shards, Process(0, 1, torch.device("cpu")))["pose"])
    values = {"g_pose": F.normalize(x_ND, dim=1)}
    found = features_of(shards, Outputs(values, torch.arange(len(shards)), torch.tensor(shards.rows.labels_N)))
    found.about = {"features": what, "frames": frames, "shards": list(paths)}
    return found


def classify(how: str, train_ND: np.ndarray, labels_N: np.ndarray, test_QD: np.ndarray, classes: int) -> np.ndarray:
    """Scores (Q, classes), higher is likelier; -inf for a class without a labelled clip."""
    scores_QK = np.full((len(test_QD), classes), -np.inf)
    present = np.unique(labels_N)
    if how == "logistic":
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(train_ND, labels_N)
        scores_QK[:, present] = model.predict_log_proba(test_QD)
    else:
        distances_QN = torch.cdist(torch.from_numpy(test_QD).double(), torch.from_numpy(train_ND).double()).numpy()
        for label in present:
            scores_QK[:, label] = -distances_QN[:, labels_N == label].min(1)
    return scores_QK


def baseline(cfg: BaselineConfig, process: Process) -> dict[str, dict[str, float]]:
    """Accuracies on the evaluated split, by branch."""
    train, test = (ShardSet(cfg.data.shards, split=split) for split in (cfg.data.split, cfg.eval_split))
    labels_N = train.rows.labels_N
    chosen = select_clips(labels_N, cfg.run.seed, cfg.data.share, cfg.data.labels_per_class)
    chosen = chosen[labels_N[chosen] >= 0]
    truth_Q = torch.from_numpy(test.rows.labels_N.astype(np.int64))
    labelled = truth_Q >= 0
    if not len(chosen) or not labelled.any():
        raise UserError(f"{', '.join(cfg.data.shards)}: no labelled clip in {cfg.data.split} or in {cfg.eval_split}")
    of_train, of_test = features(cfg, train, process), features(cfg, test, process)
    scores = {}
    for branch, x_ND in of_train.items():
        scores_QK = classify(cfg.classifier, x_ND[chosen], labels_N[chosen], of_test[branch], len(train.classes))
        scores[branch] = accuracies(torch.from_numpy(scores_QK)[labelled], truth_Q[labelled])
    return scores


def run(cfg: BaselineConfig) -> dict[str, dict[str, float]]:
    """`baseline`, with its scores in run.dir/<split>.json."""
    with process_group(cfg.run.device) as process:
        scores = baseline(cfg, process)
    write_json(Path(cfg.run.dir) / f"{cfg.eval_split}.json", {"split": cfg.eval_split, "scores": scores})
    return scores
