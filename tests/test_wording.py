"""Numbers, articles and long texts in what a person reads."""

import pytest

from vitascope.wording import a, count, short


@pytest.mark.parametrize(
    ("n", "noun", "said"),
    [
        (1, "rank", "1 rank"),
        (0, "rank", "0 ranks"),
        (2, "rank", "2 ranks"),
        (1, "patch", "1 patch"),
        (12_000, "patch", "12,000 patches"),
        (2, "loss", "2 losses"),
        (3, "tar member", "3 tar members"),
    ],
)
def test_a_number_and_its_noun_agree(n: int, noun: str, said: str) -> None:
    assert count(n, noun) == said
    assert (count(1, "entry", "entries"), count(5, "entry", "entries")) == ("1 entry", "5 entries")


@pytest.mark.parametrize(
    ("noun", "said"),
    [("image", "an image"), ("video", "a video"), ("int", "an int"), ("URI", "a URI"), ("hour", "an hour")],
)
def test_the_article_goes_by_the_sound(noun: str, said: str) -> None:
    assert a(noun) == said


def test_long_text_keeps_both_ends() -> None:
    assert short("abc", 3) == "abc"
    assert short("a" * 50 + "b" * 50, 11) == "aaaaaa…bbbbb"
    assert len(short("x" * 1_000_000, 300)) == 301
