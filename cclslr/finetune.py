"""Fine-tune the pre-trained branches with labels, or train them from scratch (CCL-SLR §3.4, §4.2).

    torchrun --nproc-per-node 8 -m cclslr.finetune --config configs/finetune_wlasl300.yaml
    python -m cclslr.finetune … linear_probe=true      # the encoders stay as they are
    python -m cclslr.finetune … pretrained=null        # from scratch

Each branch has its own linear layer and its own cross-entropy; the fused prediction is the sum of both logits.
Evaluates at the end and writes <split>.json and <split>_predictions.csv into run.dir.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import convert_conv3d_weight_memory_format

from cclslr.cli import config_from_command_line
from cclslr.config import FinetuneConfig, to_dict
from cclslr.console import console, run_command
from cclslr.data.batch import Batch
from cclslr.data.draw import Purpose, hash_words
from cclslr.data.loader import Loader
from cclslr.data.plan import Plan
from cclslr.errors import UserError
from cclslr.evaluate import evaluate, score_table, write_report
from cclslr.masking.options import require_masks
from cclslr.models.classifier import Classifier
from cclslr.models.objective import Losses
from cclslr.shards.reader import ShardSet
from cclslr.training import checkpoint
from cclslr.training.distributed import Process, process_group
from cclslr.training.journal import Journal
from cclslr.training.optimise import Amp, check_batch, compile_model, distribute, learning_rate, sgd
from cclslr.training.rate import Rate


def finetune_step(
    classifier_ddp: nn.Module,
    optimizer: torch.optim.Optimizer,
    amp: Amp,
    batch: Batch,
    step: int,
    cfg: FinetuneConfig,
    process: Process,
) -> Losses:
    """One optimiser step on this rank's clips; returns the cross-entropy of each branch, mean over the rank's clips."""
    micro, size = cfg.optim.micro_batch, len(batch.clip_ids_B)
    views = {m: x for m, x in {"rgb": batch.rgb_VBTHWC, "pose": batch.pose_VBTJC}.items() if x is not None}
    slices = [slice(start, start + micro) for start in range(0, size, micro)]
    terms: list[Losses] = []
    for group, part in enumerate(slices, process.rank * len(slices)):
        torch.manual_seed(int(hash_words(cfg.run.seed, Purpose.QUERY_DROPOUT, step, group)))
        no_sync = getattr(classifier_ddp, "no_sync", nullcontext) if part is not slices[-1] else nullcontext
        with no_sync():
            with amp.autocast():
                logits = classifier_ddp({m: x_VB[0, part] for m, x_VB in views.items()})
            losses = {f"ce_{m}": F.cross_entropy(x, batch.labels_B[part]) for m, x in logits.items()}
            amp.backward(torch.stack(list(losses.values())).sum() / len(slices))
        terms.append({name: loss.detach() for name, loss in losses.items()})
    amp.step(optimizer)
    return {name: torch.stack([losses[name] for losses in terms]).mean() for name in terms[0]}


def finetune(cfg: FinetuneConfig, process: Process) -> None:
    """The whole run: from a pre-trained checkpoint to scores."""
    check_batch(cfg.optim, process.world)
    run_dir = Path(cfg.run.dir)
    shards = ShardSet(cfg.data.shards, split=cfg.data.split)
    if unlabelled := [row.key for row in shards.rows if row.label < 0]:
        raise UserError(f"{len(unlabelled)} clips have no label, e.g. {unlabelled[0]}; fine-tuning needs labels")
    if "rgb" in cfg.model.modalities:
        require_masks(shards, cfg.views.mask_alpha)
    plan = Plan.for_training(shards, cfg.data, cfg.optim.batch, cfg.run.seed)

    torch.manual_seed(cfg.run.seed)
    classifier = Classifier(cfg.model, len(shards.classes), cfg.linear_probe)
    if cfg.pretrained is not None:
        classifier.load_pretrained(checkpoint.load(cfg.pretrained)["query"])
    classifier.to(process.device)
    if cfg.run.channels_last and "rgb" in cfg.model.modalities:
        convert_conv3d_weight_memory_format(classifier.encoder["rgb"], torch.channels_last_3d)
    compile_model(classifier, cfg.run)
    classifier_ddp = distribute(classifier, process, cfg.run)
    optimizer = sgd((p for p in classifier.parameters() if p.requires_grad), cfg.optim, cfg.run.fused_optimizer)
    amp = Amp(cfg.run.amp, process.device)

    first_step, best, source = 0, -1.0, checkpoint.to_resume(run_dir, cfg.run.resume)
    if source is not None:
        state = checkpoint.load(source)
        classifier.load_state_dict(state["classifier"])
        optimizer.load_state_dict(state["optimizer"])
        amp.scaler.load_state_dict(state["scaler"])
        first_step, best = state["step"], state["best"]
        console.print(f"continuing {source} at step {first_step}")
    per_epoch = plan.batches_per_epoch
    last_step = min(cfg.optim.epochs * per_epoch, cfg.run.max_steps or 10**12)
    console.print(
        f"fine-tuning on {plan.clips_per_epoch} clips of {len(shards.classes)} classes: {last_step} steps, "
        f"{'pre-trained' if cfg.pretrained else 'from scratch'}{', linear probe' if cfg.linear_probe else ''}"
    )

    def save(name: str, step: int) -> None:
        if process.main:
            state = {"classifier": classifier.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            state |= {
                "scaler": amp.scaler.state_dict(),
                "best": best,
                "classes": shards.classes,
                "config": to_dict(cfg),
                "packing": {name: shards.info[name] for name in ("codec", "size", "crop", "quality")},
            }
            checkpoint.save(run_dir / name, state)

    loader = Loader(cfg.data, cfg.views, shards, plan, process, cfg.model.modalities, cfg.run.seed)
    journal = Journal(run_dir, active=process.main, first_step=first_step, last_step=last_step, title="fine-tuning")
    rate = Rate(loader, cfg.optim.batch)
    classifier_ddp.train()
    with loader.start(first_step), journal:
        for step in range(first_step, last_step):
            epoch = step / per_epoch
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(cfg.optim, epoch)
            losses = finetune_step(classifier_ddp, optimizer, amp, next(loader), step, cfg, process)
            done = step + 1
            if step == first_step:
                rate.restart(done)
            record: dict[str, Any] = {}
            if done % cfg.run.log_every == 0 or done == last_step:
                amp.check_progress()
                mean = process.gather(torch.stack(list(losses.values()))[None]).mean(0).tolist()
                record |= dict(zip(losses, mean)) | rate.since_last(done) | {"epoch": done / per_epoch}
                text = "  ".join(f"{name} {value:.2f}" for name, value in zip(losses, mean))
                journal.show(done, f"{text}  {record['clips_per_second']:.1f} clips/s  wait {record['waiting']:.0%}")
            if done % per_epoch == 0:
                if cfg.report == "best_val":
                    scores, *_ = evaluate(classifier, cfg, "val", process)
                    classifier_ddp.train()
                    top1 = scores.get("fused", next(iter(scores.values())))["per_instance_top1"]
                    record["val_top1"] = top1
                    if top1 > best:
                        best = top1
                        save("best.pt", done)
                    rate.restart(done)
                if (done // per_epoch) % cfg.run.checkpoint_every == 0:
                    save("last.pt", done)
            if record:
                journal.write(done, record)
    save("last.pt", last_step)

    if cfg.report == "best_val":
        classifier.load_state_dict(checkpoint.load(run_dir / "best.pt")["classifier"])
    scores, all_logits, clip_ids, test = evaluate(classifier, cfg, cfg.eval_split, process)
    if process.main:
        write_report(run_dir, cfg.eval_split, scores, all_logits, clip_ids, test, shards.classes)
        console.print(score_table(scores, f"{run_dir}: {cfg.eval_split}, {len(clip_ids)} clips, {cfg.report} epoch"))


def main(argv: list[str] | None = None) -> None:
    cfg = config_from_command_line("cclslr.finetune", FinetuneConfig, __doc__, argv)
    with process_group(cfg.run.device) as process:
        torch.backends.cudnn.benchmark = cfg.run.cudnn_benchmark
        finetune(cfg, process)


if __name__ == "__main__":
    run_command(main)
