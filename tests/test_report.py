"""The page of a run: whole from a folder with shards, and what it says where something is missing."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import finetune_here, tiny_shards, train_here

from cclslr import checkpoint
from cclslr.commands.report import main as command
from cclslr.errors import UserError
from cclslr.report.confusion import confusion_section
from cclslr.report.model import grad_cam, trained
from cclslr.report.page import SECTIONS, overlay


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, a pre-training and a fine-tuning of a few steps."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("report")
    shards = tiny_shards(out / "shards", (4, 0, 3))
    train_here(out / "pretrain", shards, "run.max_steps=2", "run.knn_every=1")
    finetune_here(out / "finetune", shards, "optim.epochs=1")
    return out


def page_of(run: Path, *more: str) -> str:
    command([str(run), "--clips", "3", *more])
    return (run / "report.html").read_text()


def section(page: str, heading: str) -> str:
    return page.split(f"<h2>{heading}</h2>")[1].split("<h2>")[0]


def pictures(html: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/\w+;base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_a_fine_tuning_has_every_section(folder: Path) -> None:
    page = page_of(folder / "finetune")
    assert re.findall(r"<h2>(.*?)</h2>", page) == list(SECTIONS)
    assert "Left out" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)  # nothing from elsewhere
    (curves,) = pictures(section(page, "Curves"))
    assert curves.format == "PNG"
    report = json.loads((folder / "finetune" / "test.json").read_text())
    assert f"{report['scores']['fused']['per_instance_top1']:.2f}" in section(page, "Scores")
    right = sum(report["confusion"][k][k] for k in range(4))
    assert f"{right} of {report['clips']} clips right" in page
    films = pictures(section(page, "Worst clips"))
    assert 0 < len(films) <= 6
    assert all(film.format == "WEBP" and film.n_frames > 1 for film in films)
    cams = pictures(section(page, "Where the RGB encoder looks (Grad-CAM)"))
    assert len(cams) == 3
    (points,) = pictures(section(page, "t-SNE"))
    assert np.asarray(points.convert("L")).std() > 1
    assert "labels_per_class" in section(page, "Config")


def test_a_pretraining_says_what_it_lacks(folder: Path) -> None:
    page = page_of(folder / "pretrain")
    assert "no evaluation on test was made" in section(page, "Confusion")
    assert "knn_fused" in section(page, "Scores")
    assert len(pictures(section(page, "Where the RGB encoder looks (Grad-CAM)"))) == 3
    assert len(pictures(section(page, "t-SNE"))) == 1


def test_without_shards_the_folder_alone_is_shown(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    page = page_of(folder / "finetune", "--no-shards")
    left_out = {heading for heading in SECTIONS if "Left out" in section(page, heading)}
    needs_clips = {"Worst clips", "Where the RGB encoder looks (Grad-CAM)", "t-SNE"}
    assert left_out == needs_clips
    page = page_of(folder / "finetune", "--shards", str(tmp_path / "gone"))
    left_out = {heading for heading in SECTIONS if "Left out" in section(page, heading)}
    assert left_out == needs_clips
    with pytest.raises(UserError, match="no run folder"):
        command([str(tmp_path)])


def test_grad_cam_follows_the_gradient(folder: Path) -> None:
    """Against Grad-CAM by hand, and it is not the same for every frame."""
    state = checkpoint.load(folder / "finetune" / "last.pt")
    run = trained(state, "last.pt", [])
    rgb = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 8, 32, 32, 3)).astype(np.uint8))
    labels = torch.tensor([1, -1])
    cam = grad_cam(run, {"rgb": rgb}, labels)
    assert cam.shape == (2, 8, 32, 32)
    encoder = run.encoder("rgb")
    kept: list[torch.Tensor] = []
    hook = encoder.get_submodule("layer4").register_forward_hook(lambda module, x, y: kept.append(y))
    logits = run.model({"rgb": rgb.float()})["rgb"]
    hook.remove()
    wanted = logits[0, 1] + logits[1].max()
    (gradient,) = torch.autograd.grad(wanted, kept)
    seen = (gradient.mean((2, 3, 4), keepdim=True) * kept[0]).sum(1, keepdim=True).relu()
    seen = torch.nn.functional.interpolate(seen, (8, 32, 32), mode="trilinear", align_corners=False)[:, 0].detach()
    expected = seen / seen.amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    assert np.allclose(cam, expected.numpy(), atol=1e-4)


def test_heat_lies_over_the_frame() -> None:
    frame = np.full((1, 2, 2, 3), 100, np.uint8)
    cam = np.array([[[0.0, 1.0], [0.0, 0.0]]])
    drawn = overlay(frame, cam)
    assert (drawn[0, 0, 0] == 100).all()
    assert drawn[0, 0, 1, 0] > drawn[0, 0, 1, 2]  # red


def test_a_confusion_of_2000_classes_lists_the_worst_first() -> None:
    counts = np.zeros((2000, 2000), int)
    counts[np.arange(2000), np.arange(2000)] = 3
    counts[7, 9], counts[3, 4] = 5, 2
    counts[np.arange(100, 900), np.arange(101, 901)] = 1
    names = [f"sign <{k}>" for k in range(2000)]
    html = confusion_section(counts, names)
    rows = re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td><td>(\d+)</td>", html)
    assert rows[:2] == [("sign &lt;7&gt;", "sign &lt;9&gt;", "5"), ("sign &lt;3&gt;", "sign &lt;4&gt;", "2")]
    assert len(rows) == 200
    data = re.search(r'id="confusion-data">(.*?)</script>', html)
    assert data is not None
    cells = json.loads(data[1])["cells"]
    assert len(cells) == np.count_nonzero(counts)
    assert len(html) < 200_000


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_draws_the_page(folder: Path, tmp_path: Path) -> None:
    page = folder / "finetune" / "browser.html"
    command([str(folder / "finetune"), "--out", str(page), "--no-shards"])
    shot = tmp_path / "page.png"
    subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,3000",
         f"--screenshot={shot}", page.as_uri()], check=True, capture_output=True,
    )  # fmt: skip
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    blue = (pixels[..., 2] - pixels[..., 0] > 60) | (pixels[..., 0] - pixels[..., 2] > 60)
    assert blue.sum() > 5000  # the cells of the matrix are drawn by the page's script
