"""Fine-tune the pre-trained branches with labels, or train them from scratch (CCL-SLR §3.4, §4.2).

    torchrun --nproc-per-node 8 -m cclslr.finetune --config configs/finetune_wlasl300.yaml
    python -m cclslr.finetune … linear_probe=true      # the encoders stay as they are
    python -m cclslr.finetune … pretrained=null        # from scratch

model.* is what the checkpoint was pre-trained with, where the config does not say otherwise.
Each branch has its own linear layer and its own cross-entropy; the fused prediction is the sum of both logits.
With fuse=calibrated it is also given as a sum with a temperature a branch, beside the paper's.
Evaluates at the end and writes <split>.json and <split>_predictions.csv into run.dir.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cclslr import checkpoint
from cclslr.cli import config_from_command_line
from cclslr.config import FinetuneConfig, RunConfig
from cclslr.console import console, duration, run_command
from cclslr.data.batch import Batch
from cclslr.data.draw import Purpose, hash_words
from cclslr.data.plan import Plan, hold_out
from cclslr.distributed import Process, process_group
from cclslr.errors import UserError
from cclslr.masking.required import require_masks
from cclslr.models.classifier import Classifier
from cclslr.models.fusion import fit_temperatures
from cclslr.models.objective import Losses
from cclslr.shards.reader import ShardSet
from cclslr.training.backend_choice import StepOnTrial, choose
from cclslr.training.evaluation import evaluate, score_table, write_report
from cclslr.training.loop import Training
from cclslr.training.optimise import Amp, arrange_memory, check_batch, compile_model, distribute, keeps_gradients, sgd
from cclslr.training.resume import find_saved
from cclslr.training.start import NOT_PRETRAINED, check_classes, model_of, tell_of_changes
from cclslr.training.statistics import Statistics

NAME = "cclslr.finetune"
HELD_OUT = 0.2  # share of each class's training clips that fits the temperatures


@dataclass
class Learner:
    """Everything that a step changes, and what else its checkpoints hold."""

    classifier: Classifier
    classifier_ddp: nn.Module  # the same weights, wrapped for several ranks
    statistics: Statistics
    optimizer: torch.optim.Optimizer
    amp: Amp
    classes: list[str]
    best: float = -1.0  # top-1 of the best epoch so far, with report=best_val

    def state(self) -> dict[str, Any]:
        return {
            "classifier": self.classifier.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.amp.scaler.state_dict(),
            "best": self.best,
            "classes": self.classes,
            "temperatures": self.classifier.temperatures,
        }

    def load(self, state: dict[str, Any]) -> None:
        if state["classes"] != self.classes:
            raise UserError("the checkpoint was trained on other classes than data.shards has; set another run.dir")
        self.classifier.load_state_dict(state["classifier"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.amp.scaler.load_state_dict(state["scaler"])
        self.best = state["best"]


def build_learner(cfg: FinetuneConfig, shards: ShardSet, source: dict[str, Any] | None, process: Process) -> Learner:
    """The classifier, the same on every rank; its encoders are those of the checkpoint `source`, or fresh."""
    torch.manual_seed(cfg.run.seed)
    classifier = Classifier(cfg.model, len(shards.classes), cfg.linear_probe)
    if source is not None:
        classifier.load_pretrained(source["query"])
    classifier.to(process.device)
    if "rgb" in cfg.model.modalities:
        arrange_memory(classifier.encoder["rgb"], cfg.run)
    statistics = Statistics(classifier)
    compile_model(classifier, cfg.run)
    classifier_ddp = distribute(classifier, process, cfg.run)
    optimizer = sgd((p for p in classifier.parameters() if p.requires_grad), cfg.optim, cfg.run.fused_optimizer)
    amp = Amp(cfg.run.amp, process.device, keeps_gradients(cfg.run, process.world))
    classifier_ddp.train()
    return Learner(classifier, classifier_ddp, statistics, optimizer, amp, shards.classes)


def finetune_step(learner: Learner, batch: Batch, step: int, cfg: FinetuneConfig, process: Process) -> Losses:
    """One optimiser step on this rank's clips; returns the cross-entropy of each branch, mean over the rank's clips."""
    micro, size = cfg.optim.micro_batch, len(batch.clip_ids_B)
    views = {m: x for m, x in {"rgb": batch.rgb_VBTHWC, "pose": batch.pose_VBTJC}.items() if x is not None}
    slices = [slice(start, start + micro) for start in range(0, size, micro)]
    learner.statistics.keep()
    terms: list[Losses] = []
    for group, part in enumerate(slices, process.rank * len(slices)):
        torch.manual_seed(int(hash_words(cfg.run.seed, Purpose.QUERY_DROPOUT, step, group)))
        no_sync = getattr(learner.classifier_ddp, "no_sync", nullcontext) if part is not slices[-1] else nullcontext
        with no_sync():
            with learner.amp.autocast():
                logits = learner.classifier_ddp({m: x_VB[0, part] for m, x_VB in views.items()})
            losses = {f"ce_{m}": F.cross_entropy(x, batch.labels_B[part]) for m, x in logits.items()}
            learner.amp.backward(torch.stack(list(losses.values())).sum() / len(slices))
        terms.append({name: loss.detach() for name, loss in losses.items()})
    skipped = learner.amp.step(learner.optimizer)
    learner.statistics.take_back_if(skipped)
    return {name: torch.stack([losses[name] for losses in terms]).mean() for name in terms[0]}


def check(cfg: FinetuneConfig, shards: ShardSet, steps_an_epoch: int) -> None:
    """Refuse before the first step what would fail after the last.

    Raises:
        UserError: a key of pre-training, clips without labels, a split that cannot be scored.
    """
    for name in ("knn_every", "knn_neighbours", "fused_momentum_update"):
        if getattr(cfg.run, name) != getattr(RunConfig(), name):
            raise UserError(f"run.{name} belongs to pre-training; fine-tuning scores epochs with report=best_val")
    unlabelled = np.flatnonzero(shards.rows.labels_N < 0)
    if len(unlabelled):
        key = shards.rows[unlabelled[0]].key
        raise UserError(f"{len(unlabelled)} clips have no label, e.g. {key}; fine-tuning needs labels")
    if "rgb" in cfg.model.modalities:
        require_masks(shards, cfg.views.mask_alpha)
    check_classes(cfg, shards)
    splits = {cfg.eval_split: "eval_split"} | ({"val": "report=best_val"} if cfg.report == "best_val" else {})
    labelled = ShardSet(cfg.data.shards).rows.labelled_splits
    for split, key in splits.items():
        if split not in labelled:
            raise UserError(
                f"{', '.join(cfg.data.shards)}: no labelled clip in split {split!r}, which {key} asks for; pack some "
                "(cclslr pack … --test-share 0.2 --val-share 0.1), or ask for another split"
            )
    if cfg.report == "best_val" and cfg.run.max_steps is not None and cfg.run.max_steps < steps_an_epoch:
        raise UserError(f"report=best_val needs an epoch ({steps_an_epoch} steps), run.max_steps={cfg.run.max_steps}")


def step_on_trial(cfg: FinetuneConfig, shards: ShardSet, process: Process) -> StepOnTrial:
    """The step of this rank alone, with a classifier of its own."""
    alone = Process(0, 1, process.device)
    optim = replace(cfg.optim, batch=cfg.optim.batch // process.world)
    cfg = replace(cfg, optim=optim, run=replace(cfg.run, compile="none"))
    learner = build_learner(cfg, shards, None, alone)
    return lambda batch, number: finetune_step(learner, batch, number, cfg, alone)


def finetune(cfg: FinetuneConfig, process: Process) -> None:
    """The whole run: from a pre-trained checkpoint to scores."""
    check_batch(cfg.optim, process.world)
    run_dir = Path(cfg.run.dir)
    shards = ShardSet(cfg.data.shards, split=cfg.data.split)
    plan = Plan.for_training(shards, cfg.data, cfg.optim.batch, cfg.run.seed)
    check(cfg, shards, plan.batches_per_epoch)
    temperatures = None
    if cfg.fuse == "calibrated" and len(cfg.model.modalities) > 1:
        temperatures = calibrate(cfg, shards, plan, process)
    learner = train(cfg, shards, plan, process, temperatures)
    if cfg.report == "best_val":
        learner.classifier.load_state_dict(checkpoint.load_on_all_ranks(run_dir / "best.pt", process)["classifier"])
    began = time.perf_counter()
    scored = evaluate(learner.classifier, learner.classes, cfg, cfg.eval_split, process)
    seconds = duration(time.perf_counter() - began)
    console.print(f"evaluated {len(scored.clip_ids)} clips of {cfg.eval_split} in {seconds}")
    if process.main:
        write_report(run_dir, scored)
        title = f"{run_dir}: {cfg.eval_split}, {len(scored.clip_ids)} clips, {cfg.report} epoch"
        console.print(score_table(scored.scores, title))


def train(
    cfg: FinetuneConfig, shards: ShardSet, plan: Plan, process: Process, temperatures: dict[str, float] | None
) -> Learner:
    """Train a classifier on the clips of `plan`; goes on from the run's own checkpoint if there is one."""
    saved = find_saved(cfg, "classifier", process)
    source = None
    if cfg.pretrained is not None and saved is None:  # else its own checkpoint holds everything
        source = checkpoint.load_on_all_ranks(cfg.pretrained, process)
        checkpoint.check_kind(source, "query", cfg.pretrained, NOT_PRETRAINED)
    placement = choose(cfg, shards, plan, process, saved, lambda: step_on_trial(cfg, shards, process))
    learner = build_learner(cfg, shards, source, process)
    learner.classifier.temperatures = temperatures

    with Training("fine-tuning", cfg, learner, shards, plan, process, saved, placement) as training:
        console.print(
            f"fine-tuning on {plan.clips_in(0)} clips of {len(shards.classes)} classes: {training.last_step} steps,"
            f" {'pre-trained' if cfg.pretrained else 'from scratch'}{', linear probe' if cfg.linear_probe else ''}"
        )
        for step, batch in training:
            training.report(finetune_step(learner, batch, step, cfg, process))
            if training.epoch_ended() and cfg.report == "best_val":
                top1 = training.evaluate(lambda: validate(learner, cfg, process))["val_top1"]
                if top1 > learner.best:
                    learner.best = top1
                    training.save("best.pt")
    return learner


