"""The config system: precedence, errors that help, and the shipped YAML files."""

from __future__ import annotations

from pathlib import Path

import pytest

from cclslr.cli import config_from_command_line
from cclslr.config import FinetuneConfig, PretrainConfig, load_config, to_dict

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_load(path):
    kind = FinetuneConfig if "finetune" in path.stem else PretrainConfig
    assert load_config(kind, path, []).data.shards


def test_paper_settings_are_the_defaults():
    cfg = load_config(PretrainConfig, CONFIGS / "pretrain.yaml", [])
    assert (cfg.objective.bank_size, cfg.objective.momentum, cfg.objective.tau) == (16384, 0.999, 0.07)
    assert (cfg.objective.k, cfg.objective.tau_spm, cfg.views.mask_alpha) == (10, 0.02, 0.2)
    assert (cfg.optim.epochs, cfg.optim.batch, cfg.optim.lr, cfg.optim.milestones) == (140, 64, 0.01, [100])


def test_overrides_win_over_file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("optim: {lr: 0.5, batch: 32}\n")
    cfg = config_from_command_line(
        "cclslr.train", PretrainConfig, "doc", ["--config", str(path), "optim.lr=0.25", "data.shards=[a,b]"]
    )
    assert (cfg.optim.lr, cfg.optim.batch, cfg.data.shards) == (0.25, 32, ["a", "b"])
    assert load_config(PretrainConfig, None, [], stored=to_dict(cfg)) == cfg


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.bacth=8", "did you mean 'optim.batch'"),
        ("objektive.k=8", "did you mean 'objective"),
        ("optim.batch=many", "could not be converted to Integer"),
        ("optim.batch", "write key=value"),
        ("model.pool=max", "choose one of attention, mean"),
        ("model.modalities=[rgb,audio]", "choose"),
        ("run.amp=fp8", "choose one of auto"),
    ],
)
def test_mistakes_are_explained(override, message):
    with pytest.raises(ValueError, match=message):
        load_config(PretrainConfig, None, [override])


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        load_config(PretrainConfig, tmp_path / "nowhere.yaml", [])
    broken = tmp_path / "broken.yaml"
    broken.write_text("optim: [unclosed\n")
    with pytest.raises(ValueError, match="broken"):
        load_config(PretrainConfig, broken, [])
