"""INCLUDE and INCLUDE-50: published counts, words of two categories, names that repeat, upper-case endings."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from string import ascii_lowercase

import pytest
from importing import load, make


@pytest.mark.parametrize(("subset", "counts"), [(263, (3_126, 347, 816)), (50, (688, 76, 191))])
def test_the_published_counts(tmp_path: Path, subset: int, counts: tuple[int, int, int]) -> None:
    words = ["".join(pair) for pair in product(ascii_lowercase, repeat=2)][:subset]
    for split, count in zip(("train", "val", "test"), counts):
        lines = (f"Jobs/{n % subset}. {words[n % subset]}/MVI_{split}{n}.MOV\n" for n in range(count))
        (tmp_path / f"include{'50' if subset == 50 else ''}_{split}.txt").write_text("".join(lines))
    videos = make(tmp_path / "videos", "x.txt")
    report = load("include", "--annotations", tmp_path, "--videos", videos, "--subset", subset).report
    assert tuple(report.splits.values()) == counts
    assert report.classes == subset
    assert any("as published" in note for note in report.notes)
    assert not any("published:" in note for note in report.notes)


def test_the_traps_of_the_list(tmp_path: Path) -> None:
    names = ("Animals/4. Bird/MVI_1.MOV", "Pronouns/44. it/MVI_1.MOV", "Places/19. House/Extra/MVI_2.MOV",
             "Greetings/53. Good evening/MVI_005_4 (1).MOV", "Adjectives/17. Orange/MVI_3.MOV",
             "Colours/53. orange/MVI_4.MOV", "Clothes/42. T-Shirt/MVI_5.MOV",
             "Days_and_Time/Second (Number)/MVI_6.MOV", "Days_and_Time/81. Second/MVI_7.MOV")  # fmt: skip
    (tmp_path / "include_train.txt").write_text("\n".join(names) + "\n\n")
    (tmp_path / "include_test.txt").write_text("Animals/4. Bird/MVI_1.MOV\nAnimals\nAnimals/4. Bird\n../4. Bird/\n")
    found = load("include", "--annotations", tmp_path, "--videos", make(tmp_path / "videos", *names))
    assert found.classes == ["bird", "goodevening", "house", "it", "orange", "second", "secondnumber", "tshirt"]
    assert len(found.rows) == len(names)
    files = {row.source.path.split("videos/")[1]: row.gloss for row in found.rows}  # type: ignore[attr-defined]
    assert files["Animals/4. Bird/MVI_1.MOV"] == "bird"
    assert files["Pronouns/44. it/MVI_1.MOV"] == "it"
    assert len({row.key for row in found.rows}) == len(names)
    assert found.report.duplicates == ["include_test.txt, line 1: repeats include_train.txt, line 1 with another split"]
    assert len(found.report.rejected) == 3
