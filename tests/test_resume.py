"""Going on with a checkpoint: what fits, what is refused, what is said; one training a folder; checks before a run."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from small_runs import ROOT, finetune_here, finish, same, start, tiny_shards, train_here

from cclslr import checkpoint
from cclslr.config import FinetuneConfig, PretrainConfig, load_config, to_dict
from cclslr.console import console
from cclslr.files import hold_folder, read_json
from cclslr.keys import list_keys
from cclslr.shards.reader import ShardSet
from cclslr.training.evaluation import match_classes
from cclslr.training.resume import changes


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return tiny_shards(tmp_path_factory.mktemp("shards") / "tiny", per_class=(8, 0, 3))


@pytest.fixture(scope="module")
def made(shards, tmp_path_factory) -> tuple[Path, Path]:
    """A pre-training and a fine-tuning of three steps each."""
    folder = tmp_path_factory.mktemp("made")
    train_here(folder / "pre", shards, "run.max_steps=3")
    finetune_here(folder / "fine", shards, "run.max_steps=3")
    return folder / "pre", folder / "fine"


@pytest.fixture
def pre(made, tmp_path) -> Path:
    return Path(shutil.copytree(made[0], tmp_path / "pre"))


@pytest.fixture
def fine(made, tmp_path) -> Path:
    return Path(shutil.copytree(made[1], tmp_path / "fine"))


def test_a_lower_max_steps_leaves_the_checkpoint_as_it_is(shards, pre):
    before = (pre / "last.pt").read_bytes()
    train_here(pre, shards, "run.max_steps=2")
    assert (pre / "last.pt").read_bytes() == before
    assert checkpoint.load(pre / "last.pt")["step"] == 3


@pytest.mark.parametrize("key", ["run.seed=1", "optim.batch=4", "data.order=network"])
def test_another_seed_batch_or_order_is_refused(shards, pre, key):
    name, value = key.split("=")
    with pytest.raises(ValueError, match=rf"{name}=\w+, this run has {value}"):
        train_here(pre, shards, key)


def test_other_keys_are_named_before_the_run_goes_on(shards, pre):
    with console.capture() as said:
        train_here(pre, shards, "run.max_steps=4", "objective.tau=0.1", "views.flip=0", "data.workers=2")
    text = " ".join(said.get().split())
    assert "objective.tau=0.1 (was 0.07)" in text
    assert "views.flip=0.0 (was 0.5)" in text
    assert "workers" not in text
    assert checkpoint.load(pre / "last.pt")["step"] == 4


def test_what_the_optimiser_is_told_is_told_again(shards, pre):
    train_here(pre, shards, "run.max_steps=4", "optim.weight_decay=0.5", "optim.momentum=0.25")
    (group,) = checkpoint.load(pre / "last.pt")["optimizer"]["param_groups"]
    assert (group["weight_decay"], group["momentum"]) == (0.5, 0.25)


@pytest.mark.parametrize("key", ["model.gcn_width=8", "objective.bank_size=8", "model.modalities=[pose]"])
def test_a_checkpoint_of_another_model_is_one_line(shards, pre, key):
    with pytest.raises(ValueError, match=key.split("=")[0]) as error:
        train_here(pre, shards, key)
    assert "\n" not in str(error.value)
    assert "does not fit" in str(error.value)


def test_checkpoints_of_the_other_program_are_refused(shards, pre, fine, tmp_path):
    with pytest.raises(ValueError, match="no checkpoint of pre-training but one of fine-tuning"):
        train_here(tmp_path / "new", shards, f"run.resume={fine}/last.pt")
    with pytest.raises(ValueError, match="no checkpoint of fine-tuning but one of pre-training"):
        finetune_here(tmp_path / "new", shards, f"run.resume={pre}/last.pt")
    with pytest.raises(ValueError, match="no checkpoint of pre-training but one of fine-tuning"):
        finetune_here(tmp_path / "new", shards, f"pretrained={fine}/last.pt")


def test_old_configs_with_fewer_keys_are_compared_by_what_they_have():
    cfg = load_config(PretrainConfig, None, ["objective.momentum=0.99"])
    saved = to_dict(cfg)
    del saved["objective"]["shuffle_bn"], saved["run"]["seed"]
    saved["objective"]["momentum"], saved["optim"]["gone"] = 0.5, 1
    assert changes(saved, cfg) == {"objective.momentum": (0.5, 0.99)}
    assert changes(json.loads(json.dumps(to_dict(cfg))), cfg) == {}  # tuples became lists


@pytest.mark.parametrize("kind", [PretrainConfig, FinetuneConfig])
def test_what_changes_a_step_is_named_and_nothing_else(kind):
    stored = to_dict(kind())
    for key in list_keys(kind):
        *sections, last = key.name.split(".")
        changed = copy.deepcopy(stored)
        node = changed[sections[0]] if sections else changed
        node[last] = "another"
        assert list(changes(changed, kind())) == ([key.name] if key.effect == "steps" else []), key.name
    effects = {key.name: key.effect for key in list_keys(kind)}
    assert (effects["run.seed"], effects["run.max_steps"], effects["run.dir"]) == ("steps", "result", "none")


def test_two_trainings_in_one_folder_are_refused(shards, pre):
    with hold_folder(pre, "busy"), pytest.raises(ValueError, match="in use by another training"):
        train_here(pre, shards, "run.max_steps=4")
    train_here(pre, shards, "run.max_steps=4")


def test_what_killed_saves_left_is_removed(shards, pre):
    (pre / ".last.pt.1234.tmp").write_bytes(b"half")
    train_here(pre, shards, "run.max_steps=4")
    assert [path.name for path in pre.glob(".*.tmp")] == []


def test_keys_of_pretraining_are_refused_in_finetuning(shards, tmp_path):
    for key in ("run.knn_every=3", "run.knn_neighbours=3", "run.fused_momentum_update=false"):
        with pytest.raises(ValueError, match=key.split("=")[0]):
            finetune_here(tmp_path, shards, key)


@pytest.mark.parametrize("key", ["report=best_val", "eval_split=val"])
def test_splits_are_checked_before_the_first_step(shards, tmp_path, key):
    with pytest.raises(ValueError, match=f"no labelled clip in split 'val', which {key.split('=')[0]}"):
        finetune_here(tmp_path, shards, key)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_finetuning_goes_on_without_the_file_it_began_with(shards, pre, tmp_path):
    given = tmp_path / "given.pt"
    shutil.copy(pre / "last.pt", given)
    finetune_here(tmp_path / "run", shards, f"pretrained={given}", "run.max_steps=2")
    given.unlink()
    finetune_here(tmp_path / "run", shards, f"pretrained={given}", "run.max_steps=4")
    assert checkpoint.load(tmp_path / "run/last.pt")["step"] == 4


def _renamed(shards: Path, out: Path, names: list[str]) -> Path:
    """The same data set with its classes in another order, or under other names."""
    shutil.copytree(shards, out)
    info = read_json(out / "dataset.json")
    info["classes"] = names
    (out / "dataset.json").write_text(json.dumps(info))
    return out


def test_finetuning_does_not_go_on_with_other_classes(shards, fine, tmp_path):
    turned = _renamed(shards, tmp_path / "turned", ShardSet([str(shards)]).classes[::-1])
    with pytest.raises(ValueError, match="other classes"):
        finetune_here(fine, turned, "run.max_steps=4")


def test_evaluation_finds_classes_by_name(shards, fine, tmp_path):
    """Labels of a data set with its classes in another order mean the same glosses."""
    names = ShardSet([str(shards)]).classes
    turned = _renamed(shards, tmp_path / "turned", names[::-1])
    finish(start("cclslr.evaluate", f"{fine}/last.pt", "--shards", str(turned), "--out", str(tmp_path)))
    with open(tmp_path / "test_predictions.csv") as ours, open(fine / "test_predictions.csv") as theirs:
        rows = list(zip(ours.read().splitlines()[1:], theirs.read().splitlines()[1:], strict=True))
    for our, their in rows:
        (key, label, gloss, *predicted), (same_key, same_label, _, *same_predicted) = our.split(","), their.split(",")
        assert (key, predicted) == (same_key, same_predicted)
        assert gloss == names[::-1][int(same_label)]
        assert names[int(label)] == gloss


def test_classes_that_the_checkpoint_lacks_are_refused(shards):
    packed = ShardSet([str(shards)])
    names = packed.classes
    assert match_classes(packed, names) == [0, 1, 2, 3]
    assert match_classes(packed, ["other", *names[::-1]]) == [4, 3, 2, 1]
    with pytest.raises(ValueError, match=f"does not know 1 of 4 classes of these shards: {names[2]}"):
        match_classes(packed, [*names[:2], names[3]])
    with pytest.raises(ValueError, match="more than once"):
        match_classes(packed, [*names, *names])


def test_glosses_that_two_data_sets_share_are_told_before_the_first_step(shards, tmp_path):
    second = shutil.copytree(shards, tmp_path / "second")
    glosses = ShardSet([str(shards)]).classes
    renamed = _renamed(shards, tmp_path / "renamed", [*glosses[:2], "only", "here"])
    for others, count in ((second, 4), (renamed, 2)):
        with console.capture() as said:
            finetune_here(tmp_path / others.name, shards, f"data.shards=[{shards},{others}]", "run.max_steps=1")
        text = said.get()
        told = f"{count} of {8 - count} glosses name more than one class, e.g. {glosses[0]!r}"
        assert text.index(told) < text.index("step 1/1")
    with console.capture() as said:
        finetune_here(tmp_path / "one", shards, "run.max_steps=1")
    assert "more than one class" not in said.get()


def test_configs_shipped_load_with_both_momentums():
    cfg = load_config(PretrainConfig, ROOT / "configs/pretrain.yaml", [])
    assert (cfg.objective.momentum, cfg.optim.momentum, cfg.optim.gamma) == (0.999, 0.9, 0.1)
    assert load_config(FinetuneConfig, None, [], stored=to_dict(FinetuneConfig())) == FinetuneConfig()


def test_banks_and_optimiser_survive_a_round(pre, shards):
    before = checkpoint.load(pre / "last.pt")
    train_here(pre, shards, "run.max_steps=3", "run.resume=auto")
    after = checkpoint.load(pre / "last.pt")
    assert same(before["banks"], after["banks"])
    assert same(before["optimizer"], after["optimizer"])
    assert isinstance(before["optimizer"]["state"][0]["momentum_buffer"], torch.Tensor)
