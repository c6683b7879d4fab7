"""What can happen to evaluation, prediction and the k-NN probe, and what must come of it."""

from __future__ import annotations

import csv
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from packing import contents
from path_matrix import BACKENDS, USUAL, Cell
from path_runs import (
    STEPS,
    Accident,
    Workshop,
    arguments,
    ended,
    kill_all,
    launch,
    refused,
    small_disk,
    start,
    used,
    victims,
    wait_for_hold,
)
from path_training_scenarios import check_equal
from small_runs import ALONE, finish, records

import cclslr
from cclslr import checkpoint
from cclslr.codecs import codec_named
from cclslr.config import PretrainConfig, load_config
from cclslr.datasets.synthetic import SynthOptions, manifest
from cclslr.files import read_json
from cclslr.train import build_learner
from cclslr.training.probe import knn_probe

REPORT = ("test.json", "test_predictions.csv", "test_confusion.png")
SCORING = "cclslr.training.evaluation.over_clips"


def finetuned(workshop: Workshop, codec: str = USUAL) -> Path:
    return workshop.run(Cell("finetune", "numba", codec, 1, "none")) / "last.pt"


def evaluate(cell: Cell, workshop: Workshop, shards: Path, out: Path, ranks: int = 1, accident: Accident | None = None):
    """Start `cclslr evaluate` on the test clips of `shards`, by the cell's backend."""
    where = [str(finetuned(workshop)), "--shards", str(shards), "--out", str(out)]
    return launch("evaluate", [*where, *BACKENDS[cell.backend], "data.max_bad_share=0.5"], ranks, accident)


def scores(cell: Cell, workshop: Workshop) -> Path:
    """The folder of an undisturbed evaluation on one rank."""
    name = f"scores-{cell.backend}-{cell.codec}".replace(", ", "+")
    return workshop.make(name, lambda folder: finish(evaluate(cell, workshop, workshop.shards(cell.codec), folder)))


def rows(folder: Path) -> dict[str, dict[str, str]]:
    """The predictions, by key."""
    with (folder / "test_predictions.csv").open() as file:
        found = list(csv.DictReader(file))
    assert len({row["key"] for row in found}) == len(found)
    return {row["key"]: row for row in found}


def scored(cell: Cell, workshop: Workshop, tmp_path: Path) -> None:
    alone = scores(cell, workshop)
    assert len(rows(alone)) == 8
    for branch, told in read_json(alone / "test.json")["scores"].items():
        right = [row[f"{branch}_top1"] == row["label"] for row in rows(alone).values()]
        assert told["per_instance_top1"] == pytest.approx(100 * np.mean(right), abs=1e-3)
    if (cell.backend, cell.codec) == ("numba", USUAL):
        assert contents(alone) == {name: (finetuned(workshop).parent / name).read_bytes() for name in REPORT}
    if cell.ranks > 1:
        finish(evaluate(cell, workshop, workshop.shards(cell.codec), tmp_path / "out", cell.ranks))
        assert contents(tmp_path / "out") == contents(alone)


def left_out(cell: Cell, workshop: Workshop, tmp_path: Path) -> None:
    shards = workshop.damaged(cell.codec, "test")
    output = finish(evaluate(cell, workshop, shards, tmp_path / "out", cell.ranks))
    keys = victims(shards, "test")
    whole = rows(scores(cell, workshop))
    assert rows(tmp_path / "out") == {key: row for key, row in whole.items() if key not in keys}
    check_named(output, keys)


def check_named(output: str, keys: tuple[str, ...]) -> None:
    for key in keys:
        said = [line for line in output.splitlines() if "quarantined clip" in line and key in line]
        assert len(said) == 1, output


def interrupted(cell: Cell, workshop: Workshop, tmp_path: Path) -> None:
    out = Path(shutil.copytree(scores(cell, workshop), tmp_path / "out"))
    before = contents(out)
    do, ranks = ("die", (1,)) if cell.accident == "a rank dies" else ("hold", (0, 1))
    happens = Accident(do, SCORING, tmp_path, 0, ranks)
    process = evaluate(cell, workshop, workshop.shards(cell.codec), out, cell.ranks, happens)
    stop(process, cell, tmp_path)
    assert contents(out) == before


def stop(process, cell: Cell, folder: Path) -> None:
    """Let the cell's accident happen to a program that keeps no state: it ends, as it is told."""
    if cell.accident == "a rank dies":
        assert "Signal 9 (SIGKILL)" in ended(process)
        return
    wait_for_hold(process, folder, cell.ranks)
    if cell.accident == "kill -9":
        return kill_all(process)
    number, code = {"SIGTERM": (signal.SIGTERM, -signal.SIGTERM), "Ctrl-C": (signal.SIGINT, 130)}[cell.accident]
    process.send_signal(number)
    output = ended(process)
    if cell.ranks == 1:
        assert process.returncode == code, output
        assert "Traceback" not in output


def no_room(cell: Cell, workshop: Workshop, tmp_path: Path) -> None:
    shards = workshop.shards(cell.codec)
    with small_disk(tmp_path / "disk") as remount:
        out = Path(shutil.copytree(scores(cell, workshop), tmp_path / "disk/out"))
        before = contents(out)
        full = cell.accident == "full disk"
        remount(f"size={used(out)}" if full else "ro")
        reason = "No space left on device" if full else "Read-only file system"
        refused(evaluate(cell, workshop, shards, out, cell.ranks), cell.ranks, reason)
        assert contents(out) == before
        remount("rw,size=64m")
        for name in REPORT:
            (out / name).unlink()
        finish(evaluate(cell, workshop, shards, out))
        assert contents(out) == before


