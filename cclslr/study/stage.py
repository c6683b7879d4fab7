"""A stage of a study: what it does, from what, and the address that follows from both.

A stage's folder is found by its address: a hash of its kind, of its full config (defaults, file and overrides, the seed
included) and of its inputs' addresses. Whatever has the same address is the same stage and runs once, in whatever
cell or study it occurs. What does not change the outcome (where to write, how often to report, reading threads) is
left out. Not in it either: the version of the code, and the content of files outside (videos, weights), which count
by their path. After a change of either, take another --store.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cclslr import registry
from cclslr.errors import ExitCode

RESULT = "stage.json"  # written last: a stage counts when it is there
Scores = dict[str, dict[str, float]]  # branch → metric → value
Settings = dict[str, Any]  # key → value, as the study file says it; keys of configs with their dots


@dataclass(frozen=True)
class Kind:
    """One kind of stage: an entry of the table."""

    name: str
    inputs: tuple[str, ...]  # words of the study file that name other stages, or lists of them
    resolve: Callable[[Settings, int], dict[str, Any]]  # settings and seed → the full config, which JSON can hold
    identity: Callable[[dict[str, Any]], dict[str, Any]]  # the part of it that decides what comes out
    commands: Callable[[Work], list[list[str]]]  # words of `cclslr`, to run one after the other
    output: Callable[[Path, dict[str, Any]], str]  # folder and config → what other stages take of it
    scores: Callable[[Path, dict[str, Any]], Scores]  # what it measured
    fine: tuple[int, ...] = (ExitCode.DONE,)  # exit codes of a stage that did its work


@functools.cache
def kinds() -> dict[str, Kind]:
    """Every kind of stage, by name."""
    return registry.find("cclslr.study.kinds", Kind)


@dataclass(frozen=True)
class Stage:
    """One piece of work with everything that decides what comes out."""

    name: str  # in the study file; for people, not part of the address
    kind: str
    config: dict[str, Any]
    inputs: dict[str, tuple[str, ...]]  # addresses of other stages, by the word that names them

    @cached_property
    def address(self) -> str:
        identity = kinds()[self.kind].identity(self.config)
        text = json.dumps([self.kind, identity, self.inputs], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def folder(self, store: Path) -> Path:
        return store / f"{self.kind}-{self.address}"

    def is_done(self, store: Path) -> bool:
        return (self.folder(store) / RESULT).exists()

    def output(self, store: Path) -> str:
        """What other stages take of it: a folder of shards, a checkpoint."""
        return kinds()[self.kind].output(self.folder(store), self.config)


@dataclass(frozen=True)
class Work:
    """A stage that is about to run: a task of the executor."""

    name: str  # for people
    stage: Stage
    folder: Path
    inputs: dict[str, list[str]]  # outputs of the stages that it takes, by the word that names them
    needs: dict[str, Path]  # folders of those stages, by their names
    threads: int  # of the processor, for this stage

    def one(self, word: str) -> str | None:
        """The output of the one stage that `word` names, if there is one."""
        return next(iter(self.inputs.get(word, [])), None)
