"""What fine-tuning says and refuses before its first step."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import TINY, finetune_here, tiny_shards, train_here

from cclslr import checkpoint, finetune
from cclslr.datasets.synthetic import SynthOptions, manifest
from cclslr.errors import UserError
from cclslr.shards.pack import PackOptions, pack

NO_MODEL = [argument for argument in TINY if not argument.startswith("model.")]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_shards(tmp_path_factory.mktemp("start") / "set")


@pytest.fixture(scope="module")
def pre(shards: Path) -> Path:
    """A pose branch that was pre-trained with other keys than the defaults."""
    run = shards.parent / "pre"
    train_here(run, shards, "model.modalities=[pose]", "model.joints=each", "run.max_steps=1")
    return run / "last.pt"


def start(shards: Path, run: Path, *more: str) -> dict[str, object]:
    """Fine-tune for one step by the program's own `main`; the model's config in its checkpoint."""
    finetune.main([*NO_MODEL, f"data.shards=[{shards}]", f"run.dir={run}", "run.max_steps=1", *more])
    return checkpoint.load(run / "last.pt")["config"]["model"]


def test_the_model_is_the_pre_trained_one(
    shards: Path, pre: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = start(shards, tmp_path / "a", f"pretrained={pre}")
    assert model == checkpoint.load(pre)["config"]["model"]
    told = " ".join(capsys.readouterr().out.split())
    assert f"{pre} is a checkpoint of pre-training, step 1; model.* is taken from it: " in told
    assert "model.joints=each" in told
    assert "otherwise" not in told
    moved = pre.rename(pre.with_name("moved.pt"))  # its own checkpoint holds everything
    try:
        again = start(shards, tmp_path / "a", f"pretrained={pre}", "run.max_steps=2")
    finally:
        moved.rename(pre)
    assert again == model


def test_what_the_config_says_otherwise_counts_and_is_said(
    shards: Path, pre: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = start(shards, tmp_path / "a", f"pretrained={pre}", "model.dropout=0.5")
    assert model["dropout"] == 0.5
    assert model["joints"] == "each"
    told = " ".join(capsys.readouterr().out.split())
    assert "the config says otherwise: model.dropout=0.5 (pre-trained with 0.1)" in told
    with pytest.raises(UserError, match=r"set model\.\* as it was pre-trained"):
        start(shards, tmp_path / "b", f"pretrained={pre}", "model.gcn_width=8")
    with pytest.raises(UserError, match="has no rgb branch"):
        start(shards, tmp_path / "c", f"pretrained={pre}", "model.modalities=[rgb]", "model.rgb=r3d10_narrow")


def test_another_kind_of_checkpoint_is_called_by_its_name(shards: Path, pre: Path, tmp_path: Path) -> None:
    start(shards, tmp_path / "fine", f"pretrained={pre}")
    for given, told in (
        (
            tmp_path / "fine" / "last.pt",
            "is no checkpoint of pre-training but one of fine-tuning; pretrained takes",
        ),
        (pre.parent, "a folder; give a checkpoint in it, such as .*last.pt"),
        (tmp_path / "none.pt", "no such file"),
        (shards / "dataset.json", "cannot be read"),
    ):
        with pytest.raises(UserError, match=told):
            start(shards, tmp_path / "new", f"pretrained={given}")
    assert not (tmp_path / "new" / "last.pt").exists()


def packed(out: Path, test_labels: set[int], train_labels: set[int]) -> Path:
    synth = SynthOptions(classes=4, clips_per_class=(4, 0, 2), signers=(3, 1, 2), size=48, frames=(12, 20), video=False)
    kept = {"train": train_labels, "test": test_labels}
    rows = [row for row in manifest(synth) if row.label in kept[row.split]]
    pack(rows, out, PackOptions(codec="jpeg", size=48, crop="none"), classes=list("abcd"))
    return out


def test_classes_are_looked_at_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pose = ["model.modalities=[pose]", "optim.batch=4", "optim.micro_batch=4", "run.max_steps=1"]
    with pytest.raises(UserError, match="all clips of train have one label, b; fine-tuning tells several apart"):
        finetune_here(tmp_path / "run", packed(tmp_path / "one", {1}, {1}), *pose)
    with pytest.raises(UserError, match=r"2 of 2 classes of test have no clip in train, e\.g\. c"):
        finetune_here(tmp_path / "run", packed(tmp_path / "other", {2, 3}, {0, 1}), *pose)
    with pytest.raises(UserError, match=r"no labelled clip in split 'test', which eval_split asks for; pack some"):
        finetune_here(tmp_path / "run", packed(tmp_path / "none", set(), {0, 1}), *pose)
    assert not list((tmp_path / "run").glob("*.pt"))
    capsys.readouterr()
    finetune_here(tmp_path / "run", packed(tmp_path / "some", {1, 2}, {0, 1}), *pose)
    assert "1 of 2 classes of test have no clip in train, e.g. c: they cannot be learnt" in capsys.readouterr().out
