"""The config system: precedence, errors that help, ranges, and the shipped YAML files."""

from __future__ import annotations

import dataclasses
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cclslr.cli import config_from_command_line, describe_keys
from cclslr.config import SHIPPED, FinetuneConfig, PretrainConfig, load_config, to_dict
from cclslr.errors import UserError
from cclslr.keys import get, list_keys, show
from cclslr.models.r3d import LAYOUTS

CONFIGS = Path(__file__).parents[1] / "configs"
KINDS = (PretrainConfig, FinetuneConfig)
EVERY_KEY = [(kind, key) for kind in KINDS for key in list_keys(kind)]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_load(path):
    kind = FinetuneConfig if "finetune" in path.stem else PretrainConfig
    assert load_config(kind, path, []).data.shards


def test_shipped_configs_are_found_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("pretrain.yaml", "configs/pretrain.yaml"):
        assert load_config(PretrainConfig, name, []) == load_config(PretrainConfig, CONFIGS / "pretrain.yaml", [])
    (tmp_path / "pretrain.yaml").write_text("optim: {lr: 0.125}\n")  # one that is here comes first
    assert load_config(PretrainConfig, "pretrain.yaml", []).optim.lr == 0.125
    assert sorted(path.name for path in SHIPPED.glob("*")) == sorted(path.name for path in CONFIGS.glob("*"))
    with pytest.raises(UserError, match=r"no such file here, nor among those of cclslr: .*pretrain\.yaml"):
        load_config(PretrainConfig, "pertrain.yaml", [])


def test_paper_settings_are_the_defaults():
    cfg = load_config(PretrainConfig, CONFIGS / "pretrain.yaml", [])
    assert (cfg.objective.bank_size, cfg.objective.momentum, cfg.objective.tau) == (16384, 0.999, 0.07)
    assert (cfg.objective.k, cfg.objective.tau_spm, cfg.views.mask_alpha) == (10, 0.02, 0.2)
    assert (cfg.optim.epochs, cfg.optim.batch, cfg.optim.lr, cfg.optim.milestones) == (140, 64, 0.01, [100])


def test_overrides_win_over_file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("optim: {lr: 0.5, batch: 32}\n")
    arguments = ["--config", str(path), "optim.lr=0.25", "data.shards=[a,b]"]
    cfg = config_from_command_line("cclslr.train", PretrainConfig, "doc", arguments)
    assert (cfg.optim.lr, cfg.optim.batch, cfg.data.shards) == (0.25, 32, ["a", "b"])
    assert load_config(PretrainConfig, None, [], stored=to_dict(cfg)) == cfg


def test_a_list_of_one_needs_no_brackets(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("data: {shards: shards/mine}\n")
    cfg = load_config(PretrainConfig, path, ["optim.milestones=7", "model.modalities=pose", "data.weights=2.5"])
    assert (cfg.data.shards, cfg.optim.milestones, cfg.model.modalities) == (["shards/mine"], [7], ["pose"])
    assert cfg.data.weights == [2.5]
    assert load_config(PretrainConfig, None, ["data.weights=null"]).data.weights is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.bacth=8", "did you mean 'optim.batch'"),
        ("objektive.k=8", "did you mean 'objective"),
        ("optim.learning_rate=0.1", "did you mean 'optim.lr'"),
        ("learning_rate=0.1", "did you mean 'optim.lr'"),
        ("lr=0.1", "did you mean 'optim.lr'"),
        ("optim.batch_size=8", "did you mean 'optim.batch'"),
        ("data.shard=x", "did you mean 'data.shards'"),
        ("data.num_workers=2", "did you mean 'data.workers'"),
        ("run.learning_rate=0.1", "did you mean 'optim.lr'"),
        ("output_dir=x", "did you mean 'run.dir'"),
        ("data.shards.x=1", "unknown config key 'data.shards.x'"),
        ("optim=8", "optim is a section and has no value; set keys in it"),
        ("data.shards={}", "data.shards has no value"),
        ("optim.batch=many", "could not be converted to Integer"),
        ("optim.batch", "write key=value"),
        ("data.shards=[a", "cannot be read"),
        ("run.dir=???", "run.dir"),
        ("model.pool=max", "choose one of attention, mean"),
        ("model.modalities=[rgb,audio]", "choose some of rgb, pose"),
        ("model.modalities=[rgb,rgb]", "choose some of rgb, pose"),
        ("model.modalities=[]", "model.modalities is empty; choose some of rgb, pose"),
        ("run.amp=fp8", "choose one of auto"),
        ("views.flip=7", r"views.flip is 7.0; it must be from 0 to 1"),
        ("views.min_length=0", "views.min_length is 0.0; it must be above 0 and at most 1"),
        ("views.area=[0.4,1.5]", r"views.area is \[0.4,1.5\]; it must be above 0 and at most 1"),
        ("views.scale=[1.1,0.9]", r"views.scale is \[1.1,0.9\]; it goes from the smaller to the larger"),
        ("views.masked_joints=76", "from 0 to 75"),
        ("optim.batch=0", "optim.batch is 0; it must be at least 1"),
        ("optim.lr=nan", "optim.lr is nan; it must be finite"),
        ("data.share=0", "data.share is 0.0; it must be above 0 and at most 1"),
    ],
)
def test_mistakes_are_explained(override, message):
    with pytest.raises(UserError, match=message):
        load_config(PretrainConfig, None, [override])


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        load_config(PretrainConfig, tmp_path / "nowhere.yaml", [])
    broken = tmp_path / "broken.yaml"
    for content in (b"optim: [unclosed\n", b"- a\n", b"\xff\xfe\x00", b"optim: {lr: 1, lr: 2}\n", b"${: 1\n"):
        broken.write_bytes(content)
        with pytest.raises(UserError, match="broken"):
            load_config(PretrainConfig, broken, [])


