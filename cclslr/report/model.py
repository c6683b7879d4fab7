"""What a run's checkpoint makes of clips: features, and where its RGB encoder looks.

Shapes: N clips, B clips of a batch, T frames, D features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cclslr.config import FinetuneConfig, PretrainConfig, load_config
from cclslr.data.batch import Batch
from cclslr.data.loader import Loader
from cclslr.data.plan import EvalPlan
from cclslr.distributed import Process
from cclslr.errors import UserError
from cclslr.models.ccl import Branches, ByModality
from cclslr.models.classifier import Classifier, from_checkpoint
from cclslr.shards.reader import ShardSet

BATCH = 8


@dataclass(frozen=True)
class Trained:
    """The model of a checkpoint in evaluation mode, with the config that it was trained by."""

    cfg: PretrainConfig | FinetuneConfig
    model: Branches | Classifier

    @property
    def modalities(self) -> list[str]:
        return self.cfg.model.modalities

    def encoder(self, modality: str) -> nn.Module:
        """The encoder of one modality."""
        if isinstance(self.model, Branches):
            encoder = self.model.branch[modality].encoder
            assert isinstance(encoder, nn.Module)
            return encoder
        return self.model.encoder[modality]


def trained(state: dict[str, Any], source: str, overrides: list[str]) -> Trained:
    """The model of a checkpoint of either program, on the CPU."""
    overrides = ["model.rgb_weights=null", *overrides]
    if "classifier" in state:
        stored = load_config(FinetuneConfig, None, overrides, stored=state["config"])
        return Trained(stored, from_checkpoint(state, source))
    if "query" not in state:
        raise UserError(f"{source} is no checkpoint of cclslr train or cclslr finetune")
    cfg = load_config(PretrainConfig, None, overrides, stored=state["config"])
    query = Branches(cfg.model)
    query.load_state_dict(state["query"])
    return Trained(cfg, query.eval())


def views_of(run: Trained, shards: ShardSet, clip_ids: np.ndarray, process: Process) -> Iterator[Batch]:
    """The evaluation views of some clips."""
    loader = Loader(
        run.cfg.data, run.cfg.views, shards, EvalPlan(clip_ids, BATCH), process, run.modalities, seed=0, augment=False
    )
    with loader.start(0):
        yield from loader


def by_modality(batch: Batch) -> ByModality:
    """The one view of an evaluation batch."""
    views = {"rgb": batch.rgb_VBTHWC, "pose": batch.pose_VBTJC}
    return {m: x_VB[0] for m, x_VB in views.items() if x_VB is not None}


def features(run: Trained, batches: Iterator[Batch]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Normalised features (N, D) by name, and clip ids (N,): g of each branch, and f where there are heads."""
    parts: dict[str, list[Tensor]] = {}
    ids: list[Tensor] = []
    with torch.inference_mode():
        for batch in batches:
            x = by_modality(batch)
            if isinstance(run.model, Branches):
                g, f = run.model(x)
                found = {f"{kind}, {m}": y[m] for kind, y in (("g", g), ("f", f)) for m in y}
            else:
                found = {f"g, {m}": F.normalize(run.encoder(m)(x[m]).float(), dim=1) for m in x}
            for name, y_BD in found.items():
                parts.setdefault(name, []).append(y_BD)
            ids.append(batch.clip_ids_B)
    return {name: torch.cat(y).numpy() for name, y in parts.items()}, torch.cat(ids).numpy()


def grad_cam(run: Trained, views: ByModality, labels_B: Tensor) -> np.ndarray:
    """Where the RGB encoder looks: float32 (B, T, H, W) in [0, 1], by Grad-CAM of its last stage.

    What is explained: of a classifier, the logit of the label (of an unlabelled clip, that of the prediction); of
    pre-trained branches, the similarity of f of RGB and of pose, which the cross-modal loss raises; without a pose
    branch, the size of g.

    Raises:
        UserError: captum is not installed.
    """
    try:
        from captum.attr import LayerAttribution, LayerGradCam
    except ImportError:
        raise UserError("Grad-CAM needs captum; install it with: pip install 'cclslr[report]'") from None
    rgb_BTHWC = views["rgb"].float()
    model = run.model

    def explained(rgb_BTHWC: Tensor) -> Tensor:
        if isinstance(model, Classifier):
            logits_BK = model({"rgb": rgb_BTHWC})["rgb"]
            wanted_B = torch.where(labels_B >= 0, labels_B, logits_BK.argmax(1))
            return logits_BK.gather(1, wanted_B[:, None])[:, 0]
        if "pose" not in views:
            return run.encoder("rgb")(rgb_BTHWC).square().sum(1)
        with torch.no_grad():
            f_pose_BD = model.branch["pose"](views["pose"])[1]
        return (model.branch["rgb"](rgb_BTHWC)[1] * f_pose_BD).sum(1)

    last = run.encoder("rgb").get_submodule("layer4")
    seen = LayerGradCam(explained, last).attribute(rgb_BTHWC, relu_attributions=True)
    cam_BTHW = LayerAttribution.interpolate(seen, tuple(rgb_BTHWC.shape[1:4]), "trilinear")[:, 0].detach()
    highest_B = cam_BTHW.amax((1, 2, 3)).clamp(min=1e-12)
    return (cam_BTHW / highest_B[:, None, None, None]).clamp(0, 1).numpy()
