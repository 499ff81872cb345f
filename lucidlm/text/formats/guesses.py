"""Bytes that did not decode come in, the encodings in which they are plausible text go out, best first.

A candidate must decode all bytes. Its score is the number of bits that a simple model of the best fitting
language needs for the decoded text: from the frequency of each letter, and a penalty for letters in unlikely
places. All candidates explain the same bytes, so their bits can be compared. Candidates close to the best are
named too. Bytes that no language explains have no likely encoding. benchmarks/encodings.py compares this with
charset-normalizer.
"""

import codecs
import functools
import math
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

_SAMPLE = 1 << 14
"""Bytes that are scored: lines with characters beyond ASCII."""
_GLANCE = 1 << 11
"""Bytes that show whether a given encoding is wrong, in one or two milliseconds."""
_MOST = 1 << 24
"""Bytes that a candidate must decode."""
_DOUBT = 10.0
"""Bits: a candidate that needs this many more than the best is not named (odds of 1,000 to 1)."""
_IMPLAUSIBLE = 6.5
"""Bits per byte: noise needs 8, text 4 to 6."""
_FAULTS = {"utf-8": 0.1} | dict.fromkeys(("cp932", "euc_jp", "gb18030", "big5hkscs", "cp949"), 0.02)
"""The largest share of wrong characters in a text that is otherwise in this encoding."""
_ASCII, _RARE, _CONTROL = 4.2, 16.0, 24.0
_MISPLACED = 12.0
"""Bits for a letter in an unlikely place: a capital after a small letter, two scripts in one word."""

_WEST = ("cp1252", "latin-1", "mac-roman", "cp850")
_CANDIDATES = (
    "utf-8", *_WEST,
    "cp1250", "iso8859-2", "cp1254", "cp1257", "iso8859-13",
    "cp1251", "koi8-r", "koi8-u", "cp866", "iso8859-5", "mac-cyrillic",
    "cp1253", "iso8859-7", "cp1255", "iso8859-8", "cp1256", "iso8859-6", "cp874",
    "cp932", "euc_jp", "gb18030", "big5hkscs", "cp949",
    "iso2022_jp_ext", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "cp037",
)  # fmt: skip
"""If two give the same text, the earlier one is named."""
_SELDOM = dict.fromkeys(("mac-roman", "cp850", "mac-cyrillic", "iso8859-5", "iso8859-13", "cp037"), 7.0)
"""Additional bits for rare encodings."""
_LATIN = {
    "German": "äüößé",
    "French": "éèàêçùâôîûœëïæ",
    "Spanish": "óíáéñúü",
    "Portuguese": "ãçéáóêíõúâôà",
    "Italian": "èàòùìé",
    "Dutch": "ëéïèö",
    "Nordic": "åäöøæéü",
    "Icelandic": "áðíúþöéýóæ",
    "Polish": "łąężśćóńź",
    "Czech": "íáěéřžýčšůúňďťó",
    "Slovak": "áíčéžýšúľťôňďäóĺŕ",
    "Hungarian": "áéöőíóüúű",
    "Romanian": "ăâîşţșț",
    "Croatian": "čšžćđ",
    "Turkish": "ıüşğöçâ",
    "Lithuanian": "ėšžųįūąčę",
    "Latvian": "āīšēūžņļķģčŗ",
    "Estonian": "äõüöšž",
}
_SCRIPTS = {
    "Russian": "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъё",
    "Ukrainian": "оаинвіертсклмудпяьзбгйчхїцюєжшщґф",
    "Bulgarian": "аоиентрсвлкдпмзягъбучщхжцшюйьф",
    "Serbian": "аиоенртсвкјудмлпзгбчшцжљхњћђфџ",
    "Greek": "αοιετσνηυρπκμλωόίάγδέθχφβήύξώςζψϊϋ",
    "Hebrew": "יוהלאתמרבשנעדפחקצכטגזסםןךףץ",
    "Arabic": "الينمورتبةعدسفهكقحجشطصخذضزثأءىغئظؤآإ",
    "Persian": "اینردمهوتبسشکلگفزقخعپجحذچصطضغظثژآئ",
    "Thai": "านรกอเง่ย้ลมัทวีตสิดหปบ์ุ็คพขะืจชไใแูำโผถซณภศษธญฐฉฟฝฆฏฎฑฒฌฬฮๆฯ๎ๅ",
}
_KANA = (
    "のいたにるはてとしをかがれでなもすっりこんらさまうきあくよそだけえわちせめおどつみやねじろばげび",
    "ンーストルクイラリアレドシタコプフジマロテデグサカッナメブウエィチビニオキパバ",
)
_KANJI = (
    "人一日大年出本中子見国言上分生手自行者二間事思時気会十家女三前的方入小地合後目長場代私下立部学物月"
    "田何来彼話体動社知理山内同心発高実作当新世今書度明五戦力名金性対意用男主通関文屋感郎業定政持道外取"
)
_HANZI = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里"
    "用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实"
    "日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很最重并物手应战向头文体政"
    "這個們來為國說時會對於後裡種經麼學現當沒動還進樣開從實軍無與長機業將兩間問戰應頭體話產給員爾門東聲論處"
    "美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常先海通教儿原东声提立及比员解"
)
_HANGUL = "이다는의을가에고하지로한를은도서기나사리대인자어들시해수있일정그아주전면라여상보부제구니장과만위우"
_TYPOGRAPHY = "’“”‘–—…„«»°·§€©®×½£¡¿•\u00a0²³ªº№"
_CJK_SIGNS = "、。，「」．・！？：；（）『』《》“”‘’—…〜～　０１２３４５６７８９"
_SCRIPT = "\u0370-\u04ff\u0590-\u06ff\u0e00-\u0e7f"
"""Greek, Cyrillic, Hebrew, Arabic, Thai."""
_MIXED = re.compile(f"[A-Za-z](?=[{_SCRIPT}])|[{_SCRIPT}](?=[A-Za-z])")
_LONE = re.compile(f"(?<![{_SCRIPT}])[{_SCRIPT}](?![{_SCRIPT}])")
"""A single letter of another script: unlikely in a text that is mostly ASCII."""
_QUOTED = re.compile(r"[^\W\d_][“”„«»°§€£¡¿©®º•·×½](?=[^\W\d_])")
_CAPITAL = re.compile(r"[^\W\d_]{2,}")


