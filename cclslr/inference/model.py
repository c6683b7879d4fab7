"""A checkpoint in use: features of a video, the sign in it. What `cclslr.load` gives.

    model = cclslr.load("runs/finetune/last.pt")
    model.embed("clip.mp4").g["fused"]            # (D,) float32, of length 1
    model.predict("clip.mp4", "clip.npz").top(5)  # [("drink", 0.81), …]

A clip goes the way of every other clip: packed as the training data was, read, decoded, viewed whole.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F

from cclslr import checkpoint
from cclslr.config import FinetuneConfig, PretrainConfig, load_config
from cclslr.distributed import Process, pick_device
from cclslr.errors import UserError
from cclslr.inference.passes import over_clips
from cclslr.inference.videos import find_videos, pack_decoded, pack_videos
from cclslr.inference.weights import WEIGHTS_NAME, read_weights
from cclslr.models.ccl import Branches, ByModality
from cclslr.models.classifier import Classifier, from_checkpoint, not_finetuned
from cclslr.models.fusion import fuse, join
from cclslr.models.precision import Precision
from cclslr.poses.base import DEFAULT
from cclslr.shards.format import RawClip
from cclslr.shards.info import packing
from cclslr.shards.reader import ShardSet

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Embedding:
    """What a model makes of one clip, by branch ("rgb", "pose"); where there are two, also "fused"."""

    g: Arrays  # (D,) float32 of length 1: the encoder's feature; fused: both side by side, again of length 1
    f: Arrays  # (embedding,) likewise, of the projection head; empty for a fine-tuned model, which has none
    logits: Arrays  # (classes,); fused: their sum, calibrated: with temperatures; empty for a pre-trained model


@dataclass(frozen=True)
class Prediction:
    """The signs that a clip may show."""

    classes: list[str]  # gloss of each class
    logits: Arrays  # (classes,) float32 by branch, and "fused" where there are two

    def probabilities(self, branch: str | None = None) -> np.ndarray:
        """(classes,) float64 that sum to 1; of the branches together unless one is named."""
        logits = self.logits[branch or ("fused" if "fused" in self.logits else next(iter(self.logits)))]
        shares = np.exp(logits.astype(np.float64) - logits.max())
        return shares / shares.sum()

    def top(self, count: int = 5, branch: str | None = None) -> list[tuple[str, float]]:
        """The likeliest glosses with their probabilities, likeliest first."""
        shares = self.probabilities(branch)
        return [(self.classes[place], float(shares[place])) for place in np.argsort(-shares, kind="stable")[:count]]


class Model:
    """The networks of a checkpoint, in evaluation mode on their device.

    Attributes:
        kind: "pre-training" or "fine-tuning", by the program that wrote the checkpoint.
        config: as it was trained, with the overrides.
        classes: gloss of each class; empty for a pre-trained model.
        packing: how its clips were packed, as keywords of `PackOptions`.
        source: path of the checkpoint.
    """

    def __init__(self, state: dict[str, Any], source: str, device: str, overrides: Sequence[str] = ()) -> None:
        """See `load`; `state` is the checkpoint's."""
        self.source = source
        self.config: PretrainConfig | FinetuneConfig
        self.network: Branches | Classifier
        if "query" in state:
            self.kind = checkpoint.KINDS["query"]
            told = ["model.rgb_weights=null", *overrides]
            self.config = load_config(PretrainConfig, None, told, stored=state["config"])
            self.network = Branches(self.config.model)
            self.network.load_state_dict(state["query"])
            self.classes: list[str] = []
        else:
            self.network = from_checkpoint(state, source)
            self.kind = checkpoint.KINDS["classifier"]
            self.config = load_config(FinetuneConfig, None, list(overrides), stored=state["config"])
            self.classes = state["classes"]
        self.packing: dict[str, Any] | None = state.get("packing")
        self.device = pick_device(device if device != "auto" else self.config.run.device)
        self.network.to(self.device).eval()
        self.precision = Precision(self.config.run.amp, self.device)

    @property
    def modalities(self) -> list[str]:
        return self.config.model.modalities

    def forward(self, views: ByModality) -> ByModality:
        """Views (B, …) by modality → g_<branch>, f_<branch> and logits_<branch> (B, …) float32, as in `Embedding`."""
        f: ByModality = {}
        logits: ByModality = {}
        if isinstance(self.network, Branches):
            embedded = {m: self.network.branch[m](x) for m, x in views.items()}  # one branch alone, too
            g, f = ({m: pair[place] for m, pair in embedded.items()} for place in (0, 1))
        else:
            features = self.network.features(views)
            g = {m: F.normalize(x.float(), dim=1) for m, x in features.items()}
            logits = fuse(self.network.logits(features), self.network.temperatures)
        kinds = {"g": join(g), "f": join(f), "logits": logits}
        return {f"{kind}_{branch}": x for kind, of in kinds.items() for branch, x in of.items()}

    def embed(
        self, video: str | Path | RawClip, pose: str | Path | np.ndarray | None = None, estimator: str = DEFAULT
    ) -> Embedding:
        """The features of a video file.

        Args:
            video: any file that FFmpeg reads; or a clip that is decoded already, with its keypoints if the model needs
                them (then the other arguments say nothing).
            pose: its keypoints (T, 133, 3), as .npz, .npy or array: x, y in pixels of the video, confidence. None: the
                file of the video's name beside it or, where there is none and the model needs them, estimated.
            estimator: by what they are estimated; take the one that the training data was made with.

        Raises:
            UserError: the video or the keypoints cannot be used; says why.
        """
        outputs = self._outputs(video, pose, estimator)
        kinds: dict[str, Arrays] = {"g": {}, "f": {}, "logits": {}}
        for name, x in outputs.items():
            kind, branch = name.split("_", 1)
            kinds[kind][branch] = x
        return Embedding(**kinds)

    def predict(
        self, video: str | Path, pose: str | Path | np.ndarray | None = None, estimator: str = DEFAULT
    ) -> Prediction:
        """Name the sign in a video file; arguments and errors as for `embed`.

        Raises:
            UserError: the model is not fine-tuned.
        """
        if not self.classes:
            raise not_finetuned(self.source)
        return Prediction(self.classes, self.embed(video, pose, estimator).logits)

    def how_to_pack(self) -> dict[str, Any]:
        """The keywords of `PackOptions` with which clips are like those that it was trained on.

        Raises:
            UserError: the checkpoint is an old one that does not say, and its data sets are gone.
        """
        if self.packing is None:
            try:
                self.packing = packing(ShardSet(self.config.data.shards).info)
            except (UserError, OSError) as error:
                raise UserError(
                    f"{self.source} does not say how its clips were packed, nor does its data set ({error}): "
                    "give it with data.shards=[DIR], or pack the videos with cclslr pack"
                ) from error
        return self.packing

    def _outputs(self, video: str | Path | RawClip, pose: str | Path | np.ndarray | None, estimator: str) -> Arrays:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            self._pack(video, pose, estimator, folder)
            with closing(ShardSet([str(folder / "shards")])) as shards:
                data = self.config.data
                if data.backend == "ffcv":  # whose .beton this clip is not in; numba makes its views there, too
                    data = replace(data, backend="numba")
                alone = Process(0, 1, self.device)
                outputs, _, _ = over_clips(
                    self.forward, shards, data, self.config.views, self.modalities, 1, self.precision, alone
                )
        return {name: x[0].numpy() for name, x in outputs.items()}

    def _pack(
        self, video: str | Path | RawClip, pose: str | Path | np.ndarray | None, estimator: str, folder: Path
    ) -> None:
        """Pack the clip into `folder`/shards."""
        if isinstance(video, RawClip):
            pack_decoded(video, folder, self.how_to_pack())
            return
        if not Path(video).is_file():
            raise UserError(f"{video}: no such file")
        (found,) = find_videos([video])
        if isinstance(pose, np.ndarray):
            np.save(folder / "pose.npy", pose)
            pose = folder / "pose.npy"
        if pose is not None:
            found = replace(found, pose=Path(pose))
        pack_videos([found], folder, self.how_to_pack(), "pose" in self.modalities, estimator)


def load(path: str | Path, device: str = "auto", overrides: Sequence[str] = ()) -> Model:
    """Read a checkpoint of `cclslr train` or `cclslr finetune` for use.

    Args:
        path: the checkpoint, or a folder of weights that `cclslr export --format safetensors` wrote.
        device: auto (what its config says: a GPU where there is one), cpu or cuda.
        overrides: keys of its config, e.g. ["run.amp=fp32"].

    Raises:
        UserError: no such file, not a whole checkpoint, unknown keys.
    """
    path = Path(path)
    if path.is_dir() or path.suffix == ".safetensors":
        source = path / WEIGHTS_NAME if path.is_dir() else path
        return Model(read_weights(path), str(source), device, overrides)
    return Model(checkpoint.load(path), str(path), device, overrides)
