"""Retrieval against plain readings of its definitions, and search as a program."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cclslr.__main__ import main
from cclslr.errors import UserError
from cclslr.inference.dictionary import open_index
from cclslr.inference.features import FeatureSet, read_features
from cclslr.inference.retrieval import (
    METRICS,
    evaluate_logits,
    evaluate_retrieval,
    ranks,
    retrieval_metrics,
    search,
    sign_scores,
)
from cclslr.study.stage import Stage, Work, kinds


def unit(random: np.random.Generator, rows: int, size: int = 6) -> np.ndarray:
    x_ND = random.normal(size=(rows, size)).astype(np.float32)
    return x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)


def feature_set(labels: list[int], values: dict[str, np.ndarray], signers: list[str] | None = None) -> FeatureSet:
    glosses = ["" if label < 0 else f"sign {label}" for label in labels]
    keys = [f"clip{number}" for number in range(len(labels))]
    return FeatureSet(
        keys, np.array(labels, np.int32), glosses, ["test"] * len(labels), signers or [""] * len(labels), values
    )


def plain_rank(query: np.ndarray, examples: np.ndarray, labels: list[int], own: int) -> int:
    """ASL Citizen's way: the nearest example of each sign, signs sorted, the place of the right one."""
    best: dict[int, float] = {}
    for example, label in zip(examples.astype(float), labels):
        cosine = float(np.dot(query, example) / np.linalg.norm(query) / np.linalg.norm(example))
        best[label] = max(best.get(label, -math.inf), cosine)
    ranked = sorted(best, key=lambda label: -best[label])
    return ranked.index(own) + 1


@given(st.integers(0, 10**6), st.integers(1, 600), st.integers(1, 40), st.integers(1, 12))
def test_ranks_are_those_of_a_plain_search(seed: int, num_queries: int, num_examples: int, classes: int) -> None:
    random = np.random.default_rng(seed)
    queries, examples = unit(random, num_queries), unit(random, num_examples)
    labels = random.integers(classes, size=num_examples)
    scores = sign_scores(queries, examples, labels, classes)
    truth = random.choice(labels, num_queries)
    found = ranks(scores, truth)
    for q in random.integers(num_queries, size=3):
        assert found[q] == plain_rank(queries[q].astype(float), examples, labels.tolist(), truth[q])
    assert np.isneginf(scores[:, np.setdiff1d(np.arange(classes), labels)]).all()


def test_a_model_that_tells_nothing_apart_finds_nothing() -> None:
    same = np.ones((30, 1), np.float32)
    found = ranks(sign_scores(same, same, np.arange(30) % 15, 15), np.arange(30) % 15)
    assert set(found) == {15}


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_metrics_by_their_definitions(places: list[int]) -> None:
    found = retrieval_metrics(np.array(places))
    for k in (1, 5, 10):
        assert found[f"recall_{k}"] == pytest.approx(100 * sum(place <= k for place in places) / len(places))
    assert found["mrr"] == pytest.approx(sum(1 / place for place in places) / len(places))
    # the sum of relevance / log2(1 + place) over a list in which one entry is relevant
    gains = [sum((i == place) / math.log2(1 + i) for i in range(1, 31)) for place in places]
    assert found["dcg"] == pytest.approx(sum(gains) / len(gains))


def test_a_dictionary_is_evaluated_with_one_some_and_all_examples() -> None:
    random = np.random.default_rng(1)
    centres = unit(random, 4, 8)
    labels = [0, 1, 2, 3] * 6
    noisy = centres[labels] + 0.6 * random.normal(size=(24, 8)).astype(np.float32) / 8**0.5
    noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
    dictionary = feature_set([*labels[:-1], -1], {"g_rgb": noisy, "logits_rgb": noisy}, ["ann"] * 24)
    asked = [0, 1, 2, 3, -1, 4]
    queries = feature_set(asked, {"g_rgb": unit(random, 6, 8), "logits_rgb": unit(random, 6, 8)}, [*"abcde", "ann"])
    told = evaluate_retrieval(dictionary, queries, 5, [1, 2, 100], 3)
    assert (told["queries"], told["left_out"], told["examples"], told["signs"]) == (4, 1, 23, 4)
    assert told["signers_shared"] == 0
    assert set(told["scores"]) == {"g_rgb"}
    assert list(told["scores"]["g_rgb"]) == ["1", "2", "100", "all"]
    assert told["scores"]["g_rgb"]["100"]["mrr"] == [pytest.approx(told["scores"]["g_rgb"]["all"]["mrr"][0]), 0]
    plain = [plain_rank(queries["g_rgb"][q].astype(float), noisy[:23], labels[:23], q) for q in range(4)]
    assert told["scores"]["g_rgb"]["all"]["mrr"][0] == pytest.approx(np.mean([1 / place for place in plain]))
    with pytest.raises(UserError, match="no query is of a sign"):
        evaluate_retrieval(dictionary, queries.chosen(np.array([5])), 5, [1], 1)


