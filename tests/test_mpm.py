"""Motion-preserving masking: one pure function of a clip's frames."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cclslr.masking.architecture import flow_config
from cclslr.masking.flow import Flow, FlowCard
from cclslr.masking.methods import MpmOptions, methods, motion_alone, motion_mask
from cclslr.masking.mpm import (
    decode_zero,
    flow_masks,
    motion_videos,
    otsu,
    resize,
    select_latents,
    to_unit,
)
from cclslr.masking.options import add_arguments, mask_settings


@pytest.fixture(scope="module")
def flow() -> Flow:
    """A flow whose steps are set to unit variance on random frames: linear, but a flow."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    flow = Flow(flow_config("tiny", 32), FlowCard("trained"))
    flow.normalise_to(0.5 + 0.1 * torch.randn(64, 3, 32, 32))
    return flow.requires_grad_(False).eval()


def moving_square(frames: int = 12, size: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A bright square that crosses a gray textured frame: uint8 (T, H, W, 3), and where it is (T, H, W)."""
    rng = np.random.default_rng(seed)
    background = rng.integers(100, 130, (size, size, 3)).astype(np.uint8)
    clip = np.repeat(background[None], frames, 0)
    where = np.zeros((frames, size, size), bool)
    for t in range(frames):
        x = 4 + t * 3
        where[t, 20:34, x : x + 14] = True
    clip[where] = 240
    return clip, where


def otsu_by_hand(values: np.ndarray, high: float) -> float:
    """Textbook Otsu, by trying every edge."""
    bins = np.minimum((values * 256 / high).astype(int), 255)
    best, best_edge = -1.0, 0
    for edge in range(1, 256):
        below, above = bins[bins < edge], bins[bins >= edge]
        if len(below) and len(above):
            variance = len(below) * len(above) * (below.mean() - above.mean()) ** 2
            if variance > best * (1 + 1e-9):
                best, best_edge = variance, edge
    return high * best_edge / 256


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 0.95), high=st.floats(0.1, 3.0))
def test_otsu_is_the_textbook_threshold(seed: int, share: float, high: float) -> None:
    rng = np.random.default_rng(seed)
    values = np.where(rng.random(800) < share, rng.normal(0.3, 0.08, 800), rng.normal(0.7, 0.1, 800)).clip(0, 0.999)
    values = (values * high).astype(np.float32)
    assert otsu(torch.from_numpy(values), 0.0, high) == pytest.approx(otsu_by_hand(values, high), abs=1.5 * high / 256)


def test_select_latents_by_deviation() -> None:
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(9, 400)) * np.linspace(0, 2, 400)
    sigma = latents.std(0, ddof=1)
    z = torch.from_numpy(latents).float()
    high, _ = select_latents(z, motion_alone())
    low, _ = select_latents(z, motion_alone(keep="low"))
    assert (high.numpy() == (sigma >= 0.5)).all()
    assert (low.numpy() == (sigma < 0.5)).all()
    top, _ = select_latents(z, MpmOptions(threshold="quantile", p=0.75))
    assert abs(int(top.sum()) - 100) <= 1
    assert sigma[top.numpy()].min() > sigma[~top.numpy()].max()


def test_the_motion_preserving_video_keeps_moving_latents_alone(flow: Flow) -> None:
    clip, _ = moving_square()
    options = MpmOptions(threshold="quantile", p=0.6)
    (video,), (keep,), (reason,) = motion_videos([resize(clip, 32)], options, flow, frames_per_pass=5)
    assert reason is None
    latents = flow.encode(to_unit(resize(clip, 32)))[0]
    again = flow.encode(video)[0]
    assert torch.allclose(again[:, keep], latents[:, keep], atol=1e-3)
    assert again[:, ~keep].abs().max() < 1e-3


@pytest.mark.parametrize(
    "options",
    [
        motion_alone(),
        motion_alone(binarize="decoded_motion"),
        motion_alone(binarize="decoded_difference"),
        MpmOptions(method="temporal_std"),
    ],
)
def test_a_moving_square_is_kept_and_the_rest_is_hidden(flow: Flow, options: MpmOptions) -> None:
    clip, where = moving_square()
    mask, report = motion_mask(clip, options, flow)
    assert mask.dtype == np.uint8
    assert mask.shape == (12, 64, 64)
    assert set(np.unique(mask)) == {0, 1}
    swept = where.any(0)
    assert report.degenerate is None
    assert (mask.astype(bool) & where).sum() / where.sum() > 0.9
    assert (mask.astype(bool) & swept).sum() / mask.sum() > 0.6
    assert report.share_kept == pytest.approx(mask.mean())


def test_each_map_is_what_its_name_says(flow: Flow) -> None:
    """Against plain NumPy on the motion-preserving video, in its own resolution."""
    clip, _ = moving_square(size=32)
    (video,), _, _ = motion_videos([resize(clip, 32)], motion_alone(), flow)
    colours = video.clamp(0, 1).numpy().transpose(0, 2, 3, 1).astype(np.float64)
    still = decode_zero(flow).clamp(0, 1)[0].numpy().transpose(1, 2, 0).astype(np.float64)
    gray = np.array([0.299, 0.587, 0.114])
    motion = np.sqrt(((colours - colours.mean(0)) ** 2).sum(-1))
    maps = {
        "decoded_motion": motion,
        "decoded_difference": np.abs(colours @ gray - still @ gray),
        "decoded_deviation": np.repeat(np.sqrt((motion**2).mean(0))[None], len(clip), 0),
    }
    for name, expected in maps.items():
        mask, _ = motion_mask(clip, MpmOptions(binarize=name), flow)
        small = mask.reshape(len(clip), 32, 2, 32, 2).mean((2, 4))
        inside, outside = expected[small == 1], expected[small == 0]
        order = (inside[:, None] > outside[None, ::7]).mean()
        assert order > 0.97, name  # the blur alone disturbs the order


def test_eq_5_to_the_letter_keeps_the_complement(flow: Flow) -> None:
    clip, _ = moving_square()
    high = motion_mask(clip, motion_alone(), flow)[1].share_latents_masked
    low = motion_mask(clip, motion_alone(keep="low"), flow)[1].share_latents_masked
    assert high is not None
    assert low is not None
    assert 0 < high < 1
    assert high + low == pytest.approx(1.0)


def test_gray_otsu_thresholds_the_decoded_video(flow: Flow) -> None:
    clip, where = moving_square()
    options = motion_alone(binarize="gray_otsu")
    mask, report = motion_mask(clip, options, flow)
    assert report.degenerate is None
    (video,), _, _ = motion_videos([resize(clip, 32)], options, flow)
    gray = torch.einsum("tchw,c->thw", video.clamp(0, 1), torch.tensor([0.299, 0.587, 0.114]))
    kept = torch.nn.functional.avg_pool2d(torch.from_numpy(mask).float(), 2)
    assert gray[kept == 1].min() > gray[kept == 0].max() - 0.1
    assert mask[where].mean() > 0.9  # the square is the brightest thing there is


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda clip: clip[:1], "single frame"),
        (lambda clip: np.repeat(clip[:1], 8, 0), "everything static"),
        (lambda clip: np.random.default_rng(0).integers(0, 256, clip.shape).astype(np.uint8), "nothing static"),
    ],
)
def test_degenerate_clips_keep_everything(flow: Flow, make: object, reason: str) -> None:
    clip = make(moving_square()[0])  # type: ignore[operator]
    mask, report = motion_mask(clip, motion_alone(p=0.1), flow)
    assert report.degenerate == reason
    assert mask.shape == (len(clip), 64, 64)
    assert mask.all()
    assert report.share_kept == 1.0


def test_untrained_and_broken_flows_keep_everything(flow: Flow) -> None:
    clip, _ = moving_square()
    mask, report = motion_mask(clip, motion_alone(threshold="quantile"), Flow(flow_config("tiny", 32)).eval())
    assert report.degenerate == "untrained flow"
    assert mask.all()
    broken = Flow(flow_config("tiny", 32), FlowCard("trained"))
    broken.load_state_dict(
        {k: v * torch.nan if k.endswith("global_scale") else v for k, v in flow.state_dict().items()}
    )
    mask, report = motion_mask(clip, motion_alone(), broken.eval())
    assert report.degenerate == "non-finite latents"
    assert mask.all()


def test_still_clips_keep_everything_without_a_flow() -> None:
    clip = np.repeat(moving_square()[0][:1], 8, 0)
    mask, report = motion_mask(clip, MpmOptions(method="temporal_std"))
    assert report.degenerate == "no motion"
    assert mask.all()


def test_pose_discs_cover_confident_hands_and_faces() -> None:
    keypoints = np.zeros((3, 133, 3), np.float32)
    keypoints[0, 95] = (40, 20, 0.9)  # a finger of the left hand
    keypoints[0, 30] = (10, 10, 0.9)  # the face
    keypoints[1, 95] = (40, 20, 0.2)  # not confident
    keypoints[2, 9] = (40, 20, 0.9)  # a wrist of the body: no hand
    mask, report = motion_mask(
        np.zeros((3, 64, 128, 3), np.uint8), MpmOptions(method="pose_discs", radius=0.1), None, keypoints
    )
    y, x = np.mgrid[:64, :64]
    x, y = (x + 0.5) * 2 - 0.5, y.astype(float)
    inside = ((x - 40) ** 2 + (y - 20) ** 2 <= 12.8**2) | ((x - 10) ** 2 + (y - 10) ** 2 <= 12.8**2)
    assert (mask[0].astype(bool) == inside).all()
    assert mask[1:].all()  # nothing is known: nothing is hidden
    assert report.degenerate is None
    nothing, report = motion_mask(
        np.zeros((1, 64, 64, 3), np.uint8), MpmOptions(method="pose_discs"), None, keypoints[1:2]
    )
    assert nothing.all()
    assert report.degenerate == "no confident keypoints"


@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), frames_per_pass=st.integers(1, 20))
def test_clips_together_give_the_masks_of_each_alone(flow: Flow, lengths: list[int], frames_per_pass: int) -> None:
    clips = [moving_square(12, seed=seed)[0][:length] for seed, length in enumerate(lengths)]
    together = flow_masks([resize(clip, 32) for clip in clips], motion_alone(), flow, frames_per_pass)
    for clip, (mask, report) in zip(clips, together):
        alone, report_alone = motion_mask(clip, motion_alone(), flow)
        assert (mask != alone).mean() < 1e-3  # sums are taken in another order
        assert report.degenerate == report_alone.degenerate


def test_masks_are_a_pure_function(flow: Flow) -> None:
    clip, _ = moving_square()
    copy = clip.copy()
    first, _ = motion_mask(clip, motion_alone(), flow)
    second, _ = motion_mask(clip, motion_alone(), flow)
    assert (clip == copy).all()
    assert (first == second).all()
    mirrored, _ = motion_mask(clip[:, :, ::-1], MpmOptions(method="temporal_std"), flow)
    assert (mirrored[:, :, ::-1] == motion_mask(clip, MpmOptions(method="temporal_std"), flow)[0]).mean() > 0.999


def test_decode_zero_is_the_frame_of_no_latents(flow: Flow) -> None:
    assert flow.encode(decode_zero(flow))[0].abs().max() < 1e-4


@pytest.mark.parametrize(
    "wrong",
    [{"method": "optical"}, {"keep": "mid"}, {"p": 0.0}, {"threshold": "quantile", "p": 1.0}, {"binarize": "x"}],
)
def test_wrong_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="mask option"):
        MpmOptions(**wrong)  # type: ignore[arg-type]


def test_missing_flow_or_keypoints_are_named() -> None:
    clip, _ = moving_square()
    with pytest.raises(ValueError, match=r"cclslr flow"):
        motion_mask(clip, motion_alone())
    with pytest.raises(ValueError, match="keypoints"):
        motion_mask(clip, MpmOptions(method="pose_discs"))


def test_a_file_is_all_that_a_method_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that is put into the package is an option of the command, and makes masks."""
    from cclslr.masking import methods as package

    (tmp_path / "everything.py").write_text(
        """
import numpy as np
from cclslr.masking.methods.base import MaskMethod, MpmReport

def prepare(frames_THWC, keypoints_TKC, options, flow):
    return np.ones((len(frames_THWC), 64, 64), np.uint8), MpmReport(1.0, None, None)

METHOD = MaskMethod("everything", "keeps all", prepare)
"""
    )
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    chosen = mask_settings(parser.parse_args(["--method", "everything"]), torch.device("cpu"))
    assert "everything: keeps all" in parser.format_help().replace("\n", " ")
    assert chosen.describe()["flow"] is None
    clip, _ = moving_square()
    assert motion_mask(clip, chosen.options)[0].all()
    sys.modules.pop("cclslr.masking.methods.everything")
    assert "everything" not in {name for name, method in methods().items() if method.needs_flow}
