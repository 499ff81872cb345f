from hypothesis import given, settings
from hypothesis import strategies as st
from written_files import accounted, read, refusal, written

from lucidlm.text import reasons
from lucidlm.text.account import Account
from lucidlm.text.documents import read_texts

LINE = st.text(st.sampled_from("ab é.,-😀"), min_size=1, max_size=9).filter(str.strip)


@settings(max_examples=30)
@given(st.lists(st.lists(LINE, min_size=1, max_size=3), min_size=1, max_size=4), st.booleans(), st.booleans())
def test_the_lines_of_all_subtitles_are_the_text(tmp_path_factory, subtitles, is_vtt, tagged):
    path = tmp_path_factory.mktemp("subtitles") / ("a.vtt" if is_vtt else "a.srt")
    times = "00:00:0{}.000 --> 00:00:0{}.500 align:start" if is_vtt else "00:00:0{},000 --> 00:00:0{},500"
    written_lines = ["WEBVTT - a title\n"] if is_vtt else []
    for number, lines in enumerate(subtitles, 1):
        shown = [f"<i>{line}</i>" if tagged else line for line in lines]
        written_lines.append("\n".join([str(number), times.format(number, number), *shown]) + "\n")
    path.write_text("\n".join(written_lines), encoding="utf-8")
    account = Account()
    ((_, text),) = read_texts([path], account)
    assert text == "".join(line + "\n" for lines in subtitles for line in lines)
    assert account.seen["subtitles"] == len(subtitles)
    assert account.seen["subtitle_tags"] == 2 * tagged * sum(map(len, subtitles))
    assert account.extracted[path.suffix[1:]] == account.stored == path.stat().st_size
    assert account.read == account.text == len(text.encode())


def test_srt_as_people_have_it(tmp_path):
    srt = (
        '\ufeff1\n00:00:01,000 --> 00:00:02,500\n<font color="#fff">- He said 1 < 2.</font>\n42\n\n'
        "2\n00:00:03.000-->00:00:04.000 X1:5\n{\\an8}Up here\n3\n00:00:05,000 --> 00:00:06,000\nno gap\n"
    ).replace("\n", "\r\n")
    text, counts = accounted(written(tmp_path / "a.srt", srt))
    assert text == "- He said 1 < 2.\n42\nUp here\nno gap\n"
    assert counts == {reasons.CUES: 3, reasons.TAGS: 3}


def test_vtt_notes_styles_names_and_entities(tmp_path):
    vtt = (
        "WEBVTT\nKind: captions\n\nSTYLE\n::cue { color: red }\n\nNOTE one\ntwo\n\nintro - 1\n"
        "01:02.000 --> 01:03.000\n<v Mary>Tea &amp; <c.loud>toast</c>\n<01:02.500>now\n\n"
        "01:04.000 --> 01:05.000\nNOTE well\n"
    )
    text, counts = accounted(written(tmp_path / "a.vtt", vtt))
    assert text == "Tea & toast\nnow\nNOTE well\n"
    assert counts == {reasons.CUES: 2, reasons.TAGS: 4, reasons.NOTES: 2}


def test_what_has_no_times_is_refused_and_can_be_read_as_advised(tmp_path):
    assert ".txt" in refusal(written(tmp_path / "a.srt", "just a text\n"))
    assert read(written(tmp_path / "a.txt", "just a text\n")) == ["just a text\n"]


def test_subtitles_under_another_name_are_read_as_text_and_that_is_said(tmp_path):
    srt = "1\n00:00:01,000 --> 00:00:02,000\nHello\n"
    assert accounted(written(tmp_path / "a.txt", srt)) == (srt, {reasons.MARKUP + "subtitles": 1})
    assert read(written(tmp_path / "a.srt", srt)) == ["Hello\n"]


def test_the_headers_of_joined_files_are_no_text(tmp_path):
    part = "WEBVTT\nX-TIMESTAMP-MAP=MPEGTS:1,LOCAL:0\n\n00:01.000 --> 00:02.000\nspoken\n\n"
    assert read(written(tmp_path / "a.vtt", part * 3)) == ["spoken\n" * 3]
