"""The plain reference step gives the losses of the fast one, and every way to time a step leaves the losses alone."""

from __future__ import annotations

import json

import pytest
import torch
from small_runs import tiny_shards

from cclslr import train
from cclslr.bench import plain, pretrain, sweep
from cclslr.bench.machine import matrix_peak
from cclslr.commands.bench import train as bench_train
from cclslr.config import PretrainConfig, load_config
from cclslr.data.batch import Batch
from cclslr.data.plan import Plan
from cclslr.distributed import Process
from cclslr.models.flops import flops_per_clip
from cclslr.shards.reader import ShardSet

ALONE = Process(0, 1, torch.device("cpu"))
TINY = [
    "model.rgb=r3d10_narrow",
    "model.gcn_width=16",
    "model.transformer_blocks=1",
    "model.transformer_heads=2",
    "model.transformer_width=16",
    "model.embedding=8",
    "views.rgb_frames=16",
    "views.size=32",
    "views.pose_frames=8",
    "objective.bank_size=12",
    "objective.momentum=0.9",
    "objective.k=2",
    "optim.batch=8",
    "optim.micro_batch=4",
    "run.device=cpu",
]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(*overrides: str) -> PretrainConfig:
    return load_config(PretrainConfig, None, [*TINY, *overrides])


def batches(cfg: PretrainConfig, number: int) -> list[Batch]:
    """Batches that differ, over a few clips that come again."""
    result = []
    for index in range(number):
        batch = pretrain.random_batch(cfg, Process(index, 1, torch.device("cpu")))
        batch.clip_ids_B = (torch.arange(cfg.optim.batch) + 3 * index) % 10
        result.append(batch)
    return result


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["objective.mine_from=f", "objective.exclude_same_clip=true", "objective.shuffle_bn=false"],
        ["model.modalities=[pose]"],
        ["model.modalities=[rgb]", "objective.spm=false"],
        ["objective.cross=false", "model.pool=mean"],
    ],
)
def test_the_plain_step_has_the_same_losses(overrides):
    cfg = tiny(*overrides)
    fast = train.build_learner(cfg, ALONE)
    slow = plain.build_plain_learner(cfg, ALONE.device, fast.amp.dtype)
    for branches in (fast.query, fast.key, slow.query, slow.key):
        branches.double()  # small BatchNorm groups amplify rounding
    for state in fast.optimizer.state.values():
        state["momentum_buffer"] = state["momentum_buffer"].double()
    for step, batch in enumerate(batches(cfg, 3)):  # the banks fill in the second one and wrap around
        if batch.pose_VBTJC is not None:
            batch.pose_VBTJC = batch.pose_VBTJC.double()
        wanted = plain.plain_step(slow, batch, step, cfg)
        got = train.pretrain_step(fast, batch, step, cfg, ALONE)
        assert list(got) == list(wanted)
        for name in got:
            assert got[name].item() == pytest.approx(wanted[name].item(), rel=1e-4, abs=1e-4), name
    torch.testing.assert_close(fast.banks.clip_ids, slow.bank_ids_N)


def test_the_plain_momentum_update_is_equation_2():
    key, query = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    wanted = 0.75 * key.weight + 0.25 * query.weight
    plain.plain_momentum_update(key, query, 0.75)
    torch.testing.assert_close(key.weight, wanted)


@pytest.mark.parametrize("trick", pretrain.TRICKS, ids=lambda trick: trick.name)
def test_flipping_a_trick_changes_the_speed_and_not_the_loss(trick):
    cfg = tiny()
    if not trick.applies(cfg, ALONE) or trick.default is False:
        pytest.skip("needs a GPU or several ranks, or a compiler")
    flipped: list[dict[str, torch.Tensor]] = []
    step, batch = train.pretrain_step, pretrain.random_batch(cfg, ALONE)

    def recorded(*arguments):
        flipped.append(step(*arguments))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "pretrain_step", recorded)
        pretrain.Flipped(trick, cfg, ALONE, batch).block(1, 1)
    assert train.pretrain_step is step
    learner = train.build_learner(cfg, ALONE)
    usual = [step(learner, batch, number, cfg, ALONE) for number in range(2)]
    assert len(flipped) == 2
    for name in usual[1]:  # the banks are not empty in the second step
        torch.testing.assert_close(usual[1][name], flipped[1][name], rtol=1e-3, atol=1e-3)