@pytest.mark.parametrize(
    "text", ["${oc.env:CCLSLR_SECRET}", "s3://thief/${oc.env:CCLSLR_SECRET}", "${optim.lr}", "${", "${oc.env:"]
)
@pytest.mark.parametrize("way", ["checkpoint", "file", "override"])
def test_nothing_is_looked_up_in_the_environment(text, way, tmp_path, monkeypatch):
    monkeypatch.setenv("CCLSLR_SECRET", "the-secret")
    path = tmp_path / "a.yaml"
    path.write_text(f"data: {{shards: ['{text}']}}\n")
    arguments = {"path": None, "overrides": [], "stored": None} | {
        "checkpoint": {"stored": to_dict(FinetuneConfig()) | {"data": {"shards": [text]}}},
        "file": {"path": path},
        "override": {"overrides": [f"data.shards=['{text}']"]},
    }[way]  # fmt: skip
    with pytest.raises(UserError) as caught:
        load_config(FinetuneConfig, **arguments)
    assert "the-secret" not in str(caught.value)
    assert str(path) in str(caught.value) or "data.shards" in str(caught.value)


@pytest.mark.parametrize(("kind", "key"), EVERY_KEY, ids=lambda value: getattr(value, "name", None))
def test_every_key_has_one_line_of_meaning_and_a_default_in_range(kind, key):
    assert key.meaning
    assert textwrap.wrap(key.meaning, 73) == [key.meaning]
    key.check(key.default)
    described = describe_keys(kind)
    assert f"{key.name}={show(key.default)}" in described
    assert key.meaning in described
    assert key.default == get(kind(), key.name)


@pytest.mark.parametrize("kind", KINDS)
def test_help_fits_a_terminal_of_80_columns(kind):
    assert max(map(len, describe_keys(kind).splitlines())) < 80
    assert "views.mask_alpha=0.0" in describe_keys(FinetuneConfig)  # its own default, not the section's


@given(key=st.sampled_from([key for _, key in EVERY_KEY if key.range_text]), data=st.data())
def test_ranges_hold(key, data):
    """Whatever the number: it is taken exactly where it lies within the bounds that are declared."""
    number = data.draw(st.integers(-3, 300) if "int" in str(key.kind) else st.floats(-3, 300))
    inside = (
        (key.low is None or number >= key.low)
        and (key.above is None or number > key.above)
        and (key.high is None or number <= key.high)
    )
    value = (number, number) if isinstance(key.default, tuple) else [number] if key.is_list else number
    if inside:
        key.check(value)
    else:
        with pytest.raises(UserError, match=rf"{key.name} is .*; it must be {key.range_text}"):
            key.check(value)


def test_what_is_stored_loads_again():
    for kind in KINDS:
        for path in [None, *CONFIGS.glob("*finetune*.yaml" if kind is FinetuneConfig else "*pretrain.yaml")]:
            cfg = load_config(kind, path, [])
            assert load_config(kind, None, [], stored=to_dict(cfg)) == cfg


def test_every_encoder_can_be_chosen():
    (key,) = (key for key in list_keys(PretrainConfig) if key.name == "model.rgb")
    assert set(key.choices) == set(LAYOUTS)


def test_all_fields_of_the_sections_are_declared_as_keys():
    for kind in KINDS:
        sections = [getattr(kind(), field.name) for field in dataclasses.fields(kind)]
        fields = [field for part in sections if dataclasses.is_dataclass(part) for field in dataclasses.fields(part)]
        assert all(field.metadata.get("meaning") for field in fields)