def likely_encodings(first: bytes, rest: Iterable[bytes] = (), *, without: str = "") -> list[str]:
    """Up to three encodings that decode these bytes to plausible text, the likeliest first.

    `first` begins at the start of a character; `without` is the encoding that has already failed.
    """
    data = bytearray(first)
    for block in rest:
        if len(data) >= _MOST:
            break
        data += block
    whole = len(data) < _MOST
    sample = _sample_of(bytes(data))
    bits: dict[str, tuple[float, str]] = {}
    for codec in _CANDIDATES:
        text = _decoded(sample, codec, cut=True) if codec != without else None
        if text is None or text in bits or "\0" in text:
            continue
        if _decoded(bytes(data), codec, cut=not whole) is not None:
            bits[text] = (_bits(text) + _SELDOM.get(codec, 0), codec)
    ranked = sorted(bits.values())
    if not ranked or ranked[0][0] > _IMPLAUSIBLE * len(sample):
        return []
    return [codec for cost, codec in ranked if cost <= ranked[0][0] + _DOUBT][:3]


def faults_in(data: bytes, encoding: str) -> int:
    """Number of wrong characters in a text that is otherwise in this encoding; 0 if it is not.

    Only for encodings with several bytes per character: in the others hardly any byte is wrong.
    """
    if encoding not in _FAULTS:
        return 0
    text = codecs.getincrementaldecoder(encoding)("replace").decode(data)
    faults = text.count("\ufffd") - (data.count("\ufffd".encode()) if encoding == "utf-8" else 0)
    return faults if faults <= sum(char > "\x7f" for char in text) * _FAULTS[encoding] else 0


def nearly_in(data: bytes) -> tuple[str, int] | None:
    """The encoding in which all but a few of these bytes are text, and how many are wrong; None if none."""
    sample = _sample_of(data)
    found = [
        (_bits(sample.decode(codec, "replace")), codec, faults)
        for codec in _FAULTS
        if (faults := faults_in(sample, codec))
    ]
    bits, codec, faults = min(found, default=(math.inf, "", 0))
    return (codec, faults) if bits <= _IMPLAUSIBLE * len(sample) else None


def reads_better_otherwise(block: bytes, encoding: str) -> bool:
    """Whether a file's first bytes are much more plausible in another encoding than in the given one."""
    sample = _sample_of(block, _GLANCE)
    given = _decoded(sample, encoding, cut=True)
    beyond = len(sample) if b"\0" in sample else sum(byte > 0x7F for byte in sample)
    if given is None or not beyond:
        return False
    best = next(iter(likely_encodings(sample)), encoding)
    text = _decoded(sample, best, cut=True)
    return text is not None and text != given and _bits(given) - _bits(text) > max(40.0, 1.0 * beyond)


def _sample_of(data: bytes, size: int = _SAMPLE) -> bytes:
    """Lines with bytes beyond ASCII; the start of data that has no such bytes, or NULs (UTF-16, UTF-32)."""
    if b"\0" in data or data.isascii():
        return data[: size & ~3]
    sample = bytearray()
    for line in data.split(b"\n"):
        if len(sample) >= size:
            break
        if not line.isascii():
            sample += line[:size] + b"\n"
    # Without line ends: UTF-16 without NULs (Chinese) would be cut within characters.
    return bytes(sample) if b"\n" in data[:size] else data[: size & ~3]


