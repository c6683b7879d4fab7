"""Fine-tuning, evaluation and prediction as programs, on one rank and on two."""

from __future__ import annotations

import csv
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from served import rendered, write_video
from small_runs import ALONE, TINY, TINY_PRETRAIN, finish, start, tiny_shards

import cclslr
from cclslr import checkpoint
from cclslr.codecs import codec_named
from cclslr.config import FinetuneConfig, load_config
from cclslr.datasets.synthetic import SynthOptions, manifest
from cclslr.errors import ExitCode, UserError
from cclslr.files import read_json
from cclslr.models.classifier import from_checkpoint
from cclslr.predict import main as predict_command
from cclslr.training.evaluation import evaluate

METRICS = {"per_instance_top1", "per_instance_top5", "per_class_top1", "per_class_top5"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """Shards, and the run that fine-tuned a pre-trained checkpoint on them."""
    folder = tmp_path_factory.mktemp("finetune")
    shards = tiny_shards(folder / "tiny", per_class=(8, 2, 3))
    finish(start("cclslr.train", *TINY_PRETRAIN, f"data.shards=[{shards}]", f"run.dir={folder}/pre", "run.max_steps=2"))
    arguments = [*TINY, f"data.shards=[{shards}]", f"pretrained={folder}/pre/last.pt", "optim.epochs=2"]
    finish(start("cclslr.finetune", *arguments, f"run.dir={folder}/fine", "report=best_val", "data.labels_per_class=4"))
    return shards, folder / "fine"


def test_scores_and_predictions_are_written(trained):
    _, run = trained
    report = read_json(run / "test.json")
    assert report["clips"] == 12
    assert set(report["scores"]) == {"rgb", "pose", "fused"}
    assert all(set(score) == METRICS for score in report["scores"].values())
    rows = list(csv.DictReader((run / "test_predictions.csv").open()))
    assert len({row["key"] for row in rows}) == 12
    for branch, score in report["scores"].items():
        right = [row[f"{branch}_top1"] == row["label"] for row in rows]
        assert score["per_instance_top1"] == pytest.approx(100 * np.mean(right), abs=1e-3)
        assert all(row[f"{branch}_top5"].split()[0] == row[f"{branch}_top1"] for row in rows)


def test_two_ranks_evaluate_each_clip_once_and_alike(trained, tmp_path):
    _, run = trained
    for ranks in (1, 2):
        finish(start("cclslr.evaluate", str(run / "best.pt"), "--out", str(tmp_path / str(ranks)), ranks=ranks))
    one, two = (read_json(tmp_path / ranks / "test.json") for ranks in ("1", "2"))
    assert one == two
    assert one["scores"] == read_json(run / "test.json")["scores"]
    assert (tmp_path / "1/test_predictions.csv").read_text() == (tmp_path / "2/test_predictions.csv").read_text()


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_evaluation_in_half_precision_says_nearly_the_same(trained, amp):
    _, run = trained
    state = checkpoint.load(run / "best.pt")
    cfg = load_config(FinetuneConfig, None, [], stored=state["config"])
    said = {}
    for cfg.run.amp in ("fp32", amp):
        classifier = from_checkpoint(state, "best.pt")
        said[cfg.run.amp] = evaluate(classifier, state["classes"], cfg, "test", ALONE).logits
    for branch, x in said["fp32"].items():
        assert said[amp][branch].dtype == torch.float32
        assert not torch.equal(said[amp][branch], x)
        torch.testing.assert_close(said[amp][branch], x, rtol=0.05, atol=0.05 * x.abs().max().item())


def test_linear_probe_on_two_ranks(trained, tmp_path):
    shards, run = trained
    arguments = [*TINY, f"data.shards=[{shards}]", f"pretrained={run.parent}/pre/last.pt", "linear_probe=true"]
    finish(
        start(
            "cclslr.finetune", *arguments, f"run.dir={tmp_path}", "optim.epochs=1", "model.modalities=[pose]", ranks=2
        )
    )
    assert set(read_json(tmp_path / "test.json")["scores"]) == {"pose"}


def test_prediction_from_a_video_file(trained, tmp_path):
    _, run = trained
    clip = manifest(SynthOptions(classes=4, size=48, frames=(12, 12)))[0].source.load()
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 48
        for frame in clip.frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    np.save(tmp_path / "clip.npy", clip.keypoints_TKC)
    arguments = [str(run / "last.pt"), str(tmp_path / "clip.mp4"), "--pose", str(tmp_path / "clip.npy")]
    output = finish(start("cclslr.predict", *arguments))
    classes = read_json(run / "test.json")["classes"]
    assert all(gloss[:6] in output for gloss in classes)

    np.save(tmp_path / "clip.npy", clip.keypoints_TKC[:5])
    process = start("cclslr.predict", *arguments)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == ExitCode.REFUSED
    assert "Traceback" not in output
    assert " ".join(output.split()).count("clip.mp4") == 1

    for broken in ("clip.npy", "clip.mp4"):  # the file that is bad is named, once and with its path
        np.save(tmp_path / "clip.npy", clip.keypoints_TKC)
        (tmp_path / broken).write_bytes(b"nothing")
        with pytest.raises(UserError, match="unreadable") as error:
            cclslr.load(run / "last.pt").predict(tmp_path / "clip.mp4", tmp_path / "clip.npy")
        assert str(error.value).startswith(f"{tmp_path / broken}: ")
        assert str(error.value).count("clip.") == 1


def test_a_prediction_is_written_as_a_film(trained, tmp_path, capsys):
    _, run = trained
    frames, keypoints = rendered(96)
    write_video(tmp_path / "clip.mp4", frames)
    np.save(tmp_path / "clip.npy", keypoints)
    arguments = [str(run / "last.pt"), str(tmp_path / "clip.mp4")]
    predict_command([*arguments, "--film", str(tmp_path / "film.webp")])
    with_film = capsys.readouterr().out
    predict_command(arguments)
    assert with_film.startswith(capsys.readouterr().out)  # it says the same
    film = Image.open(tmp_path / "film.webp")
    assert (film.n_frames, film.size) == (len(frames), (96, 96))
    drawn = abs(np.asarray(film.convert("RGB")).astype(int) - frames[0]).max(2) > 60
    assert 0.01 < drawn.mean() < 0.5
    with pytest.raises(UserError, match=r"ends in \.webp"):
        predict_command([*arguments, "--film", "film.mp4"])


def test_prediction_from_a_bare_video_asks_the_estimator(trained, tmp_path, monkeypatch):
    _, run = trained
    clip = manifest(SynthOptions(classes=4, size=48, frames=(12, 12)))[0].source.load()
    data, _ = codec_named("h264").encode(clip.frames_THWC, 25.0)
    (tmp_path / "clip.mp4").write_bytes(data)
    np.save(tmp_path / "pose.npy", clip.keypoints_TKC)
    asked = []

    def estimate(path, estimator):
        asked.append((path, estimator))
        return clip.keypoints_TKC

    monkeypatch.setattr("cclslr.poses.estimate", estimate)
    model = cclslr.load(run / "last.pt")
    bare = model.predict(tmp_path / "clip.mp4", estimator="mediapipe").logits
    given = model.predict(tmp_path / "clip.mp4", tmp_path / "pose.npy").logits
    assert asked == [(tmp_path / "clip.mp4", "mediapipe")]
    assert set(bare) == {"rgb", "pose", "fused"}
    for name, logits in bare.items():
        assert len(logits) == len(model.classes)
        assert np.array_equal(logits, given[name])


def test_mistakes_end_with_one_line(trained, tmp_path):
    _, run = trained
    for arguments, message in (
        ([str(run.parent / "pre" / "last.pt")], "no fine-tuned checkpoint"),
        ([str(tmp_path / "none.pt")], "no such file"),
        ([str(run / "last.pt"), "--split", "val", "--shards", str(tmp_path)], str(tmp_path)),
    ):
        process = start("cclslr.evaluate", *arguments)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 2, output
        assert message in "".join(output.split("\n"))
        assert "Traceback" not in output
