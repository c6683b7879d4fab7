"""The objective against a float64 NumPy reference written from the equations, and the banks against a plain list."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cclslr.config import ModelConfig, ObjectiveConfig
from cclslr.models.ccl import Branches, MemoryBanks, key_copy, momentum_update
from cclslr.models.objective import ccl_losses

MODALITIES = ("rgb", "pose")


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = rng.normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference(f_q, g_q, f_k, bank_f, bank_g, usable, cfg):
    """CCL-SLR Eq. 3-14 one query and one slot at a time, in float64."""
    batch, slots = usable.shape
    modalities = list(f_q)

    def l_cl(z_q, z_k, bank, row):
        numerator = np.exp(z_q @ z_k / cfg.tau)
        return -np.log(numerator / (numerator + sum(np.exp(z_q @ s / cfg.tau) for s in bank[usable[row]])))

    losses = {f"cl_{m}": np.mean([l_cl(f_q[m][i], f_k[m][i], bank_f[m], i) for i in range(batch)]) for m in modalities}
    if cfg.spm:
        labels = np.zeros((batch, slots), dtype=bool)
        for m in modalities:
            source, bank = (g_q[m], bank_g[m]) if cfg.mine_from == "g" else (f_q[m], bank_f[m])
            for i in range(batch):
                candidates = [j for j in range(slots) if usable[i, j]]
                nearest = sorted(candidates, key=lambda j: -(source[i] @ bank[j]))[: cfg.k]
                labels[i, nearest] = True
        for m in modalities:
            rows = []
            for i in range(batch):
                terms = []
                for j in range(slots):
                    if usable[i, j]:
                        z = f_q[m][i] @ bank_f[m][j] / cfg.tau_spm
                        # -log sigmoid(z) for a positive, -log(1 - sigmoid(z)) for the rest
                        terms.append(np.logaddexp(0, -z) if labels[i, j] else np.logaddexp(0, z))
                rows.append(np.mean(terms) if terms else 0.0)
            losses[f"spm_{m}"] = np.mean(rows)
    if cfg.cross and len(modalities) == 2:
        r, p = modalities
        losses[f"{r}_to_{p}"] = np.mean([l_cl(f_q[p][i], f_k[r][i], bank_f[r], i) for i in range(batch)])
        losses[f"{p}_to_{r}"] = np.mean([l_cl(f_q[r][i], f_k[p][i], bank_f[p], i) for i in range(batch)])
    return losses


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 5),
    slots=st.integers(1, 24),
    filled=st.floats(0, 1),
    k=st.integers(1, 12),
    mine_from=st.sampled_from(["g", "f"]),
    spm=st.booleans(),
    cross=st.booleans(),
    modalities=st.sampled_from([("rgb", "pose"), ("rgb",), ("pose",)]),
)
def test_losses_agree_with_reference(seed, batch, slots, filled, k, mine_from, spm, cross, modalities):
    rng = np.random.default_rng(seed)
    cfg = ObjectiveConfig(k=k, mine_from=mine_from, spm=spm, cross=cross)
    dim = {"rgb": 7, "pose": 5}
    f_q, f_k, bank_f = ({m: unit(rng, n, 6) for m in modalities} for n in (batch, batch, slots))
    g_q, bank_g = ({m: unit(rng, n, dim[m]) for m in modalities} for n in (batch, slots))
    usable = rng.random((batch, slots)) < filled

    def tensors(x):
        return {m: torch.from_numpy(v) for m, v in x.items()}

    args = [tensors(x) for x in (f_q, g_q, f_k, bank_f, bank_g)]
    ours = ccl_losses(*args, torch.from_numpy(usable), cfg)
    expected = reference(f_q, g_q, f_k, bank_f, bank_g, usable, cfg)
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        assert ours[name].item() == pytest.approx(value, abs=1e-9), name
    single = ccl_losses(*[{m: v.float() for m, v in x.items()} for x in args], torch.from_numpy(usable), cfg)
    for name, value in expected.items():
        assert single[name].item() == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_empty_banks_teach_nothing():
    rng = np.random.default_rng(0)
    z = {m: torch.from_numpy(unit(rng, 3, 4)) for m in MODALITIES}
    bank = {m: torch.zeros(8, 4, dtype=torch.float64) for m in MODALITIES}
    losses = ccl_losses(z, z, z, bank, bank, torch.zeros(3, 8, dtype=torch.bool), ObjectiveConfig())
    assert all(loss.item() == 0 for loss in losses.values())


@pytest.fixture(scope="module")
def tiny() -> tuple[ModelConfig, Branches]:
    cfg = ModelConfig(rgb="r3d10_narrow", gcn_width=16, transformer_blocks=1, transformer_heads=2, transformer_width=32)
    return cfg, Branches(cfg)


@settings(max_examples=20, deadline=None)
@given(size=st.integers(4, 16), batches=st.lists(st.integers(1, 4), max_size=12))
def test_banks_are_a_queue(tiny, size, batches):
    cfg, query = tiny
    banks, expected, clip = MemoryBanks(query, cfg, size), [-1] * size, 0
    for batch in batches:
        ids = torch.arange(clip, clip + batch)
        f_k = {m: torch.nn.functional.normalize(torch.randn(batch, cfg.embedding)) for m in MODALITIES}
        g_k = {m: torch.nn.functional.normalize(torch.randn(batch, x.shape[1])) for m, x in banks.g.items()}
        banks.enqueue(f_k, g_k, ids)
        for i in range(batch):
            slot = (clip + i) % size
            expected[slot] = clip + i
            for m in MODALITIES:
                assert torch.equal(banks.f[m][slot], f_k[m][i])
                assert torch.equal(banks.g[m][slot], g_k[m][i])
        clip += batch
    assert banks.clip_ids.tolist() == expected
    again = MemoryBanks(query, cfg, size)
    again.load_state_dict(banks.state_dict())
    assert again.enqueued == clip


def test_key_that_is_not_finite_leaves_its_slot_unfilled(tiny):
    cfg, query = tiny
    banks = MemoryBanks(query, cfg, 4)
    f_k = {m: torch.ones(2, cfg.embedding) for m in MODALITIES}
    g_k = {m: torch.ones(2, x.shape[1]) for m, x in banks.g.items()}
    f_k["pose"][1, 3] = float("nan")
    banks.enqueue(f_k, g_k, torch.tensor([5, 6]))
    assert banks.clip_ids.tolist() == [5, -1, -1, -1]
    assert all(x.isfinite().all() for x in (*banks.f.values(), *banks.g.values()))


def test_own_older_embeddings_can_be_left_out(tiny):
    cfg, query = tiny
    banks = MemoryBanks(query, cfg, 4)
    banks.clip_ids[:3] = torch.tensor([7, 8, 7])
    ids = torch.tensor([7, 9])
    assert banks.usable(ids, exclude_same_clip=False).tolist() == [[True, True, True, False]] * 2
    assert banks.usable(ids, exclude_same_clip=True).tolist() == [
        [False, True, False, False],
        [True, True, True, False],
    ]


@pytest.mark.parametrize("fused", [True, False])
def test_momentum_update_is_equation_2(tiny, fused):
    cfg, query = tiny
    key = key_copy(query)
    before = [p.clone() for p in key.parameters()]
    moved = Branches(cfg)
    momentum_update(key, moved, 0.9, fused)
    for old, new, target in zip(before, key.parameters(), moved.parameters()):
        expected = 0.9 * old.double() + 0.1 * target.double()
        assert torch.allclose(new.double(), expected, atol=1e-6)
        assert not new.requires_grad
