"""What two ranks must agree on: scores, checkpoints, where they go on, and which clips are bad."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import ALONE, TINY_PRETRAIN, finetune_arguments, finish, records, start, tiny_shards, train_here

from cclslr import checkpoint, distributed
from cclslr.config import PretrainConfig, load_config
from cclslr.data.plan import Plan
from cclslr.files import read_json
from cclslr.models.ccl import Branches
from cclslr.shards.reader import ShardSet
from cclslr.training.probe import knn_probe

WORKER = """
import os, sys
from cclslr import train
rank = os.environ["RANK"]
train.main([*sys.argv[1:], f"run.dir={os.path.dirname(os.path.abspath(sys.argv[0]))}/disk{rank}"])
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return tiny_shards(tmp_path_factory.mktemp("shards") / "tiny", per_class=(8, 3, 5))


@pytest.mark.parametrize(("report", "name"), [("best_val", "best.pt"), ("last", "last.pt")])
def test_scores_of_two_ranks_are_those_of_their_checkpoint_on_one(shards, tmp_path, report, name):
    """One epoch: best.pt is read by both ranks as soon as it is written."""
    finish(
        start("cclslr.finetune", *finetune_arguments(shards, tmp_path, "optim.epochs=1", f"report={report}"), ranks=2)
    )
    finish(start("cclslr.evaluate", f"{tmp_path}/{name}", "--out", f"{tmp_path}/alone"))
    assert read_json(tmp_path / "test.json") == read_json(tmp_path / "alone/test.json")
    ours, theirs = (tmp_path / "test_predictions.csv", tmp_path / "alone/test_predictions.csv")
    assert ours.read_text() == theirs.read_text()


def test_knn_of_two_ranks_is_that_of_their_checkpoint_on_one(shards, tmp_path):
    arguments = [*TINY_PRETRAIN, f"data.shards=[{shards}]", "optim.epochs=2", "run.knn_every=2", f"run.dir={tmp_path}"]
    finish(start("cclslr.train", *arguments, ranks=2))
    cfg = load_config(PretrainConfig, None, arguments)
    query = Branches(cfg.model)
    query.load_state_dict(checkpoint.load(tmp_path / "last.pt")["query"])
    last = records(tmp_path)[-1]
    del last["knn_seconds"]
    assert knn_probe(query, cfg, ALONE) == {name: value for name, value in last.items() if name.startswith("knn_")}


@pytest.mark.parametrize("program", ["cclslr.train", "cclslr.finetune"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_feature_maps_that_are_made_again_change_no_bit_of_a_run(shards, tmp_path, program, ranks):
    states = []
    for recompute in ("false", "true"):
        folder = tmp_path / recompute
        arguments = (
            [*TINY_PRETRAIN, f"data.shards=[{shards}]", f"run.dir={folder}"]
            if program == "cclslr.train"
            else finetune_arguments(shards, folder)
        )
        finish(start(program, *arguments, "optim.epochs=1", f"run.recompute={recompute}", ranks=ranks))
        states.append(checkpoint.load(folder / "last.pt"))
    kept, again = (dict(_tensors(state)) for state in states)
    assert kept.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in kept.items())
    losses = [[record["loss"] for record in records(tmp_path / name)] for name in ("false", "true")]
    assert losses[0] == losses[1]


def _tensors(state: object, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors of a checkpoint, by where they are in it."""
    if isinstance(state, torch.Tensor):
        yield name, state
    elif isinstance(state, dict):
        for key, value in state.items():
            yield from _tensors(value, f"{name}.{key}")


def test_ranks_with_disks_of_their_own_go_on_together(shards, tmp_path):
    """Rank 1 finds no checkpoint on its disk, and takes what rank 0 found."""
    train_here(tmp_path / "whole", shards, "run.max_steps=6")
    train_here(tmp_path / "disk0", shards, "run.max_steps=3")
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    from test_distributed import torchrun

    torchrun(2, str(worker), *TINY_PRETRAIN, f"data.shards=[{shards}]", "run.max_steps=6")
    assert not (tmp_path / "disk1").exists()
    for ours, alone in zip(records(tmp_path / "disk0"), records(tmp_path / "whole"), strict=True):
        assert (ours["step"], ours["stream"]) == (alone["step"], alone["stream"])
        assert ours["loss"] == pytest.approx(alone["loss"], rel=2e-3, abs=2e-3)


def test_clips_that_are_bad_on_another_rank_are_counted_and_named(tmp_path):
    """The damaged clip is the first that rank 1 reads."""
    shards = tiny_shards(tmp_path / "shards")
    arguments = [*TINY_PRETRAIN, f"data.shards=[{shards}]", f"run.dir={tmp_path}/run", "run.max_steps=2"]
    cfg, packed = load_config(PretrainConfig, None, arguments), ShardSet([str(shards)], split="train")
    plan = Plan.for_training(packed, cfg.data, cfg.optim.batch, cfg.run.seed)
    bad = int(plan.rank_batch(0, 0, 1, 2).clip_ids_B[0])
    row = packed.rows[bad]
    part = next(part for name, part in row.components.items() if name in ("mjpg", "mp4"))
    with open(packed.path(bad), "r+b") as file:
        file.seek(part.offset + part.size // 2)
        file.write(np.random.default_rng(0).bytes(20))
    output = " ".join(finish(start("cclslr.train", *arguments, ranks=2)).split())
    assert records(tmp_path / "run")[-1]["quarantined"] == 1
    assert f"quarantined clip {bad} (rank 1)" in output
    assert row.key in output


@pytest.mark.parametrize(("error", "code"), [(ValueError("of ours"), 1), (distributed.UserError("theirs"), 2)])
def test_an_error_ends_the_process_without_waiting_for_its_peers(monkeypatch, capfd, error, code):
    class Ended(BaseException):
        pass

    def exit_at_once(code):
        raise Ended(code)

    left = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda *args, **kwargs: None)
    monkeypatch.setattr(distributed.dist, "new_group", lambda *args, **kwargs: None)
    monkeypatch.setattr(distributed.dist, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: left.append(True))
    monkeypatch.setattr(distributed.os, "_exit", exit_at_once)
    with pytest.raises(Ended) as ended, distributed.process_group("cpu"):
        raise error
    assert ended.value.args == (code,)
    assert not left
    shown = capfd.readouterr().err
    assert str(error) in shown
    assert ("Traceback" in shown) == (code == 1)
    with distributed.process_group("cpu") as process:
        assert (process.rank, process.world) == (1, 2)
    assert left
    with pytest.raises(SystemExit), distributed.process_group("cpu"):
        raise SystemExit(75)
    assert left == [True, True]


def test_evaluation_and_probe_pass_a_micro_batch_at_a_time(shards, monkeypatch):
    """The peak of memory is that of training, and scores do not depend on it."""
    arguments = [*TINY_PRETRAIN, f"data.shards=[{shards}]"]
    sizes, scores = [], []
    forward = Branches.forward
    monkeypatch.setattr(Branches, "forward", lambda self, x: (sizes.append(len(x["pose"])), forward(self, x))[1])
    torch.manual_seed(0)
    query = Branches(load_config(PretrainConfig, None, arguments).model)
    for micro in (4, 2):
        cfg = load_config(PretrainConfig, None, [*arguments, f"optim.micro_batch={micro}"])
        sizes.clear()
        scores.append(knn_probe(query, cfg, ALONE))
        assert max(sizes) == micro
    assert scores[0] == scores[1]