def test_logits_rank_by_gloss() -> None:
    logits = np.array([[3, 2, 1], [3, 2, 1], [3, 2, 1]], np.float32)
    queries = feature_set([0, 2, 7], {"logits_pose": logits})
    (found,) = evaluate_logits(queries, ["sign 2", "sign 1", "sign 0"]).values()
    assert found == retrieval_metrics(np.array([3, 1]))
    assert evaluate_logits(queries, ["none of them"]) == {}


def test_search_gives_one_example_a_gloss_or_every_clip() -> None:
    random = np.random.default_rng(2)
    index = feature_set([0, 0, 1, 1, -1, -1, 2], {"g": unit(random, 7)})
    query = unit(random, 1)[0]
    cosines = (index["g"] @ query).tolist()
    order = sorted(range(7), key=lambda row: -cosines[row])
    every = search(query, index, "g", 100, each_clip=True)
    assert [hit.row for hit in every] == order
    assert [hit.score for hit in every] == pytest.approx(sorted(cosines, reverse=True))
    by_sign = [hit.row for hit in search(query, index, "g", 100)]
    assert len(by_sign) == 5
    assert {index.glosses[row] for row in by_sign} == {"sign 0", "sign 1", "sign 2", ""}
    assert by_sign == [row for row in order if row in by_sign]
    assert all(max((0, 1), key=cosines.__getitem__) in by_sign for _ in (0,))
    assert [hit.row for hit in search(query, index, "g", 2)] == by_sign[:2]
    with pytest.raises(UserError, match="no features 'f'; there are g"):
        search(query, index, "f", 1)
    with pytest.raises(UserError, match="has 6 numbers, of the query 5"):
        search(query[:5], index, "g", 1)


def test_draws_of_another_seed_are_others() -> None:
    random = np.random.default_rng(3)
    dictionary = feature_set([0, 1, 2] * 20, {"g_pose": unit(random, 60)})
    queries = feature_set([0, 1, 2] * 10, {"g_pose": unit(random, 30)})
    told = [evaluate_retrieval(dictionary, queries, 3, [1], 4, seed)["scores"]["g_pose"] for seed in (0, 0, 1)]
    assert told[0] == told[1]
    assert told[0]["1"] != told[2]["1"]
    assert told[0]["all"] == told[2]["all"]


def sequences(path: Path) -> Path:
    """Two people's recordings of three signs, a wrist's place for each, and of one sign that one of them shows."""
    random = np.random.default_rng(4)
    labels = np.array([*[0, 1, 2] * 6, *[0, 1, 3] * 3])
    sources = np.array(["ann"] * 18 + ["bob"] * 9)
    keypoints = np.zeros((27, 10, 133, 3), np.float16)
    keypoints[..., 2] = 0.9
    keypoints[..., :2] = random.uniform(0.45, 0.55, (27, 1, 133, 2))
    keypoints[:, :, 5, :2], keypoints[:, :, 6, :2] = (0.6, 0.4), (0.4, 0.4)
    keypoints[:, :, 9, 1] = 0.9 - 0.2 * labels[:, None]
    np.savez(path, keypoints=keypoints, y=labels, classes=np.array(["a", "b", "c", "d"]), source=sources)
    return path


def test_a_stage_of_a_study_asks_a_dictionary_of_coordinates(tmp_path: Path) -> None:
    shards = str(tmp_path / "shards")
    main(["pack", "keypoints", str(sequences(tmp_path / "x.npz")), "--test-source", "bob", "--out", shards])
    kind = kinds()["retrieval"]
    for settings in ({}, {"features": "input", "frames": 6, "shots": [2]}):
        config = kind.resolve(settings, 7)
        folder = tmp_path / config["features"]
        stage = Stage("retrieval", "retrieval", config, {})
        for words in kind.commands(Work("x", stage, folder, {"shards": [shards], "from": []}, {}, 1)):
            main(words)
        (scores,) = kind.scores(folder, config).values()
        assert set(scores) == {f"{metric} of {n}" for metric in METRICS for n in [*config["shots"], "all"]}
        features = read_features(folder / "coordinates.parquet")
        of_ann = features.chosen(np.array(features.splits) == "train")
        asked = features.chosen(np.array(features.splits) == "test")
        assert (len(of_ann), sorted(set(asked.labels.tolist()))) == (18, [0, 1])  # bob's own sign is left out
        places = [
            plain_rank(query.astype(float), of_ann["g_pose"], of_ann.labels.tolist(), own)
            for query, own in zip(asked["g_pose"], asked.labels.tolist())
        ]
        assert scores["recall_1 of all"] == pytest.approx(100 * np.mean([place == 1 for place in places]))
        assert scores["mrr of all"] == pytest.approx(100 * np.mean([1 / place for place in places]))
    with pytest.raises(UserError, match="features of no checkpoint"):
        open_index(tmp_path / "input" / "coordinates.parquet", None, None, [])
    with pytest.raises(UserError, match="unknown setting frame; there are split"):
        kind.resolve({"frame": 3}, 0)
    with pytest.raises(UserError, match="features is 'encoder'"):
        kind.resolve({"features": "encoder"}, 0)
