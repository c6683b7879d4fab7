"""Pre-train the RGB and the pose branch by cross-modal consistency (CCL-SLR §3).

    torchrun --nproc-per-node 8 -m cclslr.train --config configs/pretrain.yaml data.shards=[shards/wlasl2000]
    python -m cclslr.train --config configs/pretrain_small.yaml

Writes checkpoints, metrics.jsonl and TensorBoard curves into run.dir; continues from run.dir/last.pt if it is there.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from cclslr.cli import config_from_command_line
from cclslr.config import PretrainConfig
from cclslr.console import console, run_command
from cclslr.data.batch import Batch
from cclslr.data.draw import Purpose, hash_words
from cclslr.data.placement import check_sizes
from cclslr.data.plan import Plan
from cclslr.distributed import Process, process_group
from cclslr.errors import UserError
from cclslr.masking.required import require_masks
from cclslr.models.ccl import Branches, ByModality, MemoryBanks, key_copy, momentum_update
from cclslr.models.objective import Losses, ccl_losses
from cclslr.schedule import batch_by_epoch, by_epoch, longest, phases
from cclslr.shards.reader import ShardSet
from cclslr.training.backend_choice import StepOnTrial, choose
from cclslr.training.loop import Training
from cclslr.training.optimise import Amp, arrange_memory, check_batch, compile_model, distribute, keeps_gradients, sgd
from cclslr.training.probe import knn_probe, mined_precision
from cclslr.training.resume import find_saved
from cclslr.training.statistics import Statistics


@dataclass
class Learner:
    """Everything that a step changes."""

    query: Branches
    query_ddp: nn.Module  # the same weights, wrapped for several ranks
    key: Branches
    banks: MemoryBanks
    statistics: Statistics  # of BatchNorm, in the query and the key path
    optimizer: torch.optim.Optimizer
    amp: Amp

    def state(self) -> dict[str, Any]:
        return {
            "query": self.query.state_dict(),
            "key": self.key.state_dict(),
            "banks": self.banks.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.amp.scaler.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.query.load_state_dict(state["query"])
        self.key.load_state_dict(state["key"])
        self.banks.load_state_dict(state["banks"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.amp.scaler.load_state_dict(state["scaler"])


def build_learner(cfg: PretrainConfig, process: Process) -> Learner:
    """Fresh branches, the same on every rank."""
    torch.manual_seed(cfg.run.seed)
    query = Branches(cfg.model).to(process.device)
    if "rgb" in cfg.model.modalities:
        arrange_memory(query.branch["rgb"], cfg.run)
    key = key_copy(query)
    banks = MemoryBanks(query, cfg.model, cfg.objective.bank_size).to(process.device)
    statistics = Statistics(query, key)
    compile_model(query, cfg.run)
    compile_model(key, cfg.run)
    query_ddp = distribute(query, process, cfg.run)
    optimizer = sgd(query.parameters(), cfg.optim, cfg.run.fused_optimizer)
    amp = Amp(cfg.run.amp, process.device, keeps_gradients(cfg.run, process.world))
    return Learner(query, query_ddp, key, banks, statistics, optimizer, amp)


def pretrain_step(learner: Learner, batch: Batch, step: int, cfg: PretrainConfig, process: Process) -> Losses:
    """One optimiser step on this rank's clips of global batch `step`; returns the loss terms, mean over its clips.

    Encoders see `micro_batch` clips at a time: one BatchNorm group. Which clips share a group, and the seed of every
    dropout, depend on the position in the global batch alone, so the loss is the same at any number of ranks.
    """
    micro, size, seed = cfg.optim.micro_batch, len(batch.clip_ids_B), cfg.run.seed
    views = {m: x for m, x in {"rgb": batch.rgb_VBTHWC, "pose": batch.pose_VBTJC}.items() if x is not None}
    slices = [slice(start, start + micro) for start in range(0, size, micro)]
    first_group = process.rank * len(slices)
    learner.statistics.keep()

    # Keys, from momentum encoders; shuffled, so that BN statistics do not tell which key belongs to which query
    momentum_update(learner.key, learner.query, cfg.objective.momentum, cfg.run.fused_momentum_update)
    order_G = torch.arange(size * process.world)
    if cfg.objective.shuffle_bn:
        order_G = torch.from_numpy(hash_words(seed, Purpose.SHUFFLE_BN, step, order_G.numpy()).argsort())
    keys: list[tuple[ByModality, ByModality]] = []
    with torch.no_grad(), learner.amp.autocast():
        key_views = {m: process.exchange(x_VB[1], order_G) for m, x_VB in views.items()}
        for group, part in enumerate(slices, first_group):
            torch.manual_seed(int(hash_words(seed, Purpose.KEY_DROPOUT, step, group)))
            g_k, f_k = learner.key({m: x_B[part] for m, x_B in key_views.items()})
            # Copied, as the next run of a CUDA graph overwrites them
            keys.append(({m: g.clone() for m, g in g_k.items()}, {m: f.clone() for m, f in f_k.items()}))
    unshuffle_G = order_G.argsort().to(process.device, non_blocking=True)
    g_k_G = {m: process.gather(torch.cat([g[m] for g, _ in keys]))[unshuffle_G] for m in views}
    f_k_G = {m: process.gather(torch.cat([f[m] for _, f in keys]))[unshuffle_G] for m in views}
    f_k = {m: process.part(f_k_G[m]) for m in views}

    # Queries
    terms: list[Losses] = []
    for group, part in enumerate(slices, first_group):
        torch.manual_seed(int(hash_words(seed, Purpose.QUERY_DROPOUT, step, group)))
        no_sync = getattr(learner.query_ddp, "no_sync", nullcontext) if part is not slices[-1] else nullcontext
        with no_sync():
            with learner.amp.autocast():
                g_q, f_q = learner.query_ddp({m: x_VB[0, part] for m, x_VB in views.items()})
            usable_BN = learner.banks.usable(batch.clip_ids_B[part], cfg.objective.exclude_same_clip)
            f_k_part = {m: f_k[m][part] for m in views}
            losses = ccl_losses(f_q, g_q, f_k_part, learner.banks.f, learner.banks.g, usable_BN, cfg.objective)
            learner.amp.backward(torch.stack(list(losses.values())).sum() / len(slices))
        terms.append({name: loss.detach() for name, loss in losses.items()})
    skipped = learner.amp.step(learner.optimizer)
    learner.statistics.take_back_if(skipped)

    learner.banks.enqueue(f_k_G, g_k_G, process.gather(batch.clip_ids_B))
    return {name: torch.stack([losses[name] for losses in terms]).mean() for name in terms[0]}


def at_epoch(cfg: PretrainConfig, epoch: float) -> PretrainConfig:
    """The config as it stands at an epoch: that of its phase, without SPM before `spm_from_epoch`."""
    cfg = by_epoch(cfg).at(epoch).cfg
    if not cfg.objective.spm or epoch >= cfg.objective.spm_from_epoch:
        return cfg
    return replace(cfg, objective=replace(cfg.objective, spm=False))


def check(cfg: PretrainConfig, world: int) -> None:
    """Refuse before the first step what would fail in a later phase.

    Raises:
        UserError: a batch that does not split, or is larger than the banks; views that the backend cannot make.
    """
    for phase in phases(cfg):
        batch = phase.cfg.optim.batch
        check_batch(phase.cfg.optim, world)
        if batch > cfg.objective.bank_size:
            raise UserError(f"objective.bank_size={cfg.objective.bank_size} is smaller than optim.batch={batch}")
    if "rgb" in cfg.model.modalities:
        check_sizes(cfg.data, [cfg.views.size, *(phase.cfg.views.size for phase in phases(cfg))])


def step_on_trial(cfg: PretrainConfig, process: Process) -> StepOnTrial:
    """The step of this rank alone, with networks of its own."""
    alone = Process(0, 1, process.device)
    optim = replace(cfg.optim, batch=cfg.optim.batch // process.world)
    cfg = replace(cfg, optim=optim, run=replace(cfg.run, compile="none"))
    learner = build_learner(cfg, alone)
    return lambda batch, number: pretrain_step(learner, batch, number, cfg, alone)


def train(cfg: PretrainConfig, process: Process) -> None:
    """The whole run: from shards to checkpoints."""
    check(cfg, process.world)
    shards = ShardSet(cfg.data.shards, split=cfg.data.split)
    if "rgb" in cfg.model.modalities:
        require_masks(shards, cfg.views.mask_alpha)
    plan = Plan.for_training(shards, cfg.data, batch_by_epoch(cfg), cfg.run.seed)
    saved = find_saved(cfg, "query", process)
    placement = choose(cfg, shards, plan, process, saved, lambda: step_on_trial(longest(cfg).cfg, process))
    learner = build_learner(cfg, process)
    labels_N = shards.rows.labels_N  # for the probes alone

    with Training("pre-training", cfg, learner, shards, plan, process, saved, placement) as training:
        console.print(
            f"pre-training on {plan.clips_in(0)} clips: {training.last_step} steps of {plan.timeline.batch}, "
            f"{plan.timeline.steps} an epoch, {process.world} rank(s), {process.device.type}, {learner.amp.name}"
        )
        for step, batch in training:
            cfg_now = at_epoch(cfg, plan.timeline.epochs(step))
            training.report(pretrain_step(learner, batch, step, cfg_now, process))
            epoch = training.epoch_ended()
            if epoch and cfg.run.knn_every and epoch % cfg.run.knn_every == 0:
                training.evaluate(lambda: knn_probe(learner.query, cfg, process))
                training.evaluate(lambda: mined_precision(learner.banks, labels_N, cfg.objective))


def main(argv: list[str] | None = None) -> None:
    cfg = config_from_command_line("cclslr.train", PretrainConfig, __doc__, argv)
    with process_group(cfg.run.device) as process:
        torch.backends.cudnn.benchmark = cfg.run.cudnn_benchmark
        started = time.perf_counter()
        train(cfg, process)
        console.print(f"done in {time.perf_counter() - started:.0f} s: {cfg.run.dir}/last.pt")


if __name__ == "__main__":
    run_command(main)
