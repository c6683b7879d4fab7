"""The one training loop: what pre-training and fine-tuning share is here; their programs are the step within it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from cclslr import checkpoint
from cclslr.config import FinetuneConfig, PretrainConfig, to_dict
from cclslr.console import console
from cclslr.data.batch import Batch
from cclslr.data.loader import Loader
from cclslr.data.plan import Plan
from cclslr.distributed import Process
from cclslr.errors import ExitCode, UserError
from cclslr.files import hold_folder
from cclslr.inspect.contact import batch_sheet
from cclslr.models.objective import Losses
from cclslr.schedule import by_epoch, pixels_of_a_clip, views_by_epoch
from cclslr.shards.info import equal_glosses, packing
from cclslr.shards.reader import ShardSet
from cclslr.training.advice import LoaderSetup, loader_advice
from cclslr.training.backend_choice import Placement
from cclslr.training.interrupt import Signals
from cclslr.training.journal import Journal
from cclslr.training.learner import Learner
from cclslr.training.optimise import learning_rate
from cclslr.training.rate import Rate, memory_gb
from cclslr.training.record import group_of
from cclslr.training.resume import Saved
from cclslr.training.writer import Writer


class Training:
    """A run: goes on where its checkpoint stands, brings batches to the step, keeps and tells what came of them.

        with Training(...) as training:
            for step, batch in training:
                training.report(one_step(learner, batch, step))
                if training.epoch_ended():
                    training.evaluate(some_scores)

    After each step, on all ranks alike: checkpoints by steps and by epochs, the journal, and the wish to stop that a
    signal left behind (`cclslr.training.interrupt`). Nothing here waits for the device but what a log line or a
    checkpoint needs; a checkpoint is written beside the steps that follow, and is there when the iteration has ended.

    Args:
        title: of the run, for people.
        cfg: of the run.
        learner: what is trained; it takes over the state of `saved`.
        shards, plan: the clips, and which of them when.
        process: this one among all.
        saved: the checkpoint that the run continues, if it does.
        placement: who makes the views, where `data.backend=auto` has been measured.

    Attributes:
        first_step, last_step: steps of this process, numbered over all epochs; the first one and one past the last.
    """

    def __init__(
        self,
        title: str,
        cfg: PretrainConfig | FinetuneConfig,
        learner: Learner,
        shards: ShardSet,
        plan: Plan,
        process: Process,
        saved: Saved | None,
        placement: Placement | None,
    ) -> None:
        self.title, self.cfg, self.learner, self.plan, self.process = title, cfg, learner, plan, process
        self.packing = packing(shards.info)
        self.run_dir = Path(cfg.run.dir)
        self.phases, self.timeline = by_epoch(cfg), plan.timeline
        self.last_step = min(self.timeline.first_step(cfg.optim.epochs), cfg.run.max_steps or 10**12)
        self.first_step = 0
        if (told := equal_glosses(shards.classes)) is not None:
            console.print(told, style="yellow", soft_wrap=True)
        if saved is not None:
            saved.hand_over(learner, cfg)
            self.first_step = saved.step
            console.print(f"continuing {saved.path} at step {saved.step}")
            if self.first_step >= self.last_step:
                console.print(f"nothing to train: the run ends at step {self.last_step} (optim.epochs, run.max_steps)")
        self.done = self.first_step  # steps that the weights have seen
        self._stored = self.first_step  # steps that last.pt has seen
        self.placement = placement
        data = cfg.data if placement is None else placement.applied(cfg.data)
        views = views_by_epoch(cfg)
        self.loader = Loader(data, views, shards, plan, process, cfg.model.modalities, cfg.run.seed)
        self.setup = LoaderSetup.of(data, [v.size for v in views.all], self.loader.codec, process.device.type)
        self._record: dict[str, Any] = {}

    def __enter__(self) -> Training:
        with ExitStack() as stack:
            if self.process.main:
                busy = f"{self.run_dir} is in use by another training; set run.dir to another folder"
                stack.enter_context(hold_folder(self.run_dir, busy))
                checkpoint.remove_unfinished(self.run_dir)
            self.signals = stack.enter_context(Signals(self.process))
            self.journal = stack.enter_context(
                Journal(
                    self.run_dir,
                    active=self.process.main,
                    first_step=self.first_step,
                    last_step=self.last_step,
                    title=self.title,
                )
            )
            self.writer = stack.enter_context(Writer(self.journal.saved))
            self._open = stack.pop_all()
        self.journal.describe(self.cfg)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._open.__exit__(*exception)

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        """Each step's number and this rank's clips for it."""
        with self.loader.start(self.first_step):
            self.rate = self._rate()
            told = None
            for step in range(self.first_step, self.last_step):
                epoch = self.timeline.epochs(step)
                phase = self.phases.at(epoch)
                if phase is not told:
                    told = phase
                    if len(self.phases.all) > 1:
                        self.journal.note(f"step {step}: phase {phase.number} of {len(self.phases.all)}, {phase}")
                    if sides := self.loader.smaller(phase.first_epoch):
                        self.journal.note(f"step {step}: RGB views are made from frames of {sides} pixels")
                for group in self.learner.optimizer.param_groups:
                    group["lr"] = learning_rate(phase.cfg.optim, epoch)
                self._batch = next(self.loader)
                if step == self.first_step and self.process.main:
                    self._show_batch(step)
                yield step, self._batch
                self._keep()
                if (signal := self.signals.agreed()) is not None:
                    self._stop(signal)
        if self.done > self._stored:
            self.save("last.pt")
        self.writer.finish()
        if self.done == self.last_step:
            self.learner.amp.check_end()

    def report(self, losses: Losses) -> None:
        """Take the loss terms of the step, means over this rank's clips; every `log_every` steps they are read."""
        self.done += 1
        if self.done == self.first_step + 1:  # it held compilation and the first fill of the pipeline: not a rate
            self.rate.restart(self.done)
        record: dict[str, Any] = {}
        if self.cfg.run.hash_stream:
            hashes = self.process.gather_objects(self.loader.batch_hashes(self._batch))
            record["stream"] = [crc for of_rank in hashes for crc in of_rank]
        if self.done % self.cfg.run.log_every == 0 or self.done == self.last_step:
            self.learner.amp.check_progress()
            mean = self.process.gather(torch.stack(list(losses.values()))[None]).mean(0).tolist()
            record |= {"loss": sum(mean)} | dict(zip(losses, mean)) | self.rate.since_last(self.done)
            record["epoch"] = self.timeline.epochs(self.done)
            record["lr"] = self.learner.optimizer.param_groups[0]["lr"]
            record["skipped_steps"] = self.learner.amp.skipped.item()
            record["quarantined"] = self.loader.quarantine.found_by_all(self.process, self.journal.note)
            record["memory_gb"] = round(memory_gb(self.process.device), 3)
        self._record |= record

    def epoch_ended(self) -> int:
        """The number of the epoch, from 1, that the step just reported was the last of; else 0."""
        epoch, number = self.timeline.place(self.done)
        return 0 if number else epoch

    def evaluate(self, score: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Scores between two steps, with what every rank knows of the data; the time they take is no training time."""
        began = time.perf_counter()
        self.learner.statistics.average(self.process)
        scores = score()
        seconds = round(time.perf_counter() - began, 3)
        self._record |= {"epoch": self.timeline.epochs(self.done)} | scores
        self._record |= {f"{group_of(name)}_seconds": seconds for name in scores}
        self.rate.restart(self.done)
        return scores

    def save(self, *names: str) -> None:
        """Begin to write a checkpoint into the run's folder, under each name; every rank calls it.

        Nothing is written while all steps are skipped: what was written before may be the last good one.

        Raises:
            UserError: the weights are not finite, or the checkpoint before could not be written.
        """
        self._tell()  # a run that is killed in between has the step's record, or makes the step again
        self.learner.statistics.average(self.process)
        if self.learner.amp.is_diverging():
            what = " and ".join(names)
            self.journal.note(f"step {self.done}: no {what} written: the gradients of the last steps are not finite")
            return
        if "last.pt" in names:
            self._stored = self.done
        if not self.process.main:
            return
        placement = None if self.placement is None else asdict(self.placement)
        state = self.learner.state() | {"step": self.done, "config": to_dict(self.cfg), "placement": placement}
        state["packing"] = self.packing
        if wrong := checkpoint.not_finite(state):
            raise UserError(
                f"step {self.done}: {wrong} is not finite or beyond all use: the run has diverged, and {names[0]} was "
                f"not written. Continue from an older checkpoint in {self.run_dir} (run.resume=PATH) with a lower "
                "optim.lr"
            )
        self.writer.begin(self.done, [self.run_dir / name for name in names], state)

    def _keep(self) -> None:
        """Journal and checkpoints, after a step."""
        self._tell()
        self.writer.look()
        run, epoch = self.cfg.run, self.epoch_ended()
        kept = [f"epoch_{epoch:04d}.pt"] if epoch and epoch % run.checkpoint_every == 0 else []
        if epoch or (run.checkpoint_steps and self.done % run.checkpoint_steps == 0):
            self.save("last.pt", *kept)

    def _tell(self) -> None:
        """Hand what is known of the step to the journal."""
        if self._record:
            self.journal.write(self.done, self._record)
        if "loss" in self._record and self.rate.is_warm:
            self.journal.advise(loader_advice(self.rate.overall(), self.setup))
        self._record = {}

    def _rate(self) -> Rate:
        """Of this run, from its first step; a clip counts as much work as its views have pixels."""
        each = self.phases.map(lambda phase: 1.0)
        pixels = self.phases.map(lambda phase: pixels_of_a_clip(phase.cfg))
        total = self.timeline.total
        return Rate(self.loader, lambda step: total(step, each), self.last_step, lambda step: total(step, pixels))

    def _show_batch(self, step: int) -> None:
        """Draw the first batch; its views are drawn anew from the plan, so nothing random is used up."""
        epoch, number = self.timeline.place(step)
        slots = self.plan.rank_batch(epoch, number, self.process.rank, self.process.world)
        shards, views, seed = self.loader.shards, self.loader.views.at(epoch), self.cfg.run.seed
        self.journal.first_batch(batch_sheet(self._batch, slots, epoch, shards, views, seed))

    def _stop(self, signal: str) -> None:
        began = time.perf_counter()
        if self.done > self._stored:
            self.save("last.pt")
        self.writer.finish()
        console.print(
            f"{signal}: stopped after step {self.done} of {self.last_step}; {self.run_dir / 'last.pt'} holds step "
            f"{self._stored}, written in {time.perf_counter() - began:.1f} s. The same command continues there",
            soft_wrap=True,
        )
        raise SystemExit(ExitCode.STOPPED)
