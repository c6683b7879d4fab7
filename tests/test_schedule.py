"""Phases: where steps lie when clips a step change, what a step is at which epoch, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cclslr.config import FinetuneConfig, PhaseConfig, PretrainConfig, load_config, to_dict
from cclslr.data.plan import Plan
from cclslr.data.views import draw_views
from cclslr.errors import UserError
from cclslr.keys import show
from cclslr.schedule import ByEpoch, Timeline, longest, phases, pixels_of_a_clip
from cclslr.train import at_epoch, check
from cclslr.training.optimise import learning_rate

CONFIGS = Path(__file__).parents[1] / "configs"
FIRST = "{from_epoch: 0, size: 32, rgb_frames: 2, batch: 16, lr: 0.5}"
PHASES = f"schedule=[{FIRST}, {{from_epoch: 2, batch: 4}}, {{from_epoch: 5}}]"


@st.composite
def timelines(draw: st.DrawFn) -> Timeline:
    """Epochs of up to 60 clips, in up to four phases."""
    clips = draw(st.integers(1, 60))
    begins = sorted({0, *draw(st.lists(st.integers(1, 12), max_size=3))})
    return Timeline(clips, ByEpoch(tuple((begin, draw(st.integers(1, clips))) for begin in begins)))


@settings(deadline=None, max_examples=200)
@given(timelines(), st.integers(1, 16))
def test_steps_are_counted_as_if_one_by_one(timeline: Timeline, epochs: int) -> None:
    """Against a loop over epochs: where each step lies, how many there are, what they add up to."""
    each, epoch_itself = ByEpoch(((0, 1.0),)), ByEpoch(tuple((epoch, float(epoch)) for epoch in range(epochs)))
    step, clips, sums = 0, 0, 0.0
    for epoch in range(epochs):
        batch = timeline.batch.at(epoch)
        assert timeline.first_step(epoch) == step
        assert timeline.steps_in(epoch) == timeline.clips // batch >= 1
        for number in range(timeline.clips // batch):
            assert timeline.place(step) == (epoch, number)
            assert timeline.epochs(step) == pytest.approx(epoch + number / (timeline.clips // batch), abs=1e-12)
            assert int(timeline.epochs(step)) == epoch
            assert timeline.total(step, each) == clips
            assert timeline.total(step, epoch_itself) == pytest.approx(sums)
            step, clips, sums = step + 1, clips + batch, sums + batch * epoch
    assert timeline.first_step(epochs) == step


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 500), st.integers(1, 50), st.lists(st.integers(1, 30), max_size=3), st.integers(0, 10**6))
def test_borders_that_change_no_batch_change_no_rounding(clips: int, batch: int, begins: list[int], step: int) -> None:
    """The learning rate of a run with such borders is bit for bit that of a run without."""
    if batch > clips:
        return
    several = Timeline(clips, ByEpoch(tuple((begin, batch) for begin in sorted({0, *begins}))))
    assert several.epochs(step) == step / (clips // batch)
    assert several.place(step) == divmod(step, clips // batch)


@settings(deadline=None, max_examples=50)
@given(timelines(), st.integers(0, 15), st.integers(0, 2**31), st.sampled_from(("sorted", "network")))
def test_the_order_of_an_epoch_does_not_depend_on_how_it_is_cut(
    timeline: Timeline, epoch: int, seed: int, order: str
) -> None:
    plan = Plan(timeline.clips, timeline.batch, seed, order=order)
    steps = [plan.slots(epoch, step) for step in range(timeline.steps_in(epoch))]
    ours = [clip for slots in steps for clip in slots.clip_ids_B.tolist()]
    whole = Plan(timeline.clips, 1, seed, order=order)
    theirs = [int(whole.batch(epoch, step)[0]) for step in range(timeline.clips)]
    assert ours == theirs[: len(ours)]
    assert len(ours) == plan.clips_in(epoch) > timeline.clips - timeline.batch.at(epoch)
    with pytest.raises(UserError, match=f"of epoch {epoch}"):
        plan.slots(epoch, timeline.steps_in(epoch))


def test_what_is_drawn_for_a_view_does_not_depend_on_its_size_or_frames() -> None:
    """Crop, flip, colour, mask and what befalls the pose are those of the clip in its epoch, whatever the phase."""
    cfg = load_config(PretrainConfig, None, [PHASES])
    keys_B, frames_B, sizes_B2 = np.arange(5), np.full(5, 40), np.full((5, 2), 64)
    small, full = (draw_views(at_epoch(cfg, epoch).views, 3, 7, keys_B, frames_B, sizes_B2) for epoch in (0, 5))
    assert small.rgb_index_VBT.shape == (2, 5, 2)
    assert full.rgb_index_VBT.shape == (2, 5, 32)
    for name, drawn in vars(full).items():
        if name != "rgb_index_VBT":
            np.testing.assert_array_equal(vars(small)[name], drawn, name)


def test_a_phase_sets_what_it_names_and_leaves_the_rest() -> None:
    cfg = load_config(PretrainConfig, None, [PHASES, "optim.milestones=[1, 4]", "optim.epochs=8"])
    told = [(at_epoch(cfg, epoch).views, at_epoch(cfg, epoch).optim) for epoch in (0, 1.99, 2, 5, 7.5)]
    assert [(views.size, views.rgb_frames, views.pose_frames) for views, _ in told] == [
        (32, 2, 64), (32, 2, 64), (224, 32, 64), (224, 32, 64), (224, 32, 64),
    ]  # fmt: skip
    assert [(optim.batch, optim.micro_batch) for _, optim in told] == [(16, 8), (16, 8), (4, 8), (64, 8), (64, 8)]
    rates = [learning_rate(optim, epoch) for (_, optim), epoch in zip(told, (0, 1.99, 2, 5, 7.5), strict=True)]
    assert rates == pytest.approx([0.5, 0.05, 0.001, 0.0001, 0.0001])  # milestones go on above the phases
    assert [(p.number, p.first_epoch, p.end_epoch) for p in phases(cfg)] == [(1, 0, 2), (2, 2, 5), (3, 5, 8)]
    assert longest(cfg).number == 2
    assert pixels_of_a_clip(phases(cfg)[0].cfg) == 2 * 32 * 32
    assert cfg.views.size == 224  # what is evaluated


def test_without_a_schedule_there_is_one_phase_of_the_config_itself() -> None:
    for cfg in (PretrainConfig(), FinetuneConfig()):
        (phase,) = phases(cfg)
        assert phase.cfg is cfg
        assert (phase.first_epoch, phase.end_epoch) == (0, cfg.optim.epochs)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("[{from_epoch: 1}]", r"schedule\[0\].from_epoch is 1; the first phase begins at epoch 0"),
        ("[{}, {from_epoch: 3}, {from_epoch: 3}]", r"schedule\[2\].from_epoch is 3; it must be above 3"),
        ("[{}, {from_epoch: 140}]", r"schedule\[1\].from_epoch is 140, but the run ends after optim.epochs=140"),
        ("[{}, {from_epoch: 3, batch: 12}]", "optim.batch=12 does not split into 2 rank"),
        ("[{}, {from_epoch: 3, batch: 20000, micro_batch: 8}]", "smaller than optim.batch=20000"),
        ("[{}, {from_epoch: 3, size: 30}]", "views of 30 pixels .* data.backend=numba needs a multiple of 4"),
        ("[{sise: 30}]", r"unknown config key 'schedule\[0\].sise'; did you mean 'schedule\[0\].size'"),
        ("[{}, {size: 0}]", r"schedule\[1\].size is 0; it must be at least 1"),
        ("[{lr: nan}]", r"schedule\[0\].lr is nan; it must be finite"),
        ("[{lr: fast}]", "could not be converted to Float"),
        ("[3]", r"schedule\[0\] is 3; write keys and values"),
        ("3", r"schedule\[0\] is 3; write keys and values"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_with_its_place(schedule: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(load_config(PretrainConfig, None, ["data.backend=numba", f"schedule={schedule}"]), world=2)


def test_every_backend_says_which_sizes_it_makes() -> None:
    for backend, good in (("dali", True), ("auto", True), ("ffcv", False), ("numba", False)):
        cfg = load_config(PretrainConfig, None, [f"data.backend={backend}", "schedule=[{size: 30}]"])
        if good:
            check(cfg, world=1)
            continue
        with pytest.raises(UserError, match=f"data.backend={backend} needs a multiple of 4"):
            check(cfg, world=1)


def test_a_schedule_is_read_written_and_shown() -> None:
    cfg = load_config(PretrainConfig, None, [PHASES])
    assert cfg.schedule[1] == PhaseConfig(from_epoch=2, batch=4)
    assert load_config(PretrainConfig, None, [], stored=to_dict(cfg)) == cfg
    shown = show(to_dict(cfg)["schedule"])
    assert load_config(PretrainConfig, None, [f"schedule={shown}"]) == cfg
    assert load_config(PretrainConfig, None, ["schedule=[]"], stored=to_dict(cfg)) == PretrainConfig()
    before = to_dict(PretrainConfig())
    del before["schedule"]  # as checkpoints were before there were phases
    assert load_config(PretrainConfig, None, [], stored=before) == PretrainConfig()


def test_the_progressive_recipe_is_the_papers_but_for_its_phases() -> None:
    paper = load_config(PretrainConfig, CONFIGS / "pretrain.yaml", [])
    ours = load_config(PretrainConfig, CONFIGS / "pretrain_progressive.yaml", [])
    same = ["schedule=[]", "optim.milestones=[100]", "run.dir=runs/pretrain"]
    assert load_config(PretrainConfig, CONFIGS / "pretrain_progressive.yaml", same) == paper
    assert phases(ours)[-1].cfg.views == paper.views
    assert phases(ours)[-1].cfg.optim.batch == paper.optim.batch
    check(ours, world=8)
    check(ours, world=1)
