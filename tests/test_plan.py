"""Order of the clips: exhaustively over ranks and restarts."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cclslr.config import DataConfig
from cclslr.data import plan as plan_module
from cclslr.data.permutation import permute
from cclslr.data.plan import EvalPlan, Plan, hold_out, select_clips, split_weights

RANKS = (1, 2, 4, 8)
ORDERS = ("sorted", "network")


def _epoch(plan: Plan, epoch: int, world: int) -> list[int]:
    """The epoch in global order, put together from what each rank sees."""
    clips: list[int] = []
    for step in range(plan.steps(0, world)):
        for rank in range(world):
            clips += plan.rank_batch(epoch, step, rank, world).clip_ids_B.tolist()
    return clips


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("num_clips", "batch"), [(16, 8), (103, 16), (1000, 64)])
def test_same_global_order_at_any_number_of_ranks(num_clips: int, batch: int, order: str) -> None:
    alone = Plan(num_clips, batch, seed=3, order=order)
    for epoch in range(3):
        whole = [clip for step in range(alone.batches_per_epoch) for clip in alone.batch(epoch, step).tolist()]
        for world in RANKS:
            assert _epoch(Plan(num_clips, batch, seed=3, order=order), epoch, world) == whole


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("world", RANKS)
def test_restart_at_every_step(world: int, order: str) -> None:
    """A plan made anew, asked for any step first, says what an uninterrupted one said."""
    plan = Plan(75, 8, seed=1, order=order)
    stream = [plan.rank_batch(*divmod(step, 9), world - 1, world) for step in range(36)]
    assert plan.batches_per_epoch == 9
    for first in range(36):
        restarted = Plan(75, 8, seed=1, order=order)
        for step in range(first, 36):
            slots = restarted.rank_batch(*divmod(step, 9), world - 1, world)
            np.testing.assert_array_equal(slots.clip_ids_B, stream[step].clip_ids_B)
            np.testing.assert_array_equal(slots.keys_B, stream[step].keys_B)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 300), st.integers(1, 32), st.integers(0, 2**31), st.integers(0, 1000), st.sampled_from(ORDERS))
def test_an_epoch_is_a_permutation_but_for_the_last_incomplete_batch(
    n: int, batch: int, seed: int, epoch: int, order: str
) -> None:
    if n < batch:
        with pytest.raises(ValueError, match=r"optim\.batch"):
            Plan(n, batch, seed, order=order)
        return
    plan = Plan(n, batch, seed, order=order)
    clips = _epoch(plan, epoch, 1)
    assert len(clips) == len(set(clips)) == n // batch * batch == plan.clips_in(epoch)
    assert set(clips) <= set(range(n))
    assert sorted(plan.epoch_order(epoch).clip_ids_B.tolist()) == list(range(n))


@pytest.mark.parametrize("order", ORDERS)
def test_epochs_and_seeds_differ_and_no_clip_is_left_out_for_good(order: str) -> None:
    plan = Plan(103, 50, seed=0, order=order)
    orders = [tuple(_epoch(plan, epoch, 1)) for epoch in range(8)]
    assert len({*orders, tuple(_epoch(Plan(103, 50, seed=1, order=order), 0, 1))}) == 9
    assert set().union(*orders) == set(range(103))


@pytest.mark.parametrize("way", ORDERS)
def test_shuffle_quality(way: str) -> None:
    """Displacement, kept neighbours, mixing of shards within batches and the place of a clip over epochs, as of a
    uniformly random permutation."""
    n, batch = 20_000, 50
    order = Plan(n, batch, seed=0, order=way).epoch_order(5).clip_ids_B
    place = np.argsort(order)
    assert abs(np.abs(place - np.arange(n)).mean() / (n / 3) - 1) < 0.03
    assert (np.abs(np.diff(order)) == 1).sum() < 12  # 2 are expected
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 4.5 / np.sqrt(n)
    from_shard = order.reshape(-1, batch) // (n // 10)  # clips of ten equal shards in each batch
    counts = np.stack([(from_shard == shard).sum(axis=1) for shard in range(10)])
    hypergeometric = stats.hypergeom(n, n // 10, batch)
    assert abs(counts.var() / hypergeometric.var() - 1) < 0.1

    small = Plan(100, 10, seed=0, order=way)
    places = np.array([np.argsort(small.epoch_order(epoch).clip_ids_B) for epoch in range(400)])
    assert stats.chisquare(np.bincount(places[:, 17] // 10, minlength=10)).pvalue > 1e-3
    again = [(places[e] // 10 == places[e + 1] // 10).mean() for e in range(399)]
    assert abs(np.mean(again) - 0.1) < 0.01


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.lists(st.floats(0, 10), min_size=4, max_size=4),
    st.integers(0, 2**31),
    st.sampled_from(ORDERS),
)
def test_weights(sizes: list[int], weights: list[float], seed: int, order: str) -> None:
    weights = weights[: len(sizes)]
    if sum(weights) <= 0:
        return
    counts = split_weights(sizes, weights)
    total = sum(sizes)
    assert counts.sum() == total
    assert (abs(counts - np.array(weights) / sum(weights) * total) < 1 + 1e-6).all()

    datasets = np.repeat(np.arange(len(sizes)), sizes)
    plan = Plan(np.arange(total), 1, seed, datasets, weights, order)
    seen = np.zeros(total, int)
    for epoch in range(7):
        slots = Plan(np.arange(total), 1, seed, datasets, weights, order).epoch_order(epoch)
        np.testing.assert_array_equal(np.bincount(datasets[slots.clip_ids_B], minlength=len(sizes)), counts)
        assert len(set(slots.keys_B.tolist())) == total  # repetitions of a clip get views of their own
        np.testing.assert_array_equal(slots.keys_B % 2**40, slots.clip_ids_B)
        np.testing.assert_array_equal(slots.clip_ids_B, plan.epoch_order(epoch).clip_ids_B)
        seen += np.bincount(slots.clip_ids_B, minlength=total)
    for number in range(len(sizes)):  # after any number of epochs, the clips of a data set came equally often
        of_dataset = seen[datasets == number]
        assert of_dataset.max() - of_dataset.min() <= 1


def test_weights_that_fit_nothing() -> None:
    for weights in ([1.0], [0.0, 0.0], [1.0, -1.0]):
        with pytest.raises(ValueError, match=r"data\.weights"):
            Plan(np.arange(8), 2, 0, np.arange(8) // 4, weights)


@pytest.mark.parametrize("world", [1, 2, 3, 5, 8, 16])
@pytest.mark.parametrize("num_clips", [1, 7, 64, 101])
def test_evaluation_visits_each_clip_once(num_clips: int, world: int) -> None:
    plan = EvalPlan(num_clips, 4)
    seen = []
    for rank in range(world):
        mine = [plan.rank_batch(0, step, rank, world).clip_ids_B for step in range(plan.steps(rank, world))]
        assert all(0 < len(ids) <= plan.rank_clips(world, 0) for ids in mine)
        seen += [int(clip) for ids in mine for clip in ids]
    assert seen == list(range(num_clips))


def test_a_batch_that_does_not_divide() -> None:
    with pytest.raises(ValueError, match="3 ranks"):
        Plan(20, 8, 0).rank_batch(0, 0, 0, 3)


def test_share_is_exact_nested_and_random() -> None:
    labels = np.zeros(1000, int)
    shares = [set(select_clips(labels, seed=4, share=share).tolist()) for share in (0.1, 0.25, 0.5, 1.0)]
    assert [len(share) for share in shares] == [100, 250, 500, 1000]
    assert shares[0] < shares[1] < shares[2] < shares[3]
    assert shares[0] != set(select_clips(labels, seed=5, share=0.1).tolist())
    assert stats.kstest(np.array(sorted(shares[2])) / 1000, "uniform").pvalue > 1e-3


def test_labels_per_class() -> None:
    labels = np.random.default_rng(0).integers(-1, 6, 200)
    few = select_clips(labels, seed=1, labels_per_class=5)
    np.testing.assert_array_equal(np.bincount(labels[few], minlength=6), 5)
    assert (labels[few] >= 0).all()
    assert (np.diff(few) > 0).all()
    assert set(few) < set(select_clips(labels, seed=1, labels_per_class=9))
    assert set(few) != set(select_clips(labels, seed=2, labels_per_class=5))
    scarce = select_clips(labels, seed=1, labels_per_class=1000)
    assert len(scarce) == (labels >= 0).sum()


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_impossible_share(share: float) -> None:
    with pytest.raises(ValueError, match=r"data\.share"):
        select_clips(np.zeros(5, int), 0, share)


def test_no_clip_left() -> None:
    with pytest.raises(ValueError, match="no clip of 5"):
        select_clips(np.full(5, -1), 0, labels_per_class=3)


def stream_hash(plan: Plan) -> str:
    stream = hashlib.sha256()
    for epoch in (0, 1, 7):
        for step in range(plan.batches_per_epoch):
            slots = plan.slots(epoch, step)
            stream.update(slots.clip_ids_B.astype("<i8").tobytes() + slots.keys_B.astype("<i8").tobytes())
    return stream.hexdigest()[:16]


def test_the_orders_of_runs_stay() -> None:
    """Hashes of the orders as they were when each came in: a checkpoint goes on with the clips that it began with."""
    thirds = (np.arange(0, 900, 3), 8, 7, np.arange(300) // 100, [1, 0, 2.5])
    assert stream_hash(Plan(1000, 16, 7)) == stream_hash(Plan(1000, 16, 7, order="sorted")) == "72f7a0d92eac086b"
    assert stream_hash(Plan(*thirds)) == stream_hash(Plan(*thirds, order="sorted")) == "1b1778f1323e99f3"
    assert stream_hash(Plan(1000, 16, 7, order="network")) == "62156cf770e0e3f9"
    assert stream_hash(Plan(*thirds, order="network")) == "072273b8394b6cb0"
    labels_N = np.random.default_rng(0).integers(-1, 40, 2000)
    kept, held = hold_out(np.arange(0, 2000, 2), labels_N, 5, 0.2)
    assert hashlib.sha256(kept.tobytes() + held.tobytes()).hexdigest()[:16] == "f37f9cc00f01b9fb"


def test_large_sets_are_shuffled_by_the_network_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "MOST_SORTED", 100)
    assert stream_hash(Plan(100, 10, 1)) == stream_hash(Plan(100, 10, 1, order="sorted"))
    assert stream_hash(Plan(101, 10, 1)) == stream_hash(Plan(101, 10, 1, order="network"))
    assert DataConfig().order == "auto"


def test_permute_is_a_permutation_at_every_size() -> None:
    for n in range(1, 1200):
        assert sorted(permute(np.arange(n), n, 5, n).tolist()) == list(range(n))
    for bits in (12, 15, 17):
        for n in (2**bits - 1, 2**bits, 2**bits + 1):
            assert np.array_equal(np.sort(permute(np.arange(n), n, 3)), np.arange(n))


@pytest.mark.parametrize("n", [10**8, 10**8 + 7, 2**27, 2**40 + 1])
def test_permute_of_large_sizes_never_meets(n: int) -> None:
    some = np.unique(np.random.default_rng(n).integers(0, n, 200_000))
    sent = permute(some, n, 1, 2)
    assert sent.min() >= 0
    assert sent.max() < n
    assert len(np.unique(sent)) == len(some)
    assert np.array_equal(permute(some[7:99], n, 1, 2), sent[7:99])  # each for itself
    assert stats.chisquare(np.bincount(sent * 64 // n, minlength=64)).pvalue > 1e-4
    neighbours = permute(np.arange(100_000), n, 1, 2)
    assert abs(np.corrcoef(neighbours[:-1], neighbours[1:])[0, 1]) < 0.02


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_permute_draws_all_permutations_alike(n: int) -> None:
    rounds = 200 * math.factorial(n)
    words, places = np.repeat(np.arange(rounds), n), np.tile(np.arange(n), rounds)
    drawn = permute(places, n, 11, words).reshape(rounds, n)
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(counts) == math.factorial(n)
    assert stats.chisquare(counts).pvalue > 1e-4
