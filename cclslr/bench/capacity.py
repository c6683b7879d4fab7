"""How fast a run will be on given hardware, and what limits it: a model of a few divisions (docs/scaling.md).

A run is a chain of stages that work at the same time: storage, CPU, PCIe, decoding on the GPU, the training step. The
slowest one sets the rate. Units: clips a second, bytes, and GB/s = 1e9 bytes a second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cclslr.errors import UserError

PAGE_CACHE_SHARE = 0.8  # of a node's memory that the page cache can have
BACKWARD_SHARE = 0.45  # of a step's arithmetic: 266 of 585 GFLOP a clip (CCL-SLR §7); gradients travel meanwhile


@dataclass(frozen=True)
class Work:
    """What one clip and one step cost."""

    compute: float  # clips/s of one GPU that never waits: `bench_train` replay
    batch: int  # clips a GPU and step
    micro_batches: int  # a step; gradients travel during the last one's backward pass
    core_ms: float  # milliseconds of one CPU core to read, decode and augment a clip, as far as that is on the CPU
    gpu_loader: float  # clips/s of one GPU that only decodes and augments; infinite where the CPU does it
    clip_bytes: float  # read from storage
    bus_bytes: float  # of a clip that cross from host to GPU
    view_bytes: float  # of a clip's key view, exchanged between GPUs (objective.shuffle_bn)
    gradient_bytes: float  # of all parameters, as they travel
    same_cores: bool = False  # training itself runs on the CPU: it and the loader take turns


@dataclass(frozen=True)
class Hardware:
    """One node, and how many GPUs there are over all nodes."""

    gpus: int
    gpus_per_node: int
    cores: int  # of a node
    memory_gb: float  # of a node
    disk_gb_s: float  # of a node, sequential reads of about a clip's size; also the cache of remote shards
    disk_gb: float  # of a node, free for the cache
    bus_gb_s: float  # host to one GPU
    link_gb_s: float  # one GPU to another of its node, each way
    network_gb_s: float  # of a node, each way
    store_gb_s: float = math.inf  # remote storage, over all nodes together

    @property
    def nodes(self) -> int:
        return -(-self.gpus // self.gpus_per_node)


@dataclass(frozen=True)
class Corpus:
    """What is trained on."""

    clips: int
    remote: bool  # object storage, through the node-local cache


@dataclass(frozen=True)
class Stage:
    """One stage and what it can deliver, over all nodes."""

    name: str  # compute | cpu | bus | gpu_loader | storage
    clips_per_second: float
    detail: str


@dataclass(frozen=True)
class Forecast:
    """Rate and epoch time once the caches are warm, and those of the first epoch."""

    stages: tuple[Stage, ...]
    first_storage: Stage
    clips: int
    global_batch: int
    efficiency: float  # of the training step: share of a step that is not spent on the network

    @property
    def bottleneck(self) -> Stage:
        return min(self.stages, key=lambda stage: stage.clips_per_second)

    @property
    def clips_per_second(self) -> float:
        return self.bottleneck.clips_per_second

    @property
    def epoch_seconds(self) -> float:
        return self.clips / self.clips_per_second

    @property
    def first_epoch_seconds(self) -> float:
        return self.clips / min(self.clips_per_second, self.first_storage.clips_per_second)

    @property
    def headroom(self) -> float:
        """Supply over consumption: the slowest stage before the training step, in units of its rate."""
        step = next(stage for stage in self.stages if stage.name == "compute")
        return min(s.clips_per_second for s in self.stages if s.name != "compute") / step.clips_per_second


def forecast(work: Work, hardware: Hardware, corpus: Corpus) -> Forecast:
    """Combine the stages.

    Raises:
        UserError: GPUs that do not fill whole nodes.
    """
    gpus, nodes = hardware.gpus, hardware.nodes
    if gpus > hardware.gpus_per_node and gpus % hardware.gpus_per_node:
        raise UserError(f"{gpus} GPUs do not fill nodes of {hardware.gpus_per_node}")
    local_gpus = min(gpus, hardware.gpus_per_node)
    cores = hardware.cores * local_gpus / hardware.gpus_per_node  # a fair share of a node that is not filled
    step, communication = _step(work, hardware)
    loading = local_gpus * work.batch * work.core_ms / 1e3 / cores if work.same_cores else 0.0
    rate = gpus * work.batch / (step + communication + loading)
    compute = Stage("compute", rate, f"{gpus} x {work.compute:.3g} clips/s")
    cpu = Stage("cpu", nodes * _over(1e3 * cores, work.core_ms), f"{work.core_ms:.3g} core-ms a clip, {cores:g} cores")
    bus = Stage("bus", gpus * _over(1e9 * hardware.bus_gb_s, work.bus_bytes), f"{work.bus_bytes / 1e6:.3g} MB a clip")
    decode = Stage("gpu_loader", gpus * work.gpu_loader, f"{gpus} x {work.gpu_loader:.3g} clips/s")
    warm, first = _storage(work, hardware, corpus)
    efficiency = step / (step + communication)
    return Forecast((compute, cpu, bus, decode, warm), first, corpus.clips, local_gpus * nodes * work.batch, efficiency)


def _over(amount: float, cost: float) -> float:
    return amount / cost if cost else math.inf


def _step(work: Work, hardware: Hardware) -> tuple[float, float]:
    """Seconds a step of arithmetic, and of communication that it does not hide.

    Gradients: a ring all-reduce sends 2 (n-1)/n of them over a node's slowest link, hidden by the backward pass of the
    last micro-batch. Key views: an all-to-all before the key pass, hidden by nothing.
    """
    seconds = work.batch / work.compute
    local, nodes = min(hardware.gpus, hardware.gpus_per_node), hardware.nodes

    def ring(members: int) -> float:
        return 2 * (members - 1) / members

    gradients = max(
        ring(local) * work.gradient_bytes / (1e9 * hardware.link_gb_s),
        ring(nodes) * work.gradient_bytes / (1e9 * hardware.network_gb_s),
    )
    hidden = BACKWARD_SHARE * seconds / work.micro_batches
    views = work.batch * work.view_bytes
    within = views * (hardware.gpus - 1) / hardware.gpus / (1e9 * hardware.link_gb_s)
    between = local * views * (nodes - 1) / nodes / (1e9 * hardware.network_gb_s)
    return seconds, max(0.0, gradients - hidden) + max(within, between)


def _storage(work: Work, hardware: Hardware, corpus: Corpus) -> tuple[Stage, Stage]:
    """Storage in later epochs and in the first one.

    The shuffle is global: over the epochs every node reads every clip, so a cache helps when the whole corpus fits.
    """
    nodes, size = hardware.nodes, corpus.clips * work.clip_bytes

    def stage(gb_s: float, detail: str) -> Stage:
        return Stage("storage", _over(1e9 * gb_s, work.clip_bytes), detail)

    disk = stage(nodes * hardware.disk_gb_s, f"disks, {nodes} x {hardware.disk_gb_s:g} GB/s")
    over_network = min(nodes * hardware.network_gb_s, hardware.store_gb_s)
    remote = stage(over_network, f"object storage, {over_network:g} GB/s in all")
    first = remote if corpus.remote else disk
    if size <= 1e9 * PAGE_CACHE_SHARE * hardware.memory_gb:
        return stage(math.inf, "page cache: the corpus fits into each node's memory"), first
    if corpus.remote and size <= 1e9 * hardware.disk_gb:
        return disk, first
    return first, first


def advice(result: Forecast, work: Work, hardware: Hardware) -> str:
    """What to change about the bottleneck."""
    name, rate = result.bottleneck.name, result.clips_per_second
    compute = next(stage for stage in result.stages if stage.name == "compute")
    if name == "cpu":
        cores = compute.clips_per_second * work.core_ms / 1e3 / hardware.nodes
        return (
            f"the GPUs take {compute.clips_per_second:.0f} clips/s, the CPUs make {rate:.0f}: decode and augment on "
            f"the GPU (data.device=gpu), or have {math.ceil(cores)} cores a node"
        )
    if name == "bus":
        return "send less over PCIe: encoded bytes (data.decode=dali data.device=gpu) instead of frames or views"
    if name == "gpu_loader":
        return (
            "decoding fills the GPU: decode on CPU threads (data.decode=libav) and augment on the GPU, or use a codec "
            "that this GPU decodes faster"
        )
    if name == "storage":
        needed = compute.clips_per_second * work.clip_bytes / 1e9
        size = result.clips * work.clip_bytes / 1e9
        return (
            f"storage must deliver {needed:.2g} GB/s: pack h264 or hevc instead of jpeg, or a smaller short side, or "
            f"give each node a cache of {size:.0f} GB (data.cache_gb)"
        )
    if result.efficiency < 0.9:
        return (
            f"{1 - result.efficiency:.0%} of a step is communication: run.gradient_compression=bf16, more clips a GPU "
            "and step, objective.shuffle_bn=false (no exchange of key views), or a faster link between GPUs"
        )
    others = (stage for stage in result.stages if stage.name != "compute")
    following = min(others, key=lambda stage: stage.clips_per_second)
    return f"nothing waits; the next limit is {following.name}, at {result.headroom:.3g} times this rate"
