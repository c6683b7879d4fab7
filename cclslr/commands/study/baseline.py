"""What a network has to beat: a linear model, a nearest neighbour.

    cclslr study baseline data.shards=[shards/mine] data.labels_per_class=5 features=input
    cclslr study baseline data.shards=[shards/mine] features=encoder classifier=nearest pretrained=runs/pretrain/last.pt

On coordinates, or on frozen features of a pre-trained encoder. Takes the clips and labels that fine-tuning with the
same data keys and run.seed takes. Writes <split>.json into run.dir.
"""

from __future__ import annotations

from cclslr.cli import config_from_command_line
from cclslr.console import console
from cclslr.study.baselines import BaselineConfig, run


def main(argv: list[str] | None = None) -> None:
    cfg = config_from_command_line(__name__, BaselineConfig, __doc__, argv)
    for branch, score in run(cfg).items():
        console.print(f"{branch}: top-1 {score['per_instance_top1']:.2f} %, per class {score['per_class_top1']:.2f} %")
