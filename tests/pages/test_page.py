"""The look of all pages: what is written on what, by the definition of contrast of WCAG 2.2 (1.4.3)."""

import re
from importlib.resources import files

import pytest

PAGES = files("lucidlm.pages") / "templates"
LOOK = (PAGES / "look.css").read_text(encoding="utf-8")


def variables(theme: str) -> dict[str, str]:
    """The custom properties of a theme: dark ones stand over the light."""
    light, dark, *_ = re.findall(r"\.lucid \{(.*?)\}", LOOK, re.S)
    found = dict(re.findall(r"--(\w+): ([^;]+);", light))
    return found | (dict(re.findall(r"--(\w+): ([^;]+);", dark)) if theme == "dark" else {})


def rgb(colour: str) -> tuple[float, ...]:
    if colour.startswith("#"):
        return tuple(int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return tuple(map(float, colour.split(",")))


def over(top: str, under: str, alpha: float) -> tuple[float, ...]:
    return tuple(alpha * a + (1 - alpha) * b for a, b in zip(rgb(top), rgb(under), strict=True))


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    def luminance(colour):
        parts = [each / 255 for each in colour]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_marks_stand_out_from_every_ground(theme):
    """Tokens and the marks of their newlines are drawn in ink on eight strengths of two colours."""
    of = variables(theme)
    assert not re.search(r"\.w \{[^}]*(opacity|color)", LOOK)  # the marks are drawn as the tokens are
    for ground in ("paper", "card"):
        for text in ("ink", "dim", "accent", "ours"):
            assert contrast(rgb(of[text]), rgb(of[ground])) >= 4.5, (text, ground)
        for heat in ("heat", "cool"):
            for level in range(8):
                colour = over(of[heat], of[ground], level * float(of["strength"]))
                assert contrast(rgb(of["ink"]), colour) >= 4.5, (ground, heat, level)


def test_no_line_or_bar_of_a_chart_is_faint():
    """They are drawn in the colours of text, and opaque."""
    script = (PAGES / "charts.js").read_text(encoding="utf-8")
    assert "opacity" not in script
    assert {*re.findall(r'colour\("--(\w+)"\)', script)} <= {"ink", "dim", "ours", "other", "line", "paper"}
