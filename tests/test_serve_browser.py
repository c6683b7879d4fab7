"""The page in a real browser: a dropped file, and a camera that plays a clip. Skips where there is no Chromium."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import ROOT, finetune_here, tiny_shards

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
sync_api = pytest.importorskip("playwright.sync_api")

from served import Stub, rendered, serve, write_video  # noqa: E402

import cclslr  # noqa: E402
from cclslr.commands.embed import main as embed  # noqa: E402
from cclslr.inference.features import read_features  # noqa: E402
from cclslr.inference.model import Model  # noqa: E402
from cclslr.poses import EstimatorOptions, open_estimator  # noqa: E402
from cclslr.serve.answer import Answerer  # noqa: E402
from cclslr.serve.limits import Limits  # noqa: E402
from cclslr.shards.decode import decode_file  # noqa: E402

BROWSERS = ("chromium", "chromium-headless-shell", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=f"no {', '.join(BROWSERS)}; as root: make setup-browser")
REAL = Path(os.environ.get("CCLSLR_REAL", ROOT.parent / "shared/real")) / "clips"
SIZE, WAIT = 96, 300_000  # pixels; milliseconds, for machines that are busy


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("browser")
    shards = tiny_shards(out / "shards", (4, 0, 3))
    finetune_here(out / "fine", shards, "optim.epochs=1")
    embed([str(out / "fine/last.pt"), "--out", str(out / "index.parquet")])
    frames, keypoints = rendered(SIZE)
    np.save(out / "keypoints.npy", keypoints)
    write_video(out / "clip.mp4", frames)
    write_video(out / "camera.mjpeg", np.repeat(frames, 4, 1).repeat(4, 2), "mjpeg")
    return out


@pytest.fixture(scope="module")
def model(made: Path) -> Model:
    return cclslr.load(made / "fine/last.pt")


@contextmanager
def page_of(port: int, camera: Path | None = None) -> Iterator[Any]:
    """The page, in Chromium with a camera that plays a file; nothing but the server is asked, no error is hidden."""
    options = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    options += [] if camera is None else [f"--use-file-for-fake-video-capture={camera}"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        page.set_default_timeout(WAIT)
        faults: list[str] = []
        asked: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("#about:not(:empty)")
        yield page
        browser.close()
    assert not faults
    own = (f"http://127.0.0.1:{port}/", f"ws://127.0.0.1:{port}/", "data:", "blob:")
    assert all(url.startswith(own) for url in asked), asked


def test_a_clip_is_chosen_and_answered(made: Path, model: Model) -> None:
    stub = Stub(np.load(made / "keypoints.npy"), SIZE)
    answerer = Answerer(model, stub, read_features(made / "index.parquet"), Limits(megabytes=1))
    with serve(answerer) as served, page_of(served.port) as page:
        page.set_input_files("#file", made / "clip.mp4")
        page.wait_for_selector("#stages tr")
        assert page.inner_text("#heading") == "clip.mp4"
        said = model.predict(made / "clip.mp4", stub.keypoints_TKC)
        for branch in ("rgb", "pose", "fused"):
            bars = page.locator(f"[data-branch={branch}] .bar")
            assert bars.count() == 4
            gloss, share = said.top(1, branch)[0]
            assert bars.first.inner_text().split("\n") == [gloss, f"{100 * share:.1f} %"]
        assert page.locator("#film").evaluate("image => image.naturalHeight") == SIZE
        assert page.locator(".near img").count() == 4
        assert page.locator("#stages tr").count() == 6
        bad = {"name": "x.mp4", "mimeType": "video/mp4", "buffer": b"<script>alert(1)</script>"}
        page.set_input_files("#file", bad)
        sync_api.expect(page.locator("#error")).to_contain_text("this is no video file", timeout=WAIT)
        assert not page.is_visible("#answer")
        bad["buffer"] = b"0" * 1_100_000
        page.set_input_files("#file", bad)
        sync_api.expect(page.locator("#error")).to_have_text(re.compile("larger than 1 MB|fetch"), timeout=WAIT)


def test_one_signs_before_the_camera(made: Path, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stub = Stub(np.load(made / "keypoints.npy"), SIZE)
    with serve(Answerer(model, stub)) as served:
        with page_of(served.port, made / "camera.mjpeg") as page:
            page.click("#camera")
            page.wait_for_selector("#history div")  # a sign ended
            assert page.inner_text("#history div >> nth=0").split()[0] in model.classes
            assert " dropped; keypoints " in page.inner_text("#counts")
            assert page.locator("#overlay").evaluate("canvas => canvas.width") == 384
            pixels = "canvas => Array.from(canvas.getContext('2d').getImageData(0, 0, 384, 384).data)"
            assert np.array(page.locator("#overlay").evaluate(pixels))[3::4].any()
            page.click("#record")  # a WebM of four seconds
            page.wait_for_selector("#stages tr")
            assert page.inner_text("#heading") == "what you signed"
            assert not page.is_visible("#seen")
            assert page.inner_text("#error") == ""
        assert [path for path in tmp_path.rglob("*") if path.is_file() and "cclslr" in str(path)] == []
    assert stub.closed == stub.followed == 1


@pytest.mark.slow
def test_a_real_signer_is_seen_by_mediapipe(made: Path, model: Model, tmp_path: Path) -> None:
    pytest.importorskip("mediapipe")
    source = REAL / "asl_house.mp4"
    if not source.is_file():
        pytest.skip(f"{source} is not there")
    frames = decode_file(source).frames_THWC
    assert frames is not None
    camera = write_video(tmp_path / "camera.mjpeg", frames, "mjpeg")
    estimator = open_estimator(EstimatorOptions(backend="mediapipe"))
    with serve(Answerer(model, estimator)) as served, page_of(served.port, camera) as page:
        page.set_input_files("#file", source)
        page.wait_for_selector("#stages tr")
        assert "73 frames" in page.inner_text("#counts")
        page.click("#camera")
        page.wait_for_selector("#history div")
        assert page.inner_text("#history div >> nth=0").split()[0] in model.classes
