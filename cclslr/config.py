"""The one config system: typed dataclasses, YAML files in configs/, and key=value overrides on the command line.

Order of precedence, last wins: the defaults below, the YAML file, the overrides. A key that does not exist is an
error that names the nearest one that does. Everything about a key stands where it is declared (cclslr/keys.py).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from cclslr.errors import UserError
from cclslr.keypoints import NUM_JOINTS
from cclslr.keys import Key, get, key, list_keys, nearest
from cclslr.registry import names
from cclslr.shards.format import SPLITS

SHIPPED = Path(__file__).parent / "configs"  # the files of configs/, which come along when cclslr is installed


@dataclass
class DataConfig:
    """Where clips come from and how they reach the device."""

    shards: list[str] = key([], "folders or URLs of packed data sets", also=("path", "dataset", "folder", "root"))
    weights: list[float] | None = key(None, "sampling weight of each data set; null: every clip once an epoch", low=0)
    split: str = key("train", "clips of this split are used", choices=SPLITS)
    share: float = key(1.0, "share of the clips that is used, chosen by hash (ablation)", above=0, high=1)
    labels_per_class: int | None = key(
        None, "few-label fine-tuning: so many clips of each class, chosen by hash", low=1
    )
    order: str = key(
        "auto", "how clips are shuffled; auto: sorted up to 4,194,304, then network",
        choices=("auto", "sorted", "network"),
    )  # fmt: skip
    backend: str = key(
        "auto", "who makes RGB views; auto: measured on a GPU, numba on a CPU",
        choices=("auto", *names("cclslr.data.backends")),
    )  # fmt: skip
    decode: str = key(
        "auto", "DALI's decoder (nvJPEG, NVDEC on a GPU), or CPU threads by libavcodec",
        choices=("auto", "dali", "libav"),
    )  # fmt: skip
    device: str = key("auto", "where RGB is decoded and augmented", choices=("auto", "cpu", "gpu"))
    workers: int = key(
        2, "reading and decoding threads of each rank", low=1, also=("num_workers", "threads"), effect="none"
    )
    prefetch: int = key(
        4, "batches made ahead; on two cores 4 gave 4 to 9 % more clips/s than 2 or 3", low=1,
        also=("prefetch_factor",), effect="none",
    )  # fmt: skip
    max_bad_share: float = key(
        0.01, "a run stops when a larger share of the clips read so far was bad", low=0, high=1, effect="result"
    )
    cache_dir: str = key("~/.cache/cclslr", "remote shards are kept here, for all ranks of the node", effect="none")
    cache_gb: float = key(200.0, "how much of them is kept, in GB", low=0, effect="none")


@dataclass
class ViewConfig:
    """The two augmented views of a clip (CCL-SLR §5)."""

    rgb_frames: int = key(32, "frames of an RGB view", low=1, also=("num_frames", "clip_length"))
    pose_frames: int = key(64, "frames of a pose view", low=1)
    size: int = key(224, "width and height of an RGB view in pixels", low=1, also=("image_size", "resolution", "crop"))
    min_length: float = key(
        0.1, "l: a view shows a stretch of the clip; its share is drawn from U[l, 1]", above=0, high=1
    )
    area: tuple[float, float] = key((0.4, 1.0), "share of the frame's area that the crop keeps", above=0, high=1)
    ratio: tuple[float, float] = key((0.75, 4 / 3), "width of the crop over its height", above=0)
    flip: float = key(0.5, "probability of a mirrored view", low=0, high=1)
    brightness: float = key(0.4, "brightness changes by at most this share", low=0, high=1)
    contrast: float = key(0.4, "contrast changes by at most this share", low=0, high=1)
    saturation: float = key(0.4, "saturation changes by at most this share", low=0, high=1)
    hue: float = key(0.1, "hue changes by at most this share of the colour circle", low=0, high=0.5)
    mask_alpha: float = key(0.2, "probability that a view is multiplied by its motion-preserving mask", low=0, high=1)
    rotation: float = key(10.0, "keypoints are rotated by at most this many degrees", low=0, high=180)
    scale: tuple[float, float] = key((0.9, 1.1), "keypoints are scaled by a factor between these", above=0)
    masked_joints: int = key(10, "up to this many joints of a view are zeroed", low=0, high=NUM_JOINTS)


@dataclass
class ModelConfig:
    """The two branches (CCL-SLR §4)."""

    modalities: list[str] = key(["rgb", "pose"], "branches that are trained", choices=("rgb", "pose"))
    rgb: str = key(
        "r3d50", "RGB encoder; r3d10_narrow is the demo's",
        choices=("r3d50", "r3d18", "r3d10_narrow"), also=("backbone", "arch", "encoder"),
    )  # fmt: skip
    rgb_weights: str | None = key(None, "file of published Kinetics weights (Hara et al.); null: from scratch")
    hands: str = key(
        "wrist", "hands about their wrist; placed: also where they are about the body",
        choices=("wrist", "placed"),
    )  # fmt: skip
    confidence: str = key(
        "value", "confidence of a joint; found: only whether it was found",
        choices=("value", "found"),
    )  # fmt: skip
    streams: list[str] = key(
        ["manual", "non_manual"], "streams of the pose encoder: hands and body; face and mouth",
        choices=("manual", "non_manual"),
    )  # fmt: skip
    hide_face: float = key(0.0, "share of clips that train the pose encoder without face and mouth", low=0, high=1)
    joints: str = key(
        "mean", "a group's joints become one vector as their mean; each: side by side",
        choices=("mean", "each"),
    )  # fmt: skip
    gcn_width: int = key(512, "features of each joint group and frame after the graph convolutions", low=1)
    transformer_blocks: int = key(3, "blocks of the pose transformer", low=1)
    transformer_heads: int = key(8, "heads of its attention", low=1)
    transformer_width: int = key(2048, "width of its feed-forward layers", low=1)
    dropout: float = key(0.1, "dropout in the pose transformer", low=0, high=1)
    pool: str = key("attention", "how frames become one vector", choices=("attention", "mean"))
    embedding: int = key(128, "dimensions of f, the vector that the loss compares", low=1)


@dataclass
class ObjectiveConfig:
    """The loss and everything it needs (CCL-SLR §2); every switch of the ablation tables."""

    tau: float = key(0.07, "temperature of the contrastive terms", above=0, also=("temperature",))
    bank_size: int = key(16384, "N: keys in each memory bank", low=1, also=("queue_size", "queue", "negatives"))
    momentum: float = key(0.999, "gamma: the key encoder keeps this share of itself in a step", low=0, high=1)
    spm: bool = key(True, "mine semantic positives (SPM)")
    spm_from_epoch: int = key(0, "SPM joins at this epoch: neighbours of untrained features mean little", low=0)
    k: int = key(10, "semantic positives of each clip", low=1, also=("neighbours", "topk"))
    tau_spm: float = key(0.02, "temperature of the semantic positives' weights", above=0)
    mine_from: str = key("g", "features in which the semantic positives are found", choices=("g", "f"))
    cross: bool = key(True, "the terms across modalities")
    exclude_same_clip: bool = key(False, "leave earlier keys of the same clip out of the bank")
    shuffle_bn: bool = key(True, "mix keys over the global batch, so that BatchNorm gives no hint of pairs")


@dataclass
class OptimConfig:
    """SGD and its schedule (CCL-SLR §6)."""

    epochs: int = key(140, "passes over the clips", low=1, also=("num_epochs", "max_epochs"))
    batch: int = key(64, "clips of a step, over all ranks", low=1, also=("batch_size", "bs"))
    micro_batch: int = key(
        8, "clips that pass the encoders together: one BatchNorm group, one backward", low=1,
        also=("micro_batch_size", "accumulate"),
    )  # fmt: skip
    lr: float = key(0.01, "learning rate", low=0, also=("learning_rate", "base_lr"))
    momentum: float = key(0.9, "of SGD", low=0, high=1)
    weight_decay: float = key(1e-4, "of SGD", low=0, also=("wd",))
    milestones: list[int] = key([100], "epochs at which the learning rate drops", low=0, also=("steps",))
    gamma: float = key(0.1, "factor of the learning rate at each milestone", above=0)
    warmup_epochs: float = key(0.0, "epochs in which the learning rate rises from 0", low=0, also=("warmup",))


@dataclass
class RunConfig:
    """One run: where it writes, how often it reports, how it computes (docs/throughput.md says what that is worth)."""

    dir: str = key(
        "runs/pretrain",
        "folder of checkpoints, metrics, curves",
        also=("out", "output_dir", "folder"),
        effect="none",
    )
    seed: int = key(0, "of weights, order and augmentation", also=("random_seed",))
    device: str = key("auto", "where the model is trained", choices=("auto", "cpu", "cuda"), effect="result")
    resume: str = key("auto", "auto (last.pt of run.dir, if it is there), none, or a checkpoint's path", effect="none")
    checkpoint_every: int = key(
        10, "epochs between kept checkpoints; last.pt is written every epoch", low=1, effect="none"
    )
    checkpoint_steps: int = key(0, "write last.pt every so many steps as well; 0: never", low=0, effect="none")
    max_steps: int | None = key(None, "stop after this step, without changing the schedule", low=1, effect="result")
    log_every: int = key(
        10, "steps between two lines of the log", low=1, also=("log_interval", "print_freq"), effect="none"
    )
    knn_every: int = key(10, "epochs between k-NN probes; 0: never", low=0, effect="result")
    knn_neighbours: int = key(20, "neighbours that a k-NN probe asks", low=1, effect="result")
    hash_stream: bool = key(False, "write a checksum of every batch's bytes to metrics.jsonl", effect="result")
    amp: str = key(
        "auto", "auto: bf16 where the GPU has it, fp16 on older GPUs, fp32 on a CPU",
        choices=("auto", "fp32", "bf16", "fp16"), also=("precision", "dtype", "mixed_precision"),
    )  # fmt: skip
    channels_last: bool = key(True, "3D convolutions work on channels-last memory", effect="result")
    recompute: bool = key(False, "keep an RGB stage's input alone, make the rest again for gradients", effect="result")
    fused_momentum_update: bool = key(True, "one call updates all parameters of the key encoders", effect="result")
    fused_optimizer: bool = key(
        True, "one call updates all parameters; else every step waits for the device", effect="result"
    )
    cudnn_benchmark: bool = key(True, "cuDNN tries its algorithms when it meets a new shape", effect="result")
    compile: str = key(
        "none", "torch.compile; cuda_graphs: its launches are recorded once and replayed",
        choices=("none", "default", "cuda_graphs"), effect="result",
    )  # fmt: skip
    gradient_as_bucket_view: bool = key(True, "DDP: gradients live in the buckets that are sent", effect="result")
    gradient_compression: str = key(
        "none", "DDP: what is sent over the wire", choices=("none", "bf16", "fp16"), effect="result"
    )


@dataclass
class PhaseConfig:
    """One phase of a schedule: what it sets holds in its epochs; what is null is as views and optim say."""

    from_epoch: int = key(0, "first epoch of the phase, from 0; it lasts until the next one begins", low=0)
    size: int | None = key(None, "views.size of the phase", low=1)
    rgb_frames: int | None = key(None, "views.rgb_frames of the phase", low=1)
    pose_frames: int | None = key(None, "views.pose_frames of the phase", low=1)
    batch: int | None = key(None, "optim.batch of the phase", low=1)
    micro_batch: int | None = key(None, "optim.micro_batch of the phase", low=1)
    lr: float | None = key(None, "optim.lr of the phase; milestones and warm-up go on above it", low=0)


@dataclass
class PretrainConfig:
    """`torchrun -m cclslr.train`."""

    data: DataConfig = field(default_factory=DataConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)
    schedule: list[PhaseConfig] = key(
        [], "phases of a progressive schedule; empty: views and optim hold throughout", also=("phases",)
    )


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
    pretrained: str | None = key(
        None, "checkpoint of cclslr train; null: from scratch", also=("checkpoint", "weights", "init"), effect="none"
    )
    linear_probe: bool = key(False, "train the last layer only")
    fuse: str = key(
        # The temperatures are fitted by a first run that leaves out a fifth of the training clips
        "sum", "sum of both logits; calibrated: each over a temperature that is fitted", choices=("sum", "calibrated"),
    )  # fmt: skip
    report: str = key("last", "which epoch is evaluated", choices=("last", "best_val"))
    eval_split: str = key("test", "split that is evaluated at the end", choices=SPLITS, effect="result")


Config = TypeVar("Config")


def load_config(
    kind: type[Config], path: str | Path | None, overrides: list[str], stored: dict[str, Any] | None = None
) -> Config:
    """Build a `kind` from defaults, the YAML file `path` and `overrides` such as `optim.batch=128`.

    `path` may also be the name of a file of configs/, such as pretrain.yaml. `stored` is a config that `to_dict` wrote
    into a checkpoint; it takes the place of the defaults. A list of one needs no brackets: data.shards=shards/mine.

    Raises:
        UserError: unknown key (the nearest known one is named), a value of the wrong type or out of range, `${…}`,
            an unreadable file.
    """
    keys = list_keys(kind)
    sources: list[tuple[str, dict[str, Any]]] = []
    if stored is not None:
        sources.append(("the checkpoint's config", stored))
    if path is not None:
        sources.append((str(path), _read_yaml(find_config(path))))
    sources += [(override, _read_override(override)) for override in overrides]
    merged = OmegaConf.structured(kind)
    for name, source in sources:
        values = _checked(source, keys, name)
        try:
            merged = OmegaConf.merge(merged, OmegaConf.create(values))
            OmegaConf.to_object(merged)
        except OmegaConfBaseException as error:
            raise UserError(f"{name}: {str(error).splitlines()[0]}") from error
    config = OmegaConf.to_object(merged)
    assert isinstance(config, kind)
    for known in keys:
        known.check(get(config, known.name))
    return config


def to_dict(config: Any) -> dict[str, Any]:
    """The config as plain containers, for checkpoints and JSON."""
    return dataclasses.asdict(config)


def find_config(path: str | Path) -> Path:
    """The file `path`, or the one of configs/ that is called so; configs/pretrain.yaml is found from anywhere."""
    path = Path(path)
    if path.exists() or path.parent not in (Path("."), Path("configs")):
        return path
    if (SHIPPED / path.name).exists():
        return SHIPPED / path.name
    names = ", ".join(sorted(shipped.name for shipped in SHIPPED.glob("*.yaml")))
    raise UserError(f"config {path}: no such file here, nor among those of cclslr: {names}")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = OmegaConf.load(path)
    except OSError as error:
        raise UserError(f"config {path}: {error.strerror}") from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"config {path}: not valid YAML ({str(error).splitlines()[-1].strip()})") from error
    except OmegaConfBaseException as error:
        raise UserError(f"config {path}: {str(error).splitlines()[0]}") from error
    if not isinstance(content, DictConfig):
        raise UserError(f"config {path}: expected keys and values at the top level")
    return _plain(content)


def _read_override(override: str) -> dict[str, Any]:
    if "=" not in override:
        raise UserError(f"{override!r} is no override; write key=value, e.g. optim.batch=128")
    try:
        return _plain(OmegaConf.from_dotlist([override]))
    except (YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{override}: cannot be read ({str(error).splitlines()[0]})") from error


def _plain(content: DictConfig) -> dict[str, Any]:
    """As dicts and lists, with every text as it was written: nothing is looked up in the environment or elsewhere."""
    values = OmegaConf.to_container(content, resolve=False)
    assert isinstance(values, dict)
    return {str(name): value for name, value in values.items()}


def _checked(source: dict[str, Any], keys: list[Key], name: str) -> dict[str, Any]:
    """The source, with single values of list keys as lists.

    Raises:
        UserError: it has a key that does not exist, or `${…}`, which would fetch text from elsewhere: a checkpoint
            could send the environment's secrets to a server that it names.
    """
    known = {item.name: item for item in keys}
    sections = {"", *(item.name.rpartition(".")[0] for item in keys)}

    def walk(value: Any, full: str) -> Any:
        if isinstance(value, dict) and (full in sections or (full in known and value)):
            return {inner: walk(node, f"{full}.{inner}" if full else str(inner)) for inner, node in value.items()}
        if full in sections:
            raise UserError(f"{name}: {full} is a section and has no value; set keys in it, such as optim.batch")
        if full not in known:
            raise UserError(f"{name}: unknown config key {full!r}; did you mean {nearest(full, keys)!r}?")
        if "${" in str(value):
            raise UserError(f"{name}: {full} holds ${{…}}, which is not looked up; write the value itself")
        if value in ("???", {}):  # OmegaConf's word for a value that is missing; nothing
            raise UserError(f"{name}: {full} has no value")
        if known[full].parts:
            _check_parts(value, known[full], name)
        return [value] if known[full].is_list and isinstance(value, str | int | float) else value

    return walk(source, "")


def _check_parts(value: Any, key: Key, name: str) -> None:
    """Refuse what is no list of the key's parts, such as phases, or has keys that do not exist."""
    for number, part in enumerate(value if isinstance(value, list) else [value]):
        place = f"{key.name}[{number}]"
        if not isinstance(part, dict):
            raise UserError(f"{name}: {place} is {part!r}; write keys and values, such as {{{key.parts[0].name}: 0}}")
        for unknown in part.keys() - {item.name for item in key.parts}:
            meant = nearest(str(unknown), key.parts)
            raise UserError(f"{name}: unknown config key '{place}.{unknown}'; did you mean '{place}.{meant}'?")
