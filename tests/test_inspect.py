"""The page of clips: whole, safe, filterable, and true to what lies in the shards."""

from __future__ import annotations

import base64
import importlib
import io
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from cclslr.config import ViewConfig
from cclslr.distributed import Process
from cclslr.inspect.films import HEIGHT, films_of, load_matching_flow
from cclslr.inspect.page import page, summarise
from cclslr.masking.architecture import flow_config
from cclslr.masking.flow import Flow, FlowCard, save_flow
from cclslr.masking.methods import motion_alone
from cclslr.masking.rewrite import make_masks
from cclslr.masking.settings import MaskSettings
from cclslr.shards.clip import PackOptions
from cclslr.shards.format import ManifestRow, RawClip
from cclslr.shards.pack import pack
from cclslr.shards.reader import ShardSet


class Bar:
    """A bar that crosses the frame; clip 0 stands still, clip 3 has only a pose."""

    def __init__(self, index: int) -> None:
        self.index = index

    def __repr__(self) -> str:
        return f"Bar({self.index})"

    def load(self) -> RawClip:
        keypoints = np.random.default_rng(self.index).uniform(5, 45, (10, 133, 3)).astype(np.float32)
        keypoints[..., 2] = 0.9
        if self.index == 3:
            return RawClip(None, keypoints, 25.0)
        frames = np.full((10, 48, 64, 3), 100, np.uint8)
        for t in range(10):
            x = 8 if self.index == 0 else 6 * t
            frames[t, 10:40, x : x + 10] = 240
        return RawClip(frames, keypoints, 25.0)


@pytest.fixture(scope="module")
def flow_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    flow = Flow(flow_config("tiny", 32), FlowCard("trained"))
    flow.normalise_to(0.5 + 0.1 * torch.randn(64, 3, 32, 32))
    path = tmp_path_factory.mktemp("flow") / "flow.safetensors"
    save_flow(flow, path)
    return path


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, flow_path: Path) -> Path:
    out = tmp_path_factory.mktemp("set")
    glosses = ('a <b> & "c"', "house", "house", "pose")
    rows = [ManifestRow(f"clip{i}", Bar(i), {0: 0, 1: 1, 2: 1, 3: 2}[i], glosses[i], "train", "s") for i in range(4)]
    pack(rows, out, PackOptions(codec="jpeg", size=48, crop="none", quality=95), workers=0)
    make_masks(out, MaskSettings(motion_alone(), str(flow_path)), 0, Process(0, 1, torch.device("cpu")))
    return out


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return importlib.import_module("cclslr.commands.inspect")


def films(shards: Path, flow_path: Path, key: str) -> dict[str, np.ndarray]:
    from cclslr.masking.flow import load_flow

    loaded = ShardSet([str(shards)])
    clip_id = next(i for i, row in enumerate(loaded.rows) if row.key == key)
    clip = films_of(loaded, clip_id, load_flow(flow_path), 5, ViewConfig(mask_alpha=1.0), 0, 0)
    return {film.title: film.frames_THWC for film in clip.films}


def test_every_stage_of_a_clip_is_there(shards: Path, flow_path: Path) -> None:
    stages = films(shards, flow_path, "clip1")
    assert list(stages) == ["frames", "keypoints", "motion preserved", "mask", "masked clip", "query", "key"]
    for title, frames in stages.items():
        assert frames.dtype == np.uint8
        assert frames.shape == (5, HEIGHT, HEIGHT if title in ("query", "key") else 149, 3)
    assert list(films(shards, flow_path, "clip3")) == ["keypoints"]
    assert films(shards, flow_path, "clip3")["keypoints"].any()


def test_the_mask_hides_what_it_says(shards: Path, flow_path: Path) -> None:
    stages = films(shards, flow_path, "clip1")
    hidden = stages["mask"][..., 0] == 0
    assert 0.05 < hidden.mean() < 0.95
    assert (stages["masked clip"][hidden] == 0).all()
    assert (stages["masked clip"][~hidden] == stages["frames"][~hidden]).all()
    assert (films(shards, flow_path, "clip0")["mask"] == 255).all()


def test_keypoints_are_drawn_where_they_are(shards: Path, flow_path: Path) -> None:
    stages = films(shards, flow_path, "clip1")
    drawn = (stages["keypoints"] != stages["frames"] // 2).any(-1)
    rows, columns = np.nonzero(drawn[0])
    assert drawn.mean() > 0.05
    assert rows.min() >= 4 * HEIGHT / 48  # all points are between 5 and 45 pixels of the packed frame
    assert columns.max() <= 46.5 * HEIGHT / 48


class Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_the_command_writes_a_page_that_stands_alone(
    shards: Path, flow_path: Path, tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "page.html"
    monkeypatch.setattr(
        sys, "argv", ["x", str(shards), "--out", str(out), "--flow", str(flow_path), "--frames", "4", "--clips", "9"]
    )
    tool.main()
    text = out.read_text(encoding="utf-8")
    assert not re.search(r"https?://|src=|<link", text)  # nothing is fetched
    elements = Elements(text).seen
    articles = [attributes for tag, attributes in elements if tag == "article"]
    assert sorted(a["data-label"] or "" for a in articles) == ['a <b> & "c"', "house", "house", "pose"]
    assert sorted(a["data-degenerate"] or "" for a in articles) == ["", "", "", "everything static"]
    pictures = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", text)
    assert len(pictures) == 3 * 7 + 1
    with Image.open(io.BytesIO(base64.b64decode(pictures[0]))) as image:
        assert image.height == HEIGHT
        assert image.width % 4 == 0
    assert "1 degenerate" in text


def test_clips_are_chosen_by_label_and_by_degenerate_mask(shards: Path, tool: ModuleType) -> None:
    loaded = ShardSet([str(shards)])
    keys = lambda ids: sorted(loaded.rows[i].key for i in ids)  # noqa: E731
    assert keys(tool.choose(loaded, 9, "house", False)) == ["clip1", "clip2"]
    assert keys(tool.choose(loaded, 9, None, True)) == ["clip0"]
    assert len(tool.choose(loaded, 2, None, False)) == 2
    with pytest.raises(ValueError, match="no clip matches"):
        tool.choose(loaded, 9, "absent", False)


def test_only_the_flow_that_made_the_masks_shows_their_video(shards: Path, flow_path: Path) -> None:
    from cclslr.masking.flow import load_flow

    loaded = ShardSet([str(shards)])
    assert load_matching_flow(loaded, load_flow(flow_path)) is not None
    assert load_matching_flow(loaded, Flow(flow_config("tiny", 32))) is None


def test_an_empty_page_is_still_a_page(shards: Path) -> None:
    info = ShardSet([str(shards)]).info
    text = page("x <y>", summarise(info), [], 4)
    assert "x &lt;y&gt;" in text
    assert summarise({**info, "masks": None}).endswith("No masks.")