def calibrate(cfg: FinetuneConfig, shards: ShardSet, plan: Plan, process: Process) -> dict[str, float]:
    """Temperatures of the branches: a run like this one leaves out some training clips, which then judge it.

    The run proper still trains on all clips. It lies in run.dir/held_out.
    """
    kept, held = hold_out(plan.clip_ids, shards.rows.labels_N, cfg.run.seed, HELD_OUT)
    if not len(held):
        raise UserError("fuse=calibrated holds out a fifth of each class's clips: it needs classes of three or more")
    part = replace(cfg, run=replace(cfg.run, dir=str(Path(cfg.run.dir) / "held_out")), report="last")
    of_part = Plan(kept, cfg.optim.batch, cfg.run.seed, shards.dataset_ids[kept], cfg.data.weights, cfg.data.order)
    learner = train(part, shards, of_part, process, None)
    scored = evaluate(learner.classifier, learner.classes, part, cfg.data.split, process)
    rows_N = torch.isin(scored.clip_ids, torch.from_numpy(held))
    logits = {m: scored.logits[m][rows_N] for m in cfg.model.modalities}
    temperatures = fit_temperatures(logits, scored.labels[rows_N])
    told = ", ".join(f"{m} {value:.2g}" for m, value in temperatures.items())
    console.print(f"temperatures from {int(rows_N.sum())} clips that a first run left out: {told}")
    return temperatures


def validate(learner: Learner, cfg: FinetuneConfig, process: Process) -> dict[str, float]:
    """Top-1 of the validation clips between two epochs, of both branches together where there are two."""
    scores = evaluate(learner.classifier, learner.classes, cfg, "val", process).scores
    learner.classifier_ddp.train()
    return {"val_top1": scores.get("fused", next(iter(scores.values())))["per_instance_top1"]}


def main(argv: list[str] | None = None) -> None:
    cfg = config_from_command_line(NAME, FinetuneConfig, __doc__, argv)
    with process_group(cfg.run.device) as process:
        if cfg.pretrained is not None:
            stored = model_of(cfg, process)
            cfg = config_from_command_line(NAME, FinetuneConfig, __doc__, argv, {"model": stored})
            tell_of_changes(stored, cfg.model)
        torch.backends.cudnn.benchmark = cfg.run.cudnn_benchmark
        finetune(cfg, process)


if __name__ == "__main__":
    run_command(main)
