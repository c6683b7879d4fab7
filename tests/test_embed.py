"""Features of clips, and models in other people's programs. What happens to `cclslr embed` is in the path matrix."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import ALONE, ROOT, finetune_here, tiny_shards, train_here

import cclslr
from cclslr import checkpoint
from cclslr.codecs import codec_named
from cclslr.commands.embed import main as embed
from cclslr.commands.search import main as search
from cclslr.config import FinetuneConfig, load_config
from cclslr.data.loader import Loader
from cclslr.data.plan import Plan
from cclslr.datasets.synthetic import SynthOptions, manifest
from cclslr.errors import ExitCode, UserError
from cclslr.evaluate import main as evaluate_command
from cclslr.files import read_json
from cclslr.inference.features import FeatureSet, read_features, write_arrays, write_features
from cclslr.models.ccl import Branches
from cclslr.models.classifier import from_checkpoint
from cclslr.shards.reader import ShardSet
from cclslr.training.evaluation import evaluate


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `shards`, and runs `pre` and `fine` on them, neither of which has learnt anything."""
    folder = tmp_path_factory.mktemp("embed")
    shards = tiny_shards(folder / "shards")
    train_here(folder / "pre", shards, "run.max_steps=2")
    finetune_here(folder / "fine", shards, "run.max_steps=2")
    return folder


@pytest.fixture(scope="module")
def features(made: Path) -> dict[str, FeatureSet]:
    """The feature files of both checkpoints."""
    for run in ("pre", "fine"):
        assert embed([str(made / run / "last.pt"), "--out", str(made / f"{run}.parquet"), "--part", "8"]) == 0
    return {run: read_features(made / f"{run}.parquet") for run in ("pre", "fine")}


@pytest.fixture(scope="module")
def video(made: Path) -> Path:
    """A clip as users have them: a file with its keypoints beside it."""
    clip = manifest(SynthOptions(classes=4, size=48, frames=(12, 12)))[0].source.load()
    folder = made / "videos/drink"
    folder.mkdir(parents=True)
    (folder / "a.mp4").write_bytes(codec_named("h264").encode(clip.frames_THWC, 25.0)[0])
    np.save(folder / "a.npy", clip.keypoints_TKC)
    return folder / "a.mp4"


def test_pretrained_features_are_those_of_the_query_encoders(made: Path, features: dict[str, FeatureSet]) -> None:
    found = features["pre"]
    model = cclslr.load(made / "pre/last.pt")
    query = Branches(model.config.model)
    query.load_state_dict(checkpoint.load(made / "pre/last.pt")["query"])
    query.eval()
    shards = ShardSet([str(made / "shards")])
    cfg = model.config
    plan = Plan.for_evaluation(shards, 1)
    with Loader(cfg.data, cfg.views, shards, plan, ALONE, ["rgb", "pose"], 0, augment=False).start() as loader:
        for row, batch in enumerate(loader):
            with torch.no_grad():
                g, f = query({"rgb": batch.rgb_VBTHWC[0], "pose": batch.pose_VBTJC[0]})
            for kind, of in {"g": g, "f": f}.items():
                for branch, x in of.items():
                    np.testing.assert_allclose(found[f"{kind}_{branch}"][row], x[0].numpy(), atol=1e-5)
    assert row == len(found) - 1 == 47


def test_all_features_have_length_1_and_fused_is_the_mean_of_cosines(features: dict[str, FeatureSet]) -> None:
    assert set(features["pre"].values) == {f"{kind}_{b}" for kind in "gf" for b in ("rgb", "pose", "fused")}
    assert set(features["fine"].values) == {f"{kind}_{b}" for kind in ("g", "logits") for b in ("rgb", "pose", "fused")}
    for found in features.values():
        for name, x_ND in found.values.items():
            if not name.startswith("logits"):
                np.testing.assert_allclose(np.linalg.norm(x_ND, axis=1), 1, atol=1e-5)
        rgb, pose, fused = (found[f"g_{branch}"] @ found[f"g_{branch}"].T for branch in ("rgb", "pose", "fused"))
        np.testing.assert_allclose(fused, (rgb + pose) / 2, atol=1e-5)


