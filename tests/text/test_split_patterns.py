import time

import pytest

from lucidlm.text.split_patterns import check_patterns

_LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
IN_USE = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    _LLAMA,
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re)?|\s+",
    r" ?[^(\s|[.,!?…。，、।۔،])]+",
    r"[0-9][0-9][0-9]",
    r"\s+$",
]


def test_expressions_in_use_pass_quickly():
    start = time.thread_time()
    check_patterns(IN_USE)
    assert time.thread_time() - start < 3  # 0.6 s on an idle machine, most of it the last one's


@pytest.mark.parametrize("pattern", [r"(a+)+$", r"(x|x)+$", r"(?:\s+\s+)+z", r"((ab)+)+c", r"\w*\w*\w*\w*$"])
def test_an_expression_that_gives_up_is_refused_without_a_page_of_the_librarys(pattern, capfd):
    with pytest.raises(ValueError, match="fails on some texts"):
        check_patterns([pattern])
    assert capfd.readouterr().err == ""
