"""Dictionary retrieval: signs ranked by how near their examples are to a query, and how good the ranking is.

The protocol is that of ASL Citizen (Desai et al., 2023): each test clip is a query, a sign is as near as the nearest of
its examples, and the rank of the query's own sign gives recall at 1, 5 and 10, the mean reciprocal rank and DCG. Where
splits are by signer, as there, the queries are of signers whom the dictionary does not show. Nearness is the cosine;
search is exact, by matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cclslr.data.plan import select_clips
from cclslr.errors import UserError
from cclslr.inference.features import FeatureSet

RECALLS = (1, 5, 10)
METRICS = (*(f"recall_{k}" for k in RECALLS), "mrr", "dcg")
_QUERIES = 256  # whose similarities to the whole dictionary are in memory together: 1 GB for 10^6 examples


@dataclass(frozen=True)
class Hit:
    """An example of the dictionary that is near a query."""

    row: int  # of the dictionary
    score: float  # cosine, -1 to 1


def sign_scores(queries_QD: np.ndarray, examples_ND: np.ndarray, labels_N: np.ndarray, classes: int) -> np.ndarray:
    """How near each sign is to each query: the cosine of its nearest example, (Q, classes) float32.

    Args:
        queries_QD, examples_ND: float32, rows of length 1.
        labels_N: sign of each example, 0 to classes - 1.

    Returns:
        -inf for a sign without an example.
    """
    scores_QK = np.full((len(queries_QD), classes), -np.inf, np.float32)
    if not len(examples_ND):
        return scores_QK
    order = np.argsort(labels_N, kind="stable")
    present, starts = np.unique(labels_N[order], return_index=True)
    sorted_ND = examples_ND[order]
    for begin in range(0, len(queries_QD), _QUERIES):
        part = slice(begin, begin + _QUERIES)
        scores_QK[part, present] = np.maximum.reduceat(queries_QD[part] @ sorted_ND.T, starts, axis=1)
    return scores_QK


def ranks(scores_QK: np.ndarray, truth_Q: np.ndarray) -> np.ndarray:
    """The place of each query's own sign, 1 for the best, int64 (Q,). Signs that score the same stand before it."""
    own_Q1 = np.take_along_axis(scores_QK, truth_Q[:, None], 1)
    return (scores_QK >= own_Q1).sum(1)


def retrieval_metrics(ranks_Q: np.ndarray) -> dict[str, float]:
    """Recall at 1, 5 and 10 in percent, mean reciprocal rank and mean DCG (1 / log2(1 + rank), one sign is right)."""
    recalls = {f"recall_{k}": 100 * float((ranks_Q <= k).mean()) for k in RECALLS}
    return {**recalls, "mrr": float((1 / ranks_Q).mean()), "dcg": float((1 / np.log2(1 + ranks_Q)).mean())}


def evaluate_retrieval(
    dictionary: FeatureSet, queries: FeatureSet, classes: int, shots: list[int], draws: int, seed: int = 0
) -> dict[str, Any]:
    """The metrics of every feature, by number of examples a sign, as plain JSON.

    Args:
        dictionary, queries: features of one model, with labels of one data set.
        classes: signs of that data set.
        shots: examples of each sign that are kept, chosen by hash; a sign that has fewer keeps all. Always also: all.
        draws: choices for each of `shots`.
        seed: of these choices; none of them is another seed's.

    Returns:
        "scores": feature → "1", "5", …, "all" → metric → [mean, standard deviation over the draws]; "queries", and how
        many were left out, as their sign has no example; "signers_shared" by both sides, "examples", "signs".

    Raises:
        UserError: no query whose sign has an example.
    """
    labelled = dictionary.chosen(dictionary.labels >= 0)
    asked = queries.labels >= 0
    known = asked & np.isin(queries.labels, labelled.labels)
    if not known.any():
        raise UserError("no query is of a sign that the dictionary has an example of")
    chosen = queries.chosen(known)
    scores: dict[str, dict[str, dict[str, list[float]]]] = {}
    for name in [name for name in labelled.values if not name.startswith("logits_")]:
        scores[name] = {}
        for shot in [*map(str, shots), "all"]:
            found = []
            for draw in range(1 if shot == "all" else draws):
                of_sign = None if shot == "all" else int(shot)
                rows = select_clips(labelled.labels, seed * draws + draw, labels_per_class=of_sign)
                scores_QK = sign_scores(chosen[name], labelled[name][rows], labelled.labels[rows], classes)
                found.append(retrieval_metrics(ranks(scores_QK, chosen.labels)))
            of = {metric: [one[metric] for one in found] for metric in METRICS}
            scores[name][shot] = {metric: [float(np.mean(x)), float(np.std(x))] for metric, x in of.items()}
    shared = (set(labelled.signers) & set(chosen.signers)) - {""}
    return {
        "queries": len(chosen),
        "left_out": int((asked & ~known).sum()),
        "examples": len(labelled),
        "signs": len(np.unique(labelled.labels)),
        "signers_shared": len(shared),
        "draws": draws,
        "scores": scores,
    }


def evaluate_logits(queries: FeatureSet, classes: list[str]) -> dict[str, dict[str, float]]:
    """The same metrics of a classifier, whose logits rank the signs: feature → metric; {} where there are no logits.

    Args:
        classes: glosses in the order of the logits; queries of others are left out.
    """
    places = {gloss: place for place, gloss in reversed(list(enumerate(classes)))}
    known = np.array([label >= 0 and gloss in places for label, gloss in zip(queries.labels, queries.glosses)])
    if not known.any():
        return {}
    chosen = queries.chosen(known)
    truth_Q = np.array([places[gloss] for gloss in chosen.glosses])
    logits = {name: x for name, x in chosen.values.items() if name.startswith("logits_")}
    return {name: retrieval_metrics(ranks(x_QK, truth_Q)) for name, x_QK in logits.items()}


def search(query_D: np.ndarray, index: FeatureSet, name: str, top: int, each_clip: bool = False) -> list[Hit]:
    """The nearest examples, nearest first: one of each gloss, or every clip. Examples without a gloss count alone.

    Args:
        query_D: of length 1.
        name: which features of the index.

    Raises:
        UserError: the index has no such features, or of another size.
    """
    examples_ND = index[name]
    if examples_ND.shape[1] != len(query_D):
        raise UserError(f"{name} of the index has {examples_ND.shape[1]} numbers, of the query {len(query_D)}")
    scores_N = examples_ND @ query_D
    seen: set[str] = set()
    hits: list[Hit] = []
    for row in np.argsort(-scores_N, kind="stable").tolist():
        if len(hits) == top:
            break
        gloss = index.glosses[row]
        if each_clip or not gloss or gloss not in seen:
            hits.append(Hit(row, float(scores_N[row])))
            seen.add(gloss)
    return hits