def _decoded(data: bytes, codec: str, *, cut: bool) -> str | None:
    """The text, or None if it does not decode. With `cut` the last character may be incomplete."""
    try:
        return codecs.getincrementaldecoder(codec)().decode(data, final=not cut)
    except UnicodeError:
        return None


def _bits(text: str) -> float:
    """Bits that the best fitting language needs for this text."""
    # A word in capitals costs one bit a letter more than in small letters: titles are written so.
    shouted = [word for word in _CAPITAL.findall(text) if word.isupper() and not word.isascii()]
    quiet = Counter(text) - Counter("".join(shouted)) + Counter("".join(shouted).lower())
    counts = [(char, count, _cost_of_any(char)) for char, count in quiet.items()]
    best = min(sum(model.get(char, any_) * count for char, count, any_ in counts) for model in _models())
    lone = _LONE.findall(text) if _is_mostly_ascii(text) else ()
    misplaced = len(lone) + len(_MIXED.findall(text)) + len(_QUOTED.findall(text)) + _misplaced_capitals(text)
    return best + _MISPLACED * misplaced + sum(map(len, shouted))


def _is_mostly_ascii(text: str) -> bool:
    return 2 * sum(map(str.isascii, text)) > len(text)


def _misplaced_capitals(text: str) -> int:
    """Capitals after a small letter, in words, where one of the two is not ASCII."""
    misplaced = 0
    for word, count in Counter(word for word in _CAPITAL.findall(text) if not word.isascii()).items():
        misplaced += count * sum(
            a.islower() and b.isupper() and not (a.isascii() and b.isascii()) for a, b in pairwise(word)
        )
    return misplaced


def _cost_of_any(char: str) -> float:
    """Bits for a character that a language does not have."""
    if char < "\x80":
        return _ASCII if char >= " " or char in "\t\n\r\f" else _CONTROL
    if "\u0080" <= char < "\u00a0" or "\ue000" <= char < "\uf900" or char >= "\U00020000":
        return _CONTROL
    return _RARE


@functools.cache
def _models() -> list[dict[str, float]]:
    """Bits for each character, in each language."""
    signs = _shares(_TYPOGRAPHY, 0.06)
    latin = [_with_capitals(letters, 0.9) | signs for letters in _LATIN.values()]
    scripts = [_with_capitals(letters, 0.9) | signs for letters in _SCRIPTS.values()]
    cjk_signs = _shares(_CJK_SIGNS, 0.1)
    kana, katakana = _KANA
    japanese = (
        _level("euc_jp", 0xB0, 0xCF, 0.08)
        | {chr(code): 10.0 for code in range(0x3041, 0x30FB)}
        | _shares(_KANJI, 0.18)
        | _shares(katakana, 0.12)
        | _shares(kana, 0.5)
    )
    chinese = _level("gb2312", 0xB0, 0xD7, 0.25) | _shares(_HANZI, 0.65)
    taiwanese = _level("big5", 0xA4, 0xC6, 0.25) | _shares(_HANZI, 0.65)
    korean = _level("euc_kr", 0xB0, 0xC8, 0.4) | _shares(_HANGUL, 0.5)
    wide = [model | cjk_signs for model in (japanese, chinese, taiwanese, korean)]
    return [*latin, *scripts, *wide]


def _with_capitals(letters: str, mass: float) -> dict[str, float]:
    small = _shares(letters, mass)
    capitals = {letter.upper(): bits + 4.0 for letter, bits in small.items() if letter.upper() != letter}
    return capitals | small


def _shares(characters: str, mass: float) -> dict[str, float]:
    """Bits for characters given from frequent to rare; the frequency falls as 1 / (rank + 4)."""
    unique = list(dict.fromkeys(characters))
    weights = [1 / (rank + 4) for rank in range(len(unique))]
    return {char: math.log2(sum(weights) / weight / mass) for char, weight in zip(unique, weights)}


def _level(codec: str, first: int, last: int, mass: float) -> dict[str, float]:
    """Bits for the frequent characters of a national standard, which has them in certain rows."""
    trails = (*range(0x40, 0x7F), *range(0xA1, 0xFF)) if codec == "big5" else range(0xA1, 0xFF)
    rows = (bytes([lead, trail]) for lead in range(first, last + 1) for trail in trails)
    characters = "".join(pair.decode(codec, "ignore") for pair in rows)
    return dict.fromkeys(characters, math.log2(len(characters) / mass))
