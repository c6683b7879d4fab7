"""Fine-tuning: the query encoders with one fully connected layer each (CCL-SLR §3.4)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from cclslr.config import ModelConfig
from cclslr.errors import UserError
from cclslr.models.ccl import ByModality, build_encoder


class Classifier(nn.Module):
    """One encoder and one linear layer a modality. Views by modality → logits (B, classes) float32 by modality.

    The branches share no parameter and no loss; cclslr.models.fusion makes one prediction of their logits.

    Attributes:
        temperatures: of each branch, for calibrated fusion; None: not fitted.
    """

    temperatures: dict[str, float] | None = None

    def __init__(self, cfg: ModelConfig, classes: int, linear_probe: bool = False) -> None:
        super().__init__()
        encoders = {m: build_encoder(m, cfg) for m in cfg.modalities}
        self.encoder = nn.ModuleDict(encoders)
        self.fc = nn.ModuleDict({m: nn.Linear(encoder.dim, classes) for m, encoder in encoders.items()})
        self.linear_probe = linear_probe
        self.encoder.requires_grad_(not linear_probe)

    def train(self, mode: bool = True) -> Classifier:
        super().train(mode)
        if self.linear_probe:  # frozen features: running BN statistics and no dropout in training, too
            self.encoder.eval()
        return self

    def forward(self, views: ByModality) -> ByModality:
        return self.logits(self.features(views))

    def features(self, views: ByModality) -> ByModality:
        """What the encoders give (B, D) by modality; normalised it is g."""
        return {m: self.encoder[m](x) for m, x in views.items()}

    def logits(self, features: ByModality) -> ByModality:
        """(B, classes) float32 by modality."""
        return {m: self.fc[m](x).float() for m, x in features.items()}

    def load_pretrained(self, query: dict[str, Tensor]) -> None:
        """Take the encoders from the `query` state of a pre-training checkpoint.

        Raises:
            UserError: the checkpoint holds another architecture, or lacks a modality.
        """
        for m, encoder in self.encoder.items():
            prefix = f"branch.{m}.encoder."
            state = {name.removeprefix(prefix): x for name, x in query.items() if name.startswith(prefix)}
            if not state:
                raise UserError(f"the pre-trained checkpoint has no {m} branch; set model.modalities to what it has")
            try:
                encoder.load_state_dict(state)
            except RuntimeError as error:
                first = str(error).splitlines()[1:2] or [str(error)]  # torch lists every parameter in a line of its own
                raise UserError(
                    f"the pre-trained {m} encoder does not fit the model config ({first[0].strip()}); set model.* as "
                    "it was pre-trained"
                ) from error


def from_checkpoint(state: dict[str, Any], source: str) -> Classifier:
    """The classifier of a checkpoint written by `cclslr.finetune`, in evaluation mode."""
    if "classifier" not in state:
        raise not_finetuned(source)
    cfg = ModelConfig(**{**state["config"]["model"], "rgb_weights": None})
    classifier = Classifier(cfg, len(state["classes"]))
    classifier.load_state_dict(state["classifier"])
    classifier.temperatures = state.get("temperatures")
    return classifier.eval()


def not_finetuned(source: str) -> UserError:
    """What to raise where a checkpoint has no classifier."""
    return UserError(
        f"{source} is no fine-tuned checkpoint; make one with: python -m cclslr.finetune pretrained={source}"
    )
