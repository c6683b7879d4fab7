"""What leaves the project says the same elsewhere: graphs, weights, the file of preprocessing, the card."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from small_runs import finetune_here, tiny_shards, train_here

import cclslr
from cclslr.commands.export import main as command
from cclslr.commands.export import parse
from cclslr.data.views import eval_views
from cclslr.datasets.synthetic import SynthOptions, manifest
from cclslr.errors import UserError
from cclslr.export import graphs, preprocess
from cclslr.export.folder import export
from cclslr.export.graphs import Graph, example, numpy_views, open_onnx, open_torchscript
from cclslr.export.quantise import BLOCK, PRECISIONS, quantised, write_int4, write_int8
from cclslr.export.request import Exported, Request
from cclslr.export.verify import each_view
from cclslr.files import read_json
from cclslr.shards.pack import PackOptions, pack
from cclslr.shards.reader import ShardSet

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, and a checkpoint of either program."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("export")
    shards = tiny_shards(out / "shards", (4, 0, 3))
    train_here(out / "pre", shards, "run.max_steps=1")
    finetune_here(out / "fine", shards, "optim.epochs=1")
    return out


@pytest.fixture(scope="module")
def exported(made: Path) -> Exported:
    """Everything of the fine-tuned model."""
    formats = ("onnx", "torchscript", "safetensors")
    return export(Request(made / "fine/last.pt", made / "out", formats, verify=10, quantise=tuple(PRECISIONS)))


def test_every_graph_says_what_the_model_says_at_any_batch(made: Path, exported: Exported) -> None:
    model = cclslr.load(made / "fine/last.pt")
    runs = {name: open_onnx(made / "out" / f"{name}.onnx") for name in ("rgb", "pose", "fused")}
    for name in ("rgb", "pose", "fused"):
        runs[f"{name}.ts"] = open_torchscript(made / "out" / f"{name}.torchscript.pt", Graph(model, name))
    for clips in (1, 5):
        views = {m: example(model, m, clips, seed=clips) for m in ("rgb", "pose")}
        with torch.inference_mode():
            wanted = model.forward(views)
        for name, run in runs.items():
            found = run(numpy_views(views))
            of = name.removesuffix(".ts")
            assert set(found) == {key for key in wanted if of in (key.split("_")[1], "fused")}
            for key, x in found.items():
                np.testing.assert_allclose(x, wanted[key].numpy(), atol=1e-5, err_msg=f"{name} {key} {clips}")


def test_the_report_is_of_the_files(made: Path, exported: Exported) -> None:
    told = read_json(made / "out/parity.json")
    graphs_there = {path.name for path in (made / "out").glob("*") if path.suffix in (".onnx", ".pt")}
    assert set(told) - {"on"} == graphs_there == set(exported.parity)
    for name, found in exported.parity.items():
        assert found.clips == 10
        assert found.bytes == (made / "out" / name).stat().st_size
        assert found.ms > 0
        assert found.good or "int" in name
    assert exported.parity["pose.onnx"].same_top5 == {"logits_pose": 1.0}
    whole, eight, four = (exported.parity[f"pose{name}.onnx"] for name in ("", "_int8", "_int4"))
    assert whole.bytes > eight.bytes
    assert whole.difference["g_pose"] < eight.difference["g_pose"] < four.difference["g_pose"] < 0.5
    assert exported.parity["pose.torchscript.pt"].bytes < exported.parity["fused.torchscript.pt"].bytes


def test_the_card_runs_where_this_project_is_not(made: Path, exported: Exported) -> None:
    text = (made / "out/README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    code += "\nimport sys\nprint(sorted({'cclslr', 'torch', 'numba', 'av'} & set(sys.modules)))"
    code += "\nprint(max(abs(outputs[n] - clip['expected_' + n]).max() for n in outputs))"
    done = subprocess.run([sys.executable, "-c", code], cwd=made / "out", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    labels, modules, difference = done.stdout.splitlines()[-3:]
    assert modules == "[]"
    assert float(difference) < 0.05  # its frames are interpolated from RGB, those of training from YUV planes
    with np.load(made / "out/test_clip.npz") as clip:
        best = read_json(made / "out/labels.json")[int(clip["expected_logits_fused"].argmax())]
    assert best == json.loads(labels.replace("'", '"'))[0]


def test_the_hub_reads_the_card_and_the_weights(made: Path, exported: Exported) -> None:
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard.load(made / "out/README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("cclslr", "video-classification")
    scores = read_json(made / "fine/test.json")["scores"]["fused"]
    told = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert told["accuracy (fused)"] == round(scores["per_instance_top1"], 2)
    with safe_open(made / "out/model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"


def test_weights_are_the_model(made: Path, exported: Exported) -> None:
    ours, theirs = cclslr.load(made / "fine/last.pt"), cclslr.load(made / "out")
    assert (theirs.kind, theirs.classes, theirs.how_to_pack()) == (ours.kind, ours.classes, ours.how_to_pack())
    views = {m: example(ours, m, 2) for m in ours.modalities}
    with torch.inference_mode():
        wanted, found = ours.forward(views), theirs.forward(views)
    assert all(torch.equal(found[name], x) for name, x in wanted.items())
    again = export(Request(made / "out", made / "again", ("safetensors",), verify=0, clip=False))
    assert (again.out / "model.safetensors").read_bytes() == (made / "out/model.safetensors").read_bytes()


def test_a_pretrained_model_gives_features(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = made / "features"
    command([str(made / "pre/last.pt"), "--branch", "pose", "--verify", "4", "--quantise", "--out", str(out)])
    assert "pose.onnx" in capsys.readouterr().out
    model = cclslr.load(made / "pre/last.pt")
    views = {"pose": example(model, "pose", 3), "rgb": example(model, "rgb", 3)}
    with torch.inference_mode():
        wanted = model.forward(views)
    found = open_onnx(out / "pose.onnx")(numpy_views(views))
    assert set(found) == {"g_pose", "f_pose"}
    for name, x in found.items():
        np.testing.assert_allclose(x, wanted[name].numpy(), atol=1e-5)
    assert "feature-extraction" in (out / "README.md").read_text()
    weights = export(Request(made / "pre/last.pt", made / "prew", ("safetensors",), verify=0, clip=False))
    assert cclslr.load(weights.out).kind == "pre-training"


@pytest.mark.parametrize("crop", ["none", "signer"])
def test_preprocessing_is_that_of_the_project(made: Path, tmp_path: Path, crop: str) -> None:
    """From raw frames and keypoints, through packing and loader or through the one file."""
    synth = SynthOptions(classes=4, clips_per_class=(2, 0, 2), signers=(3, 1, 2), size=96, frames=(12, 20))
    rows = manifest(synth)
    pack(rows, tmp_path / "s", PackOptions(codec="jpeg", size=64, crop=crop, quality=100))
    shards = ShardSet([str(tmp_path / "s")])
    model = cclslr.load(made / "fine/last.pt")
    raw = {row.key: row.source.load() for row in rows}
    config = {"config": {"views": {"rgb_frames": 4, "pose_frames": 8, "size": 32}}}
    config["packing"] = {"size": 64, "crop": crop}
    views = list(each_view(model, shards, len(shards)))
    rgb, pose = (torch.cat([view[m] for view in views]).numpy() for m in ("rgb", "pose"))
    assert len(rgb) == len(shards) == 16
    for clip_id, row in enumerate(shards.rows):
        clip = raw[row.key]
        found = preprocess.prepare(clip.frames_THWC, clip.keypoints_TKC, config)
        np.testing.assert_allclose(found["pose"][0], pose[clip_id], atol=2e-3)
        apart = abs(found["rgb"][0].astype(int) - rgb[clip_id])
        assert apart.mean() < 3, row.key  # JPEG keeps colours at half the resolution
        alone = preprocess.prepare(None, clip.keypoints_TKC, config, frame_size=clip.frames_THWC.shape[2:0:-1])
        np.testing.assert_array_equal(alone["pose"], found["pose"])


def test_frames_are_chosen_as_for_evaluation() -> None:
    cfg = cclslr.config.ViewConfig(rgb_frames=5, pose_frames=9)
    for total in (1, 4, 9, 31):
        wanted = eval_views(cfg, np.array([total]), np.array([[32, 32]]))
        assert preprocess.segment_centres(total, 5).tolist() == wanted.rgb_index_VBT[0, 0].tolist()
        assert preprocess.segment_centres(total, 9).tolist() == wanted.pose_index_VBT[0, 0].tolist()


def test_keypoints_that_show_nobody_are_zeros() -> None:
    keypoints = np.zeros((4, 133, 3), np.float32)
    assert not preprocess.pose_view(keypoints, (64, 64), 8).any()
    keypoints[:, :11] = (5, 5, 1)  # all in one place
    assert not preprocess.pose_view(keypoints, (64, 64), 8).any()


class Convolution(torch.nn.Module):
    """Over time as in the pose branch, after a product, so that both kinds of weights are there."""

    def __init__(self, stride: int, bias: bool) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(2 * BLOCK + 5, 16)
        self.temporal = torch.nn.Conv2d(16, 24, (9, 1), padding=(4, 0), stride=(stride, 1), bias=bias)

    def forward(self, x_BTJF: torch.Tensor) -> torch.Tensor:
        return self.temporal(self.linear(x_BTJF).permute(0, 3, 1, 2))


@pytest.mark.parametrize(("stride", "bias"), [(1, False), (2, True)])
def test_convolutions_become_products_of_few_bits(tmp_path: Path, stride: int, bias: bool) -> None:
    torch.manual_seed(stride)
    module, x = Convolution(stride, bias).eval(), torch.randn(3, 11, 4, 2 * BLOCK + 5)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(module, (x,), dynamic_shapes=({0: batch},))
    torch.onnx.export(program, (), tmp_path / "whole.onnx", input_names=["x"], external_data=False, verbose=False)
    wanted = module(x).detach().numpy()
    for write, bits in ((write_int8, 8), (write_int4, 4)):
        write(tmp_path / "whole.onnx", tmp_path / "few.onnx")
        there = [node.op_type for node in onnx.load(tmp_path / "few.onnx").graph.node]
        assert "Conv" not in there
        assert there.count("MatMulInteger") == 2
        (found,) = open_onnx(tmp_path / "few.onnx")({"x": x.numpy()}).values()
        assert found.shape == wanted.shape
        apart = np.sqrt(((found - wanted) ** 2).mean() / wanted.var())
        assert 0.001 < apart < {8: 0.02, 4: 0.2}[bits]  # a step of 4 bits is 16 times that of 8


def test_the_precisions_that_the_command_offers_are_the_table() -> None:
    assert parse(["x.pt", "--quantise", *PRECISIONS]).quantise == list(PRECISIONS)
    assert quantised("pose_int4.onnx") is PRECISIONS["int4"]
    assert quantised("pose.onnx") is None
    with pytest.raises(SystemExit):
        parse(["x.pt", "--quantise", "int2"])


def test_a_graph_that_differs_is_no_folder(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = graphs.FORMATS["torchscript"]

    def wrong(path: Path, graph: Graph) -> graphs.Run:
        run = honest.open(path, graph)
        return lambda views: {name: x + 0.1 for name, x in run(views).items()}

    monkeypatch.setitem(graphs.FORMATS, "torchscript", replace(honest, open=wrong))
    with pytest.raises(RuntimeError, match=r"pose\.torchscript\.pt differs from the model"):
        export(Request(made / "fine/last.pt", made / "wrong", ("torchscript",), ("pose",), verify=4))
    assert not [path for path in made.iterdir() if "wrong" in path.name]


def test_without_its_data_set_random_views_are_compared(made: Path) -> None:
    gone = f"data.shards=[{made / 'gone'}]"
    request = Request(made / "fine/last.pt", made / "bare", ("torchscript",), ("pose",), overrides=[gone])
    done = export(request)
    assert "random views" in done.measured_on
    assert done.parity["pose.torchscript.pt"].clips == 20
    assert "test_clip.npz" not in done.files
    assert "was not there" in (done.out / "README.md").read_text()


def test_what_cannot_be_exported_is_told(made: Path, exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is there already"):
        export(Request(made / "fine/last.pt", made / "out"))
    finetune_here(made / "alone", made / "shards", "optim.epochs=1", "model.modalities=[pose]")
    with pytest.raises(UserError, match="has no branch rgb; it has pose"):
        export(Request(made / "alone/last.pt", tmp_path / "x", branches=("rgb",)))
    with pytest.raises(UserError, match="no exported weights; such a folder has"):
        cclslr.load(tmp_path)
    broken = tmp_path / "broken"
    export(Request(made / "alone/last.pt", broken, ("safetensors",), verify=0, clip=False))
    (broken / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"model\.safetensors: cannot be read"):
        cclslr.load(broken)
    (broken / "config.json").write_text("{}")
    with pytest.raises(UserError, match="not written by cclslr export"):
        cclslr.load(broken)
