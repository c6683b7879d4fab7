"""A fine-tuned checkpoint of random weights, to measure what a size of model costs elsewhere.

python docs/results/export/random_weights.py OUT.pt CLASSES [key=value ...]
"""

from __future__ import annotations

import sys

import torch

from cclslr import checkpoint
from cclslr.config import FinetuneConfig, load_config, to_dict
from cclslr.models.classifier import Classifier

if __name__ == "__main__":
    out, classes, *overrides = sys.argv[1:]
    torch.manual_seed(0)
    cfg = load_config(FinetuneConfig, None, ["data.shards=[none]", *overrides])
    classifier = Classifier(cfg.model, int(classes))
    state = {
        "classifier": classifier.state_dict(),
        "config": to_dict(cfg),
        "classes": [f"sign-{number}" for number in range(int(classes))],
        "packing": {"codec": "jpeg", "size": 256, "crop": "signer", "quality": None},
    }
    checkpoint.save(out, state)
    print({m: f"{sum(x.numel() for x in e.parameters()) / 1e6:.1f} M" for m, e in classifier.encoder.items()})