def test_logits_are_those_of_evaluation(made: Path, features: dict[str, FeatureSet]) -> None:
    state = checkpoint.load(made / "fine/last.pt")
    cfg = load_config(FinetuneConfig, None, [], stored=state["config"])
    scored = evaluate(from_checkpoint(state, ""), state["classes"], cfg, "test", ALONE)
    test = features["fine"].chosen(np.array(features["fine"].splits) == "test")
    assert test.keys == [scored.shards.rows[i].key for i in scored.clip_ids.tolist()]
    for branch, x_NK in scored.logits.items():
        np.testing.assert_allclose(test[f"logits_{branch}"], x_NK.numpy(), atol=1e-5)


def test_embedding_and_prediction_in_python(made: Path, video: Path) -> None:
    pretrained, tuned = cclslr.load(made / "pre/last.pt"), cclslr.load(made / "fine/last.pt")
    assert (pretrained.kind, tuned.kind, pretrained.classes) == ("pre-training", "fine-tuning", [])
    before, after = pretrained.embed(video), tuned.embed(video)
    assert set(before.g) == set(before.f) == set(after.g) == set(after.logits) == {"rgb", "pose", "fused"}
    assert not before.logits
    assert not after.f
    said = tuned.predict(video)
    assert [np.array_equal(said.logits[b], after.logits[b]) for b in said.logits] == [True] * 3
    shares = torch.from_numpy(said.logits["fused"]).double().softmax(0)
    best = shares.argsort(descending=True).tolist()
    assert said.top(2) == [(tuned.classes[k], pytest.approx(shares[k].item())) for k in best[:2]]
    assert [gloss for gloss, _ in said.top(9, "pose")] != []
    given = np.load(video.with_suffix(".npy"))
    for pose in (video.with_suffix(".npy"), given):
        assert np.array_equal(tuned.predict(video, pose).logits["pose"], said.logits["pose"])
    with pytest.raises(UserError, match="is no fine-tuned checkpoint"):
        pretrained.predict(video)
    with pytest.raises(UserError, match=r"no\.mp4"):
        tuned.predict(made / "no.mp4")
    with pytest.raises(UserError, match=r"a\.mp4: the pose has 5 frames, the video 12"):
        tuned.predict(video, given[:5])


def test_an_old_pretrained_checkpoint_asks_its_data_set_how_it_was_packed(made: Path, tmp_path: Path) -> None:
    state = checkpoint.load(made / "pre/last.pt")
    packing = state.pop("packing")
    checkpoint.save(tmp_path / "old.pt", state)
    assert cclslr.load(tmp_path / "old.pt").how_to_pack() == packing
    with pytest.raises(UserError, match=r"old\.pt does not say how its clips were packed"):
        cclslr.load(tmp_path / "old.pt", overrides=["data.shards=[nowhere]"]).how_to_pack()


