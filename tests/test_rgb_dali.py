"""DALI's views against the slow reference, for every codec and decoder; and what happens to clips that don't decode."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import rgb_reference as slow

from cclslr.codecs import codec_named, codecs
from cclslr.config import ViewConfig
from cclslr.data.backend import BadVideo, EncodedClip
from cclslr.data.batch import ViewParams
from cclslr.data.dali_graphs import clip_graph, frame_graph
from cclslr.data.rgb_dali import DaliBackend, Gather
from cclslr.data.views import draw_views, eval_views

SIZE, FRAMES = 40, 6
CODECS = [(name, "dali") for name, codec in codecs().items() if codec.dali_cpu] + [(name, "libav") for name in codecs()]
CFG = ViewConfig(rgb_frames=FRAMES, pose_frames=FRAMES, size=SIZE, mask_alpha=0.5)


@cache
def _clips(codec: str, num: int = 4, sizes: tuple[tuple[int, int], ...] = ((96, 64), (64, 80))) -> list[EncodedClip]:
    clips = []
    for b in range(num):
        frames = slow.smooth_frames(9 + b, *sizes[b % len(sizes)], seed=b)
        masks = None if b == 3 else slow.checker_masks(frames, None)  # the last has none: it is shown whole
        clips.append(slow.encoded(frames, codec, masks, name=f"clip {b}"))
    return clips


def _draw(clips: list[EncodedClip], epoch: int = 0, cfg: ViewConfig = CFG) -> ViewParams:
    num_frames = np.array([clip.num_frames for clip in clips])
    sizes = np.array([(clip.width, clip.height) for clip in clips])
    return draw_views(cfg, 0, epoch, np.arange(len(clips)), num_frames, sizes)


def _backend(codec: str, decode: str = "auto", clips: int = 4, **options: int) -> DaliBackend:
    return DaliBackend(codec_named(codec), SIZE, FRAMES, clips, decode=decode, **options)


@pytest.mark.parametrize(("codec", "decode"), CODECS)
def test_agrees_with_the_reference(codec: str, decode: str) -> None:
    clips = _clips(codec)
    backend = _backend(codec, decode)
    try:
        for epoch in range(1, 3):
            params = _draw(clips, epoch)
            assert params.masked_VB.any()
            assert params.flip_VB.any()
            assert not params.flip_VB.all()
            backend.submit(clips, params)
            rgb = backend.result().numpy()
            expected = slow.views(clips, params, SIZE, exact=(codec, decode) == ("vp9", "dali"))
            assert rgb.shape == (2, 4, FRAMES, SIZE, SIZE, 3)
            assert rgb.dtype == np.uint8
            difference = np.abs(rgb - expected)
            assert difference.max() <= 2.7  # rounded to uint8 before the colour matrix, which has a gain, and after
            assert difference.mean() < 0.6
    finally:
        backend.close()


def test_frames_in_one_array_give_the_same_views() -> None:
    """As a GPU gets them; here without page-locked memory."""
    clips = _clips("h264", sizes=((96, 64),))
    draws = [_draw(clips, epoch) for epoch in range(4)]
    results = []
    for gather in (None, Gather(pinned=False)):
        backend = _backend("h264", depth=2)
        backend._gather = gather
        for params in draws[:2]:
            backend.submit(clips, params)
        views = []
        for i in range(4):
            views.append(backend.result().clone())
            if i + 2 < 4:
                backend.submit(clips, draws[i + 2])
        backend.close()
        results.append(views)
    for mine, expected in zip(*results, strict=True):
        assert (mine == expected).all()


def test_masks_hide_exactly_what_the_reference_hides() -> None:
    clips = _clips("jpeg")
    params = dataclasses.replace(_draw(clips), masked_VB=np.ones((2, 4), bool))
    params.colour_VB34[:] = 0
    params.colour_VB34[..., 3] = 200  # everything is 200 but for the mask
    backend = _backend("jpeg")
    backend.submit(clips, params)
    rgb = backend.result().numpy()
    backend.close()
    expected = slow.views(clips, params, SIZE)
    assert set(np.unique(expected[:, :3])) == {0, 200}
    assert (expected[:, 3] == 200).all()  # has no masks
    assert (rgb != expected).mean() < 2e-4  # a view's pixel may fall on the border of two of the mask's


@pytest.mark.parametrize("codec", ["jpeg", "vp9", "h264"])
def test_evaluation_view(codec: str) -> None:
    clips = _clips(codec, num=2)
    sizes = np.array([(clip.width, clip.height) for clip in clips])
    params = eval_views(CFG, np.array([clip.num_frames for clip in clips]), sizes)
    backend = _backend(codec, clips=3, views=1)  # the last batch may be smaller than the others
    backend.submit(clips, params)
    rgb = backend.result().numpy()
    backend.close()
    assert rgb.shape == (1, 2, FRAMES, SIZE, SIZE, 3)
    assert np.abs(rgb - slow.views(clips, params, SIZE, exact=codec == "vp9")).max() <= 2.7


@pytest.mark.parametrize("codec", ["jpeg", "vp9", "h264"])
def test_batches_in_flight_keep_their_order_and_their_memory(codec: str) -> None:
    clips = _clips(codec)
    draws = [_draw(clips, epoch) for epoch in range(6)]
    alone = []
    for params in draws:
        backend = _backend(codec)
        backend.submit(clips, params)
        alone.append(backend.result().clone())
        backend.close()
    backend = _backend(codec, depth=3)
    kept = []
    for params in draws[:3]:
        backend.submit(clips, params)
    for i in range(6):
        kept.append(backend.result())
        if i + 3 < 6:
            backend.submit(clips, draws[i + 3])
    backend.close()
    for mine, expected in zip(kept, alone, strict=True):  # none was overwritten by a later one
        assert (mine == expected).all()


@pytest.mark.parametrize(("codec", "decode"), CODECS)
def test_clips_that_do_not_decode_are_named(codec: str, decode: str) -> None:
    good = _clips(codec)
    bad = list(good)
    bad[1] = dataclasses.replace(good[1], video=bytes(len(good[1].video)))
    bad[2] = dataclasses.replace(good[2], video=b"\xff" * len(good[2].video))
    backend = _backend(codec, decode)
    try:
        backend.submit(bad, _draw(bad))
        backend.submit(good, _draw(good))
        with pytest.raises(BadVideo) as caught:
            backend.result()
        assert sorted(caught.value.reasons) == [1, 2]
        assert "clip 1" in caught.value.reasons[1]
        assert codec in caught.value.reasons[1]
        backend.submit(good, _draw(good))  # all was dropped; it goes on
        assert np.abs(backend.result().numpy() - slow.views(good, _draw(good), SIZE)).mean() < 4
    finally:
        backend.close()


@pytest.mark.parametrize(("codec", "decode"), [("vp9", "dali"), ("h264", "libav")])
def test_a_video_that_is_shorter_than_its_index_says(codec: str, decode: str) -> None:
    clips = _clips(codec, num=2)
    longer = [clips[0], dataclasses.replace(clips[1], num_frames=30)]
    backend = _backend(codec, decode)
    backend.submit(longer, _draw(longer))
    with pytest.raises(BadVideo) as caught:
        backend.result()
    backend.close()
    assert list(caught.value.reasons) == [1]


@pytest.mark.parametrize("codec", [name for name, codec in codecs().items() if not codec.dali_cpu])
def test_no_decoder_on_the_cpu(codec: str) -> None:
    with pytest.raises(ValueError, match=r"data\.decode=libav"):
        _backend(codec, decode="dali")


@pytest.mark.parametrize(("codec", "decode"), CODECS)
def test_frames_of_another_size_than_the_index_says(codec: str, decode: str) -> None:
    clips = _clips(codec, num=3)
    wrong = [clips[0], dataclasses.replace(clips[1], width=clips[1].width + 32), clips[2]]
    backend = _backend(codec, decode)
    backend.submit(wrong, _draw(wrong))
    with pytest.raises(BadVideo, match="expected") as caught:
        backend.result()
    backend.close()
    assert list(caught.value.reasons) == [1]


def test_an_error_of_the_gpu_is_no_clips_fault() -> None:
    clips = _clips("jpeg")
    backend = _backend("jpeg")

    class Broken:
        def outputs(self) -> None:
            raise RuntimeError("CUDA runtime API error cudaErrorIllegalAddress (700)")

    backend.submit(clips, _draw(clips))
    backend._pipeline = Broken()  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="cudaErrorIllegalAddress") as caught:
        backend.result()
    assert not isinstance(caught.value, BadVideo)
    backend.close()


@pytest.mark.parametrize("codec", codecs())
def test_the_table_says_what_dali_decodes_on_a_cpu(codec: str) -> None:
    from nvidia.dali import fn, pipeline_def

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def graph():
        decode = fn.decoders.image if codec_named(codec).alone else fn.decoders.video
        return decode(fn.external_source(name="video", no_copy=True), device="cpu")

    clip = _clips(codec)[0]
    data = clip.video[: clip.frame_offsets[1]] if clip.frame_offsets else clip.video
    pipeline = graph()
    pipeline.build()
    pipeline.feed_input("video", [np.frombuffer(data, np.uint8)])
    if codec_named(codec).dali_cpu:
        pipeline.run()
    else:
        with pytest.raises(RuntimeError, match="Failed to create video decoder"):
            pipeline.run()


def test_on_a_gpu() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    for codec in codecs():
        clips = _clips(codec, sizes=((192, 160),))
        params = _draw(clips)
        backend = _backend(codec, device="gpu")
        backend.submit(clips, params)
        exact = not codec_named(codec).alone  # NVDEC's frames are converted without libswscale's short cuts
        difference = np.abs(backend.result().cpu().numpy() - slow.views(clips, params, SIZE, exact))
        backend.close()
        assert difference.max() <= 4
        assert difference.mean() < 1.5


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("graph", [frame_graph, clip_graph], ids=["frames", "clips"])
def test_the_graphs_of_a_gpu_can_be_written_down_without_one(graph: Callable[..., Any], decode: bool) -> None:
    """Every operator takes its inputs where they are: as far as DALI goes without a driver."""
    if graph is clip_graph and not decode:
        pytest.skip("clips are decoded by DALI alone")
    options = {"views": 2} if graph is clip_graph else {}
    settings = {"batch_size": 4, "num_threads": 1, "device_id": None, "exec_dynamic": True, "enable_conditionals": True}
    written = {
        device: graph(decode=decode, device=device, size=SIZE, **options, **settings).serialize()
        for device in ("cpu", "gpu")
    }
    assert written["cpu"].count(b"mixed") == 0
    assert written["cpu"].count(b"gpu") == 0
    assert written["gpu"].count(b"mixed") == int(decode)  # nvJPEG or NVDEC
    for operator in (b"Resize", b"CoordTransform"):  # there, as many times as on a CPU
        assert written["gpu"].count(operator) == written["cpu"].count(operator) > 0
    assert written["gpu"].count(b"gpu") > 20