def test_samples_are_summed_up_over_all_ranks():
    samples = [pretrain.Sample(seconds, {"fetch": 0.1 * seconds, "decode": 0.0}) for seconds in (2.0, 4.0, 1.0)]
    result = pretrain.summary(samples, batch=8)
    assert result["clips_per_second"] == 4.0
    assert (result["min"], result["max"], result["n"]) == (2.0, 8.0, 3)
    assert result["step_ms"] == 2000
    assert result["wait_fetch_ms"] == pytest.approx(200)
    assert result["waiting_share"] == pytest.approx(0.1)


def test_the_worth_of_a_trick_is_a_ratio_of_neighbours():
    usual, flipped = [pretrain.Sample(1.0), pretrain.Sample(2.0)], [pretrain.Sample(3.0), pretrain.Sample(4.0)]
    on = pretrain.worth(pretrain.TRICKS[0], flipped, usual, 8)
    assert (on["speed_up"], on["min"], on["max"]) == (2.5, 2.0, 3.0)
    compiled = next(trick for trick in pretrain.TRICKS if trick.name == "compile")
    off = pretrain.worth(compiled, flipped, usual, 8)
    assert off["max"] == 0.5
    assert off["on_clips_per_second"] == pytest.approx((8 / 3 + 8 / 4) / 2)


def test_blocks_take_turns():
    order = []

    class Recorder:
        def __init__(self, name: str) -> None:
            self.name = name

        def block(self, warmup: int, steps: int) -> pretrain.Sample:
            order.append((self.name, warmup, steps))
            return pretrain.Sample(1.0)

    samples = pretrain.take_turns({"a": Recorder("a"), "b": Recorder("b")}, warmup=1, steps=5, repeats=2)
    assert order == [("a", 1, 5), ("b", 1, 5)] * 2
    assert {name: len(of) for name, of in samples.items()} == {"a": 2, "b": 2}


def test_warm_up_is_not_timed():
    done = []
    replay = pretrain.Replay(done.append, ALONE)
    assert replay.block(2, 3).seconds < 1
    replay.block(0, 1)
    assert done == [0, 1, 2, 3, 4, 5]


def test_flops_of_a_clip_are_those_of_the_paper():
    assert flops_per_clip(PretrainConfig())["rgb"] / 1e9 == pytest.approx(585, abs=1)


def test_the_peak_of_the_machine():
    assert 1e8 < matrix_peak(torch.device("cpu"), torch.float32, seconds=0.05) < 1e14


def test_the_tool_end_to_end_without_shards(tmp_path):
    out, trace = tmp_path / "bench.json", tmp_path / "trace.json"
    options = ["--steps", "1", "--warmup", "0", "--repeats", "3", "--plain", "--tricks", "fused_optimizer"]
    bench_train.main([*options, "--trace", str(trace), "--json", str(out), *TINY])
    result = json.loads(out.read_text())
    assert set(result["modes"]) == {"replay", "plain"}
    assert all(mode["n"] == 3 and mode["clips_per_second"] > 0 for mode in result["modes"].values())
    assert result["tricks"][0]["trick"] == "fused_optimizer"
    assert result["mfu"] > 0
    rates = [result["modes"][name] for name in ("replay", "plain")]
    assert rates[0]["min"] / rates[1]["max"] <= result["lean_over_plain"] <= rates[0]["max"] / rates[1]["min"]
    assert result["environment"]["cores"] >= 1
    assert result["config"]["optim"]["micro_batch"] == 4
    assert "aten::convolution" in trace.read_text()