def test_loading_needs_neither_dali_nor_the_training_code(made: Path, video: Path) -> None:
    code = f"""
import sys
for name in ("nvidia.dali", "ffcv", "torchmetrics", "tensorboard"):
    sys.modules[name] = None  # importing it fails
import cclslr
assert not [name for name in sys.modules if name == "torch" or name.startswith("cclslr.")]
model = cclslr.load({str(made / "fine/last.pt")!r}, device="cpu")
print(model.predict({str(video)!r}).top(1), model.embed({str(video)!r}).g["fused"].shape)
own = {{".".join(name.split(".")[:2]) for name in sys.modules if name.startswith("cclslr.")}}
print("rooms:", *sorted(own))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rooms = done.stdout.splitlines()[-1].split()
    assert "cclslr.inference" in rooms
    assert not {"cclslr.training", "cclslr.train", "cclslr.finetune", "cclslr.evaluate", "cclslr.study"} & set(rooms)


def test_videos_are_embedded_as_one_by_one(made: Path, video: Path, tmp_path: Path) -> None:
    (video.parent / "b.mp4").write_bytes(b"no video")
    np.save(video.parent / "b.npy", np.load(video.with_suffix(".npy")))
    out, model = tmp_path / "out.parquet", made / "pre/last.pt"
    assert embed([str(model), str(video.parents[1]), "--out", str(out)]) == ExitCode.SOME_BAD
    found = read_features(out)
    assert (found.keys, found.glosses, found.labels.tolist()) == (["drink_a-" + found.keys[0][-8:]], ["drink"], [0])
    assert list(found.about["videos"].values()) == [str(video)]
    assert ["b.mp4" in reason for reason in found.about["rejected"].values()] == [True]
    alone = cclslr.load(model).embed(video)
    np.testing.assert_allclose(found["g_fused"][0], alone.g["fused"], atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_search_finds_the_nearest_signs_and_shows_them(
    made: Path, features: dict[str, FeatureSet], video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index, out = made / "pre.parquet", made / "found.png"
    search([str(video), "--index", str(index), "--out", str(out)])
    lines = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    found = features["pre"]
    cosines = found["g_fused"] @ cclslr.load(made / "pre/last.pt").embed(video).g["fused"]
    best = {gloss: max(c for c, g in zip(cosines, found.glosses) if g == gloss) for gloss in set(found.glosses)}
    ranked = sorted(best, key=lambda gloss: -best[gloss])
    assert [(cells[2].strip(), cells[3].strip()) for cells in lines] == [(g, f"{best[g]:.3f}") for g in ranked]
    with Image.open(out) as sheet:
        rows = np.array(sheet.convert("L"), float)
    blocks = np.split(rows, 5)  # the video, and four signs
    assert all(block[18:130].std() > 10 for block in blocks)
    search([str(video), "--index", str(made / "shards"), "--checkpoint", str(made / "pre/last.pt"), "--top", "4"])
    assert [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line] == lines


def test_search_asks_the_checkpoint_that_made_the_index(
    made: Path, features: dict[str, FeatureSet], video: Path
) -> None:
    index = ["--index", str(made / "pre.parquet")]
    with pytest.raises(UserError, match=r"fine/last\.pt is not the checkpoint that .*pre\.parquet was made with"):
        search([str(video), *index, "--checkpoint", str(made / "fine/last.pt")])
    with pytest.raises(UserError, match="is a data set: give --checkpoint"):
        search([str(video), "--index", str(made / "shards")])
    with pytest.raises(UserError, match="no such features; there are g_rgb, g_pose"):
        search([str(video), *index, "--feature", "x_pose"])
    with pytest.raises(UserError, match="no clip of split 'val'"):
        search([str(video), *index, "--split", "val"])


def test_retrieval_of_a_checkpoint_is_that_of_its_feature_file(
    made: Path, features: dict[str, FeatureSet], tmp_path: Path
) -> None:
    for run in ("pre", "fine"):
        told = []
        for source in (made / run / "last.pt", made / f"{run}.parquet"):
            evaluate_command([str(source), "--retrieval", "--shots", "1", "3", "--out", str(tmp_path)])
            told.append(read_json(tmp_path / "test_retrieval.json"))
        assert (told[0]["queries"], told[0]["signs"], told[0]["examples"]) == (16, 4, 32)
        assert told[0]["signers_shared"] == 0
        assert told[0] == told[1]
        assert set(told[0]["logits"]) == {name for name in features[run].values if name.startswith("logits_")}
    test = features["fine"].chosen(np.array(features["fine"].splits) == "test")
    right = 100 * np.mean(test["logits_fused"].argmax(1) == test.labels)
    assert told[0]["logits"]["logits_fused"]["recall_1"] == pytest.approx(right)
    with pytest.raises(UserError, match="each query would find itself"):
        evaluate_command([str(made / "pre/last.pt"), "--retrieval", "--dictionary", "test"])
    with pytest.raises(UserError, match=r"pre\.parquet: no clip of split 'val'"):
        evaluate_command([str(made / "pre.parquet"), "--retrieval", "--dictionary", "val"])


def test_arrays_and_their_keys(made: Path, features: dict[str, FeatureSet], tmp_path: Path) -> None:
    out = tmp_path / "x.npy"
    arguments = [str(made / "fine/last.pt"), "--split", "test", "--out", str(out)]
    assert embed(arguments) == ExitCode.DONE
    with open(tmp_path / "x.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    whole = features["fine"]
    test = whole.chosen(np.array(whole.splits) == "test")
    assert [row["key"] for row in rows] == test.keys
    assert [int(row["label"]) for row in rows] == test.labels.tolist()
    assert {path.name for path in tmp_path.glob("*.npy")} == {f"x.{name}.npy" for name in test.values}
    np.testing.assert_allclose(np.load(tmp_path / "x.g_rgb.npy"), test["g_rgb"], atol=1e-5)
    assert read_json(tmp_path / "x.json")["split"] == "test"
    written = (tmp_path / "x.csv").stat().st_mtime_ns
    assert embed(arguments) == ExitCode.DONE  # it is there: nothing is done again
    assert (tmp_path / "x.csv").stat().st_mtime_ns == written


def test_a_file_of_other_features_is_not_overwritten(made: Path, features: dict[str, FeatureSet]) -> None:
    before = (made / "pre.parquet").read_bytes()
    for arguments in ([str(made / "fine/last.pt")], [str(made / "pre/last.pt"), "--split", "test"]):
        with pytest.raises(UserError, match="another checkpoint, other clips or settings"):
            embed([*arguments, "--out", str(made / "pre.parquet")])
    assert (made / "pre.parquet").read_bytes() == before


def test_parts_of_another_job_are_removed(made: Path, features: dict[str, FeatureSet], tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    parts = tmp_path / "out.parquet.parts"
    parts.mkdir()
    write_features(parts / "part-000000.parquet", features["pre"])  # of whom, nobody says
    assert embed([str(made / "fine/last.pt"), "--out", str(out), "--part", "8"]) == ExitCode.DONE
    assert out.read_bytes() == (made / "fine.parquet").read_bytes()


def test_a_feature_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    values = {"g_rgb": random.normal(size=(3, 5)).astype(np.float32), "f_rgb": np.zeros((3, 1), np.float32)}
    labels = np.array([0, -1, 7], np.int32)
    whole = FeatureSet(["a", "b", "c"], labels, ["é", "", "x"], ["train"] * 3, ["", "s", ""], values, {"x": [1, "é"]})
    write_features(tmp_path / "x.parquet", whole)
    found = read_features(tmp_path / "x.parquet")
    assert found.labels.tolist() == [0, -1, 7]
    assert {name: x.tobytes() for name, x in found.values.items()} == {n: x.tobytes() for n, x in values.items()}
    for name in ("keys", "glosses", "splits", "signers", "about"):
        assert getattr(found, name) == getattr(whole, name)
    again = FeatureSet.together([whole.chosen(np.array([0])), whole.chosen(np.array([1, 2]))], whole.about)
    write_features(tmp_path / "again.parquet", again)
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "x.parquet").read_bytes()
    assert len(write_arrays(tmp_path / "x.npy", whole)) == 3


def test_what_is_no_feature_file_is_told(tmp_path: Path, made: Path) -> None:
    path = tmp_path / "x.parquet"
    with pytest.raises(UserError, match="no such file; make one with: cclslr embed"):
        read_features(path)
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"x\.parquet: unreadable"):
        read_features(path)
    with pytest.raises(UserError, match="not a feature file of cclslr embed"):
        read_features(made / "shards/index.parquet")
    nan = FeatureSet(["a"], np.zeros(1, np.int32), [""], ["test"], [""], {"g": np.full((1, 2), np.nan, np.float32)})
    write_features(path, nan)
    with pytest.raises(UserError, match="g has missing numbers"):
        read_features(path)
    with pytest.raises(UserError, match="no features 'f_rgb'; there are g"):
        nan["f_rgb"]
