import pytest

from lucidlm.report.card import in_code, in_prose


@pytest.mark.parametrize(("name", "prose", "code"), [
    ("my_run-2.b", "my_run-2.b", "`my_run-2.b`"),
    ("<script>alert(1)</script>", r"\<script\>alert(1)\</script\>", "`<script>alert(1)</script>`"),
    ("[a](http://b)", r"\[a\](http://b)", "`[a](http://b)`"),
    ("a`b``c", r"a\`b\`\`c", "```a`b``c```"),
    ("`", r"\`", "`` ` ``"),
    ("a\n# b", r"a\\n\# b", r"`a\n# b`"),
    ("\x1b[2J\u202e", r"\\x1b\[2J\\u202e", r"`\x1b[2J\u202e`"),
])  # fmt: skip
def test_no_name_is_markup_or_a_command_of_a_terminal(name, prose, code):
    assert in_prose(name) == prose
    assert in_code(name) == code
