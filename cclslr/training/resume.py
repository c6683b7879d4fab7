"""Going on with a checkpoint: which one, whether it fits, and what is not as it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cclslr import checkpoint
from cclslr.config import FinetuneConfig, PretrainConfig, to_dict
from cclslr.console import console
from cclslr.distributed import Process
from cclslr.errors import UserError
from cclslr.keys import list_keys, show
from cclslr.schedule import ByEpoch, batch_by_epoch
from cclslr.training.learner import Learner

FIXED = ("run.seed", "data.order")  # with another one, "step 1000" would mean other clips


@dataclass
class Saved:
    """A checkpoint that a run continues."""

    path: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        return self.state["step"]

    def hand_over(self, learner: Learner, cfg: PretrainConfig | FinetuneConfig) -> None:
        """Give its state to the learner; what the optimiser's config says stays as `cfg` has it.

        Raises:
            UserError: it does not fit.
        """
        own = [{k: v for k, v in group.items() if k != "params"} for group in learner.optimizer.param_groups]
        try:
            learner.load(self.state)
        except UserError:
            raise
        except (RuntimeError, ValueError, KeyError) as error:  # torch: another shape, a missing or an unknown name
            made_with = changes(self.state["config"], cfg)
            other = ", ".join(f"{key}={old}" for key, (old, _) in made_with.items()) or "another version"
            raise UserError(
                f"checkpoint {self.path} does not fit this config (made with {other}); set another run.dir, or "
                "run.resume=none to begin anew"
            ) from error
        for group, values in zip(learner.optimizer.param_groups, own, strict=True):
            group.update(values)


def find_saved(cfg: PretrainConfig | FinetuneConfig, kind: str, process: Process) -> Saved | None:
    """The checkpoint that the run continues, the same on every rank; says what is not as it was.

    Raises:
        UserError: it is of another kind, or made with another seed or batch.
    """
    path = process.from_main(lambda: checkpoint.to_resume(cfg.run.dir, cfg.run.resume))
    if path is None:
        return None
    state = checkpoint.load_on_all_ranks(path, process)
    checkpoint.check_kind(state, kind, path)
    stored = {"schedule": []} | state["config"]  # not there before there were phases
    different = changes(stored, cfg)
    for key in FIXED:
        if key in different:
            raise UserError(
                f"{path} was made with {key}={different[key][0]}, this run has {different[key][1]}: its steps would be "
                "others; set it back, or set another run.dir"
            )
    then, now = _clips_a_step(stored["optim"]["batch"], stored["schedule"]), batch_by_epoch(cfg).changes
    if then != now:
        raise UserError(
            f"{path} was made with optim.batch={_told(then)}, this run has {_told(now)}: its steps would be others; "
            "set it (or schedule) back, or set another run.dir"
        )
    if different:
        listed = ", ".join(f"{key}={show(new)} (was {show(old)})" for key, (old, new) in different.items())
        console.print(f"{path} goes on with another config: {listed}", style="yellow")
    return Saved(path, state)


def _clips_a_step(batch: int, schedule: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """From which epoch on a stored config has how many clips a step."""
    values = [(phase["from_epoch"], phase["batch"] or batch) for phase in schedule] or [(0, batch)]
    return ByEpoch(tuple(values)).changes


def _told(batches: list[tuple[int, int]]) -> str:
    return ", then ".join(f"{batch} from epoch {epoch} on" if epoch else str(batch) for epoch, batch in batches)


def changes(saved: dict[str, Any], cfg: Any) -> dict[str, tuple[Any, Any]]:
    """Keys of a stored config that `cfg` has otherwise and that change what a run computes: (then, now) by key."""
    now, then = dict(_flat(to_dict(cfg))), dict(_flat(saved))
    steps = [key.name for key in list_keys(type(cfg)) if key.effect == "steps"]
    return {name: (then[name], now[name]) for name in steps if name in then and then[name] != now[name]}


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, list(value) if isinstance(value, tuple) else value
