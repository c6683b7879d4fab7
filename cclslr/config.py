"""The one config system: typed dataclasses, YAML files in configs/, and key=value overrides on the command line.

Order of precedence, last wins: the defaults below, the YAML file, the overrides. A key that does not exist is an
error that names the nearest one that does.
"""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from cclslr.errors import UserError


@dataclass
class DataConfig:
    """Where clips come from and how they reach the device."""

    shards: list[str] = field(default_factory=list)  # folders or URLs of packed data sets
    weights: list[float] | None = None  # sampling weight of each data set; None: every clip once an epoch
    split: str = "train"
    share: float = 1.0  # share of the clips that is used, chosen by hash (ablation)
    labels_per_class: int | None = None  # few-label fine-tuning: this many clips of each class, chosen by hash
    backend: str = "auto"  # auto | dali | numba | ffcv: who turns bytes into RGB views
    decode: str = (
        "auto"  # auto | dali | libav: DALI's decoder (nvJPEG/NVDEC on a GPU), or CPU threads through libavcodec
    )
    device: str = "auto"  # auto | cpu | gpu: where RGB is decoded and augmented
    workers: int = 2  # reading and decoding threads of each rank
    prefetch: int = 4  # batches made ahead; on two cores 4 gave 4 to 9 % more clips/s than 2 or 3
    max_bad_share: float = 0.01  # a run stops when a larger share of the clips read so far was quarantined
    cache_dir: str = "~/.cache/cclslr"  # remote shards: node-local cache, shared by the node's ranks
    cache_gb: float = 200.0


@dataclass
class ViewConfig:
    """The two augmented views of a clip (CCL-SLR §5)."""

    rgb_frames: int = 32
    pose_frames: int = 64
    size: int = 224  # pixels of the square RGB view
    min_length: float = 0.1  # l: the temporal crop is U[l, 1] of the clip
    area: tuple[float, float] = (0.4, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    flip: float = 0.5
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    mask_alpha: float = 0.2  # probability that a view is multiplied by its motion-preserving mask
    rotation: float = 10.0  # degrees
    scale: tuple[float, float] = (0.9, 1.1)
    masked_joints: int = 10  # up to this many joints of a view are zeroed


@dataclass
class ModelConfig:
    """The two branches (CCL-SLR §4)."""

    modalities: list[str] = field(default_factory=lambda: ["rgb", "pose"])
    rgb: str = "r3d50"  # r3d50 | r3d18 | r3d10_narrow (the demo's)
    rgb_weights: str | None = None  # published Kinetics weights (Hara et al.); None: from scratch
    gcn_width: int = 512  # features a frame and joint group
    transformer_blocks: int = 3
    transformer_heads: int = 8
    transformer_width: int = 2048  # of the feed-forward layer
    dropout: float = 0.1
    pool: str = "attention"  # attention | mean
    embedding: int = 128  # dimensions of f


@dataclass
class ObjectiveConfig:
    """The loss and everything it needs (CCL-SLR §2); every switch of the ablation tables."""

    tau: float = 0.07
    bank_size: int = 16384  # N
    momentum: float = 0.999  # gamma
    spm: bool = True
    spm_from_epoch: int = 0  # SPM joins at this epoch: before features mean something, neither do their neighbours
    k: int = 10
    tau_spm: float = 0.02
    mine_from: str = "g"  # g | f: which bank the semantic positives are mined from
    cross: bool = True
    exclude_same_clip: bool = False
    shuffle_bn: bool = True  # key micro-batches are drawn from the whole global batch, so BN statistics leak nothing


@dataclass
class OptimConfig:
    """SGD and its schedule (CCL-SLR §6)."""

    epochs: int = 140
    batch: int = 64  # clips a step over all ranks
    micro_batch: int = 8  # clips that pass the encoders together: one BatchNorm group, one backward
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    milestones: list[int] = field(default_factory=lambda: [100])  # epochs
    gamma: float = 0.1  # factor of the learning rate at each milestone
    warmup_epochs: float = 0.0  # linear warm-up


@dataclass
class RunConfig:
    """One run: where it writes, how often it reports, how it computes (docs/throughput.md says what that is worth)."""

    dir: str = "runs/pretrain"
    seed: int = 0
    device: str = "auto"  # auto | cpu | cuda
    resume: str = "auto"  # auto | none | path of a checkpoint
    checkpoint_every: int = 10  # epochs between the checkpoints that are kept; last.pt is written every epoch
    checkpoint_steps: int = 0  # additionally write last.pt every so many steps (0: never)
    max_steps: int | None = None  # stop early, without changing the schedule
    log_every: int = 10  # steps
    knn_every: int = 10  # epochs between k-NN probes; 0: never
    knn_neighbours: int = 20
    hash_stream: bool = False  # write a checksum of every batch's bytes to metrics.jsonl
    amp: str = "auto"  # auto | fp32 | bf16 | fp16: auto is bf16 where the GPU has it, fp16 on older GPUs, fp32 on a CPU
    channels_last: bool = True  # 3D convolutions work on channels-last memory
    fused_momentum_update: bool = True  # one call for all parameters, not one for each
    fused_optimizer: bool = True  # likewise; and without it every step waits for the device
    cudnn_benchmark: bool = True  # cuDNN tries its algorithms when it meets a shape
    compile: str = "none"  # none | default | cuda_graphs: torch.compile, and its launches recorded once and replayed
    gradient_as_bucket_view: bool = True  # DDP: gradients live in the buckets that are sent
    gradient_compression: str = "none"  # none | bf16 | fp16: what DDP sends over the wire


@dataclass
class PretrainConfig:
    """`torchrun -m cclslr.train`."""

    data: DataConfig = field(default_factory=DataConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)


def _finetune_optim() -> OptimConfig:
    return OptimConfig(epochs=40, batch=128, micro_batch=16, lr=0.05, weight_decay=0.0, milestones=[25, 35])


@dataclass
class FinetuneConfig:
    """`torchrun -m cclslr.finetune`."""

    data: DataConfig = field(default_factory=DataConfig)
    views: ViewConfig = field(default_factory=lambda: ViewConfig(mask_alpha=0.0))
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=_finetune_optim)
    run: RunConfig = field(default_factory=lambda: RunConfig(dir="runs/finetune"))
    pretrained: str | None = None  # checkpoint of cclslr.train; None: from scratch
    linear_probe: bool = False  # train the last layer only
    report: str = "last"  # last | best_val: which epoch is evaluated
    eval_split: str = "test"


