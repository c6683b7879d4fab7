"""The study of kills: it sees what is not the same, and a short one finds nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from cclslr import checkpoint
from cclslr.commands.study import kills
from cclslr.files import read_json


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders that hold the same short run."""
    run = tmp_path / "one"
    run.mkdir()
    lines = [{"step": step, "stream": [step, 7], "loss": 1.0 + step, "knn_rgb": 50.0} for step in (1, 2, 3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    parts = {part: {"x": torch.arange(3.0)} for part in kills.WEIGHTS["train"]}
    checkpoint.save(run / "last.pt", parts)
    return run, Path(shutil.copytree(run, tmp_path / "two"))


def test_what_is_the_same_is_called_so(runs):
    text = (runs[0] / "metrics.jsonl").read_text()
    (runs[0] / "metrics.jsonl").write_text(text.replace("}", ', "seconds": 0.1, "knn_seconds": 0.2}'))
    for exact in (True, False):
        assert kills.compare("train", *runs, exact)["good"]


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ("[2, 7]", "[2, 8]", "stream"),
        ('"loss": 3.0', '"loss": 3.0000001', "losses"),
        ('{"step": 3,', '{"step": 4,', "stream"),
    ],
)
def test_one_other_number_is_seen(runs, old, new, wrong):
    text = (runs[0] / "metrics.jsonl").read_text()
    (runs[0] / "metrics.jsonl").write_text(text.replace(old, new))
    result = kills.compare("train", *runs, True)
    assert (result[wrong], result["good"]) == ("DIFFERENT", False)
    assert kills.compare("train", *runs, False)["good"] == (wrong == "losses")


def test_other_weights_are_seen(runs):
    state = checkpoint.load(runs[0] / "last.pt")
    state["banks"]["x"][1] = 5
    checkpoint.save(runs[0] / "last.pt", state)
    assert not kills.compare("train", *runs, True)["good"]
    assert kills.compare("train", *runs, False)["good"]


@pytest.mark.slow
def test_a_short_study(tmp_path, capsys):
    assert kills.main(["--pretrain", "2", "--finetune", "2", "--out", str(tmp_path)]) == 0, capsys.readouterr().out
    for program in ("train", "finetune"):
        chains = read_json(tmp_path / f"{program}.json")["chains"]
        assert [len(chain["kills"]) for chain in chains] == [1, 2]
        assert all(chain["good"] for chain in chains)
