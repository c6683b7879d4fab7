"""The demo's closing table fits a narrow terminal, and its stages are those that it promises."""

from __future__ import annotations

import io
from argparse import Namespace
from pathlib import Path

import pytest
from rich.console import Console

from cclslr.commands import demo

SCORE = {"per_instance_top1": 73.146, "per_instance_top5": 100.0, "per_class_top1": 9.96, "per_class_top5": 0.0}


@pytest.mark.parametrize("width", [80, 160])
def test_the_closing_table_is_not_cut(width):
    branches = dict.fromkeys(("rgb", "pose", "fused"), SCORE)
    file = io.StringIO()
    Console(file=file, width=width).print(
        demo.result_table({"finetune": {"pretrained": branches, "scratch": branches}})
    )
    text = file.getvalue()
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())
    for word in ("top-1", "top-5", "per class", "73.1", "100.0", "10.0", "0.0", "pretrained", "scratch", "fused"):
        assert word in text


def test_every_stage_is_named_once():
    args = Namespace(seed=0, shards=Path("shards/x"), run=Path("runs/x"), overrides=["views.mask_alpha=0"])
    stages = demo.plan_stages(args, quick=True)
    assert [stage.name for stage in stages] == ["pack", "check", "pretrain", "pretrained", "scratch", "picture"]
    assert "views.mask_alpha=0" in stages[2].arguments
    assert "pretrained=null" in stages[4].arguments