Config = TypeVar("Config")


def load_config(
    kind: type[Config], path: str | Path | None, overrides: list[str], stored: dict[str, Any] | None = None
) -> Config:
    """Build a `kind` from defaults, the YAML file `path` and `overrides` such as `optim.batch=128`.

    `stored` is a config that `to_dict` wrote into a checkpoint; it takes the place of the defaults.

    Raises:
        UserError: unknown key (the nearest known one is named), a value of the wrong type, an unreadable file.
    """
    merged = OmegaConf.structured(kind)
    sources: list[tuple[str, DictConfig]] = []
    if stored is not None:
        sources.append(("the checkpoint's config", OmegaConf.create(stored)))
    if path is not None:
        sources.append((str(path), _read_yaml(path)))
    for override in overrides:
        if "=" not in override:
            raise UserError(f"{override!r} is no override; write key=value, e.g. optim.batch=128")
        sources.append((override, OmegaConf.from_dotlist([override])))
    for name, source in sources:
        _check_keys(kind, OmegaConf.to_container(source), name)
        try:
            merged = OmegaConf.merge(merged, source)
        except OmegaConfBaseException as error:
            raise UserError(f"{name}: {str(error).splitlines()[0]}") from error
    config = OmegaConf.to_object(merged)
    assert isinstance(config, kind)
    _check_choices(config)
    return config


def to_dict(config: Any) -> dict[str, Any]:
    """The config as plain containers, for checkpoints and JSON."""
    return dataclasses.asdict(config)


def _read_yaml(path: str | Path) -> DictConfig:
    try:
        content = OmegaConf.load(path)
    except OSError as error:
        raise UserError(f"config {path}: {error.strerror}") from error
    except YAMLError as error:
        raise UserError(f"config {path}: not valid YAML ({str(error).splitlines()[-1].strip()})") from error
    if not isinstance(content, DictConfig):
        raise UserError(f"config {path}: expected keys and values at the top level")
    return content


def _known_keys(kind: Any, prefix: str = "") -> list[str]:
    keys = []
    for item in dataclasses.fields(kind):
        keys.append(prefix + item.name)
        default = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
        if dataclasses.is_dataclass(default):
            keys += _known_keys(type(default), f"{prefix}{item.name}.")
    return keys


def _check_keys(kind: Any, source: Any, name: str) -> None:
    known = _known_keys(kind)

    def walk(node: Any, prefix: str) -> None:
        for key, value in node.items():
            full = f"{prefix}{key}"
            if full not in known:
                near = difflib.get_close_matches(full, known, n=1, cutoff=0.0)
                raise UserError(f"{name}: unknown config key {full!r}; did you mean {near[0]!r}?")
            if isinstance(value, dict):
                walk(value, full + ".")

    walk(source, "")


_CHOICES = {
    "data.backend": ("auto", "dali", "numba", "ffcv"),
    "data.decode": ("auto", "dali", "libav"),
    "data.device": ("auto", "cpu", "gpu"),
    "model.rgb": ("r3d50", "r3d18", "r3d10_narrow"),
    "model.pool": ("attention", "mean"),
    "objective.mine_from": ("g", "f"),
    "run.device": ("auto", "cpu", "cuda"),
    "run.amp": ("auto", "fp32", "bf16", "fp16"),
    "run.compile": ("none", "default", "cuda_graphs"),
    "run.gradient_compression": ("none", "bf16", "fp16"),
    "report": ("last", "best_val"),
}


def _check_choices(config: Any) -> None:
    for key, choices in _CHOICES.items():
        node = config
        for part in key.split("."):
            node = getattr(node, part, None)
        if node is not None and node not in choices:
            raise UserError(f"{key} is {node!r}; choose one of {', '.join(choices)}")
    modalities = config.model.modalities
    if not modalities or not set(modalities) <= {"rgb", "pose"} or len(set(modalities)) != len(modalities):
        raise UserError(f"model.modalities is {modalities}; choose [rgb, pose], [rgb] or [pose]")