EVALUATION = {
    "none": scored,
    "damaged clips": left_out,
    "kill -9": interrupted,
    "SIGTERM": interrupted,
    "Ctrl-C": interrupted,
    "a rank dies": interrupted,
    "full disk": no_room,
    "read-only folder": no_room,
}


def video(folder: Path) -> tuple[Path, Path]:
    """A file to predict from, and its keypoints."""
    clip = manifest(SynthOptions(classes=4, size=64, frames=(12, 12)))[0].source.load()
    data, _ = codec_named("h264").encode(clip.frames_THWC, 25.0)
    (folder / "clip.mp4").write_bytes(data)
    np.save(folder / "clip.npy", clip.keypoints_TKC)
    return folder / "clip.mp4", folder / "clip.npy"


def prediction(cell: Cell, model: Path, clip: Path, pose: Path, **variables: str):
    where = [str(model), str(clip), "--pose", str(pose), *BACKENDS[cell.backend], "data.device=cpu"]
    return launch("predict", where, **variables)


def named(cell: Cell, workshop: Workshop, tmp_path: Path) -> None:
    model = finetuned(workshop, cell.codec)
    clip, pose = video(tmp_path)
    output = finish(prediction(cell, model, clip, pose))
    said = cclslr.load(model, overrides=BACKENDS["numba"]).predict(clip, pose)
    shares = {name: 100 * said.probabilities(name) for name in said.logits}
    classes = said.classes
    told = re.findall(r"([^│┃\n]+?) \(([\d.]+) %\)", output)
    assert len(told) == len(shares) * len(classes), output
    for place, (gloss, share) in enumerate(told):
        of_branch = shares[list(shares)[place % len(shares)]]
        assert float(share) == pytest.approx(of_branch[classes.index(gloss.strip())], abs=1.5)


def refused_clip(cell: Cell, workshop: Workshop, tmp_path: Path) -> None:
    clip, pose = video(tmp_path)
    clip.write_bytes(clip.read_bytes()[:200])
    refused(prediction(cell, finetuned(workshop), clip, pose), 1, str(clip))


def no_room_to_predict(cell: Cell, workshop: Workshop, tmp_path: Path) -> None:
    clip, pose = video(tmp_path)
    with small_disk(tmp_path / "disk") as remount:
        remount("size=8k")
        refused(prediction(cell, finetuned(workshop), clip, pose, TMPDIR=str(tmp_path / "disk")), 1, "No space left")
        assert not list((tmp_path / "disk").iterdir())
        remount("size=64m")
        finish(prediction(cell, finetuned(workshop), clip, pose, TMPDIR=str(tmp_path / "disk")))


PREDICTION = {"none": named, "damaged clips": refused_clip, "full disk": no_room_to_predict}


def neighbours_of(folder: Path) -> dict[str, float]:
    """The k-NN scores that the journal has of the last step."""
    told = records(folder)[-1].items()
    return {name: value for name, value in told if name.startswith("knn_") and name != "knn_seconds"}


def check_probe(cell: Cell, shards: Path, run: Path) -> None:
    """The journal's scores are those of the checkpoint, probed in this process."""
    cfg = load_config(PretrainConfig, None, arguments(cell, shards, run))
    learner = build_learner(cfg, ALONE)
    learner.load(checkpoint.load(run / "last.pt"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the program had it
    try:
        scores = knn_probe(learner.query, cfg, ALONE)
    finally:
        torch.set_num_threads(threads)
    assert set(scores) == {"knn_rgb", "knn_pose", "knn_fused"}
    assert neighbours_of(run) == scores


def neighbours(cell: Cell, workshop: Workshop, tmp_path: Path) -> None:
    run = workshop.run(cell)
    if cell.ranks > 1:
        run = tmp_path / "run"
        finish(start(cell, workshop.shards(cell.codec), run, ranks=cell.ranks))
    check_probe(cell, workshop.shards(cell.codec), run)
    if cell.backend == "numba":  # else each of them may be chance, as it once was with FFCV's eight clips
        assert len(set(neighbours_of(run).values())) > 1


def probed_without(cell: Cell, workshop: Workshop, tmp_path: Path) -> None:
    shards, run = workshop.damaged(cell.codec, "test"), tmp_path / "run"
    output = finish(start(cell, shards, run, "run.max_steps=4", ranks=cell.ranks))
    check_named(output, victims(shards, "test"))
    check_probe(cell, shards, run)


def killed_in_a_probe(cell: Cell, workshop: Workshop, tmp_path: Path) -> None:
    run = tmp_path / "run"
    dies = Accident("die", "cclslr.train.knn_probe", tmp_path)
    ended(start(cell, workshop.shards(cell.codec), run, ranks=cell.ranks, accident=dies))
    assert records(run)[-1]["step"] == STEPS // 2 - 1
    finish(start(cell, workshop.shards(cell.codec), run))
    if cell.ranks == 1:
        check_equal(Cell("train", cell.backend, cell.codec, 1, "none"), run, workshop.run(cell))
        ours, theirs = ([r.get("knn_fused") for r in records(folder)] for folder in (run, workshop.run(cell)))
        assert ours == theirs
    check_probe(cell, workshop.shards(cell.codec), run)


PROBE = {"none": neighbours, "damaged clips": probed_without, "kill -9": killed_in_a_probe}
