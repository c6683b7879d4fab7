"""What a thread keeps for later."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from cclslr.kept import Kept


def test_the_one_that_was_unused_longest_goes_first() -> None:
    kept: Kept[str] = Kept(most=2)
    for key in "ab":
        kept.keep(key, f"thing {key}")
    assert kept.take("a") == "thing a"
    assert kept.take("a") is None, "whoever took it has it alone"
    kept.keep("a", "thing a")
    kept.keep("c", "thing c")
    assert [kept.take(key) for key in "abc"] == ["thing a", None, "thing c"]


def test_each_thread_has_its_own() -> None:
    kept: Kept[int] = Kept(most=2)
    kept.keep("a", 1)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(kept.take, "a").result() is None
    assert kept.take("a") == 1