def test_loader_alone_and_feeding_the_trainer(tmp_path):
    shards = tiny_shards(tmp_path / "shards")
    cfg = tiny(f"data.shards=[{shards}]", "views.mask_alpha=0", "views.rgb_frames=4", "optim.micro_batch=8")
    learner, seen = train.build_learner(cfg, ALONE), []
    step = pretrain.lean_step(learner, cfg, ALONE)

    def recorded(batch: Batch, number: int) -> None:
        seen.append((number, batch.clip_ids_B.tolist()))
        step(batch, number)

    for mode in (pretrain.Supply(cfg, ALONE, None), pretrain.Supply(cfg, ALONE, recorded)):
        samples = [mode.block(0, 2) for _ in range(3)]
        result = pretrain.summary(samples, cfg.optim.batch)
        assert {"wait_fetch_ms", "wait_decode_ms", "wait_copy_ms"} < set(result)
        assert 0 <= result["waiting_share"] <= 1.01
    blocks = 3 * (cfg.data.prefetch + 1 + 2)  # what was made ahead is taken and not counted
    assert [number for number, _ in seen] == list(range(blocks))
    plan = Plan.for_training(ShardSet(cfg.data.shards, split="train"), cfg.data, cfg.optim.batch, cfg.run.seed)
    wanted = [plan.batch(*divmod(number, plan.batches_per_epoch)).tolist() for number in range(blocks)]
    assert [ids for _, ids in seen] == wanted


def test_the_sweep_ends_with_config_lines(tmp_path):
    out = tmp_path / "sweep.json"
    bench_train.main(["--sweep", "--steps", "1", "--warmup", "0", "--json", str(out), *TINY, "model.modalities=[pose]"])
    result = json.loads(out.read_text())
    tried = [row["overrides"] for row in result["micro_batch"]]
    assert tried == [[f"optim.micro_batch={size}"] for size in (1, 2, 4, 8)]
    assert result["use"] in tried


@pytest.mark.slow
@pytest.mark.slow
def test_a_sweep_of_loaders_and_a_scaling_run(tmp_path, capsys):
    shards, out = tiny_shards(tmp_path / "shards"), tmp_path / "out.json"
    small = ["--steps", "1", "--warmup", "0", "--json", str(out), *TINY, "model.modalities=[pose]", "data.workers=1"]
    bench_train.main(["--sweep", *small, "optim.micro_batch=8", f"data.shards=[{shards}]"])
    result = json.loads(out.read_text())
    placed, workers, depths = result["loader"]
    assert placed[0]["overrides"][:2] == [f"data.shards=[{shards}]", "data.backend=dali"]
    assert result["use"][1:] == sweep.best(depths)["overrides"]
    assert set(sweep.best(placed)["overrides"]) < set(workers[0]["overrides"])
    assert set(sweep.best(workers)["overrides"]) < set(depths[0]["overrides"])
    assert f"data.shards=[{shards}]" in capsys.readouterr().out.replace("\n", "")

    small += ["views.mask_alpha=0", "objective.bank_size=16", f"data.shards=[{shards}]"]
    bench_train.main(["--ranks", "1,2", *small])
    runs = json.loads(out.read_text())["scaling"]
    assert [(run["world"], run["batch"]) for run in runs] == [(1, 8), (2, 16)]
    assert runs[0]["efficiency"] == 1
    assert all(run["modes"]["real"]["clips_per_second"] > 0 for run in runs)


def test_the_best_of_a_sweep():
    def row(real: float, supply: float) -> sweep.Row:
        return {"real": {"clips_per_second": real}, "supply": {"clips_per_second": supply}}

    slow, tied, top, broken = row(50, 900), row(99, 300), row(100, 200), {"error": "no decoder"}
    assert sweep.best([slow, tied, top, broken]) is tied
    assert sweep.best([{"clips_per_second": 1.0}, {"clips_per_second": 2.0}]) == {"clips_per_second": 2.0}
    assert sweep.best([broken]) is None


def test_the_tool_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="--tricks magic: choose from channels_last"):
        bench_train.main(["--tricks", "magic", *TINY])
    with pytest.raises(ValueError, match="at least 3"):
        bench_train.main(["--repeats", "2", *TINY])
