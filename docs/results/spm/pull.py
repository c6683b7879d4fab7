"""How hard each term of the loss pulls at a query, and what SPM mines, from the banks of a checkpoint.

python docs/results/spm/pull.py runs/demo/pretrain/last.pt

The keys in the banks ask as queries would: each turned to a cosine of 0.8 with itself, as another view of its clip is.
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F

from cclslr import checkpoint
from cclslr.models.objective import info_nce, mine_positives, spm


def turned(f_ND: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(0)
    return F.normalize(0.8 * f_ND + 0.6 * F.normalize(torch.randn_like(f_ND), dim=1), dim=1)


def main(path: str, k: int = 10) -> None:
    banks = checkpoint.load(path)["banks"]
    clip_ids = banks["clip_ids"]
    usable_NN = clip_ids[None] != clip_ids[:, None]
    mined_NN = torch.zeros_like(usable_NN)
    for m in ("rgb", "pose"):
        mined_NN |= mine_positives(banks[f"g_{m}"] @ banks[f"g_{m}"].T, usable_NN, k)
    for m in ("rgb", "pose"):
        f_ND = banks[f"f_{m}"]
        cosine = f_ND @ f_ND.T
        print(f"{m}: mean cosine {cosine[usable_NN].mean():.2f}, of mined {cosine[mined_NN].mean():.2f}")
        for name, tau in [("InfoNCE", 0.07), ("SPM", 0.02), ("SPM", 0.07), ("SPM", 0.2)]:
            query_ND = turned(f_ND).requires_grad_()
            similarity_NN = query_ND @ f_ND.T
            if name == "SPM":
                loss = spm(similarity_NN, mined_NN, usable_NN, tau)
            else:
                loss = info_nce((query_ND * f_ND).sum(1), similarity_NN, usable_NN, tau)
            (pull_ND,) = torch.autograd.grad(loss * len(query_ND), query_ND)
            with torch.no_grad():  # on the sphere: what changes the direction of f
                pull_ND -= (pull_ND * query_ND).sum(1, keepdim=True) * query_ND
            print(f"  {name} tau {tau}: loss {loss.item():.2f}, gradient {pull_ND.norm(dim=1).mean():.1f}")


if __name__ == "__main__":
    main(sys.argv[1])
