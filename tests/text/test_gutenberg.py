import pytest

from lucidlm.text.account import Account
from lucidlm.text.gutenberg import without_frame

HEADER = """The Project Gutenberg eBook of A Book

This eBook is for the use of anyone anywhere.

Title: A Book

"""
LICENCE = "\n\nUpdated editions will replace the previous one.\n" + "Section 1. Terms of use.\n" * 700
STORY = "\n\nProduced by somebody\n\nCHAPTER I\n\nIt was a ***dark*** night; START OF it.\n\n"
STARTS = [
    "*** START OF THE PROJECT GUTENBERG EBOOK A BOOK ***\n",
    "***START OF THIS PROJECT GUTENBERG EBOOK A BOOK***\n",
    "*** START OF THIS PROJECT GUTENBERG EBOOK, A BOOK ***\n",
    "*** START OF THE PROJECT GUTENBERG EBOOK 1342 ***\n",
    "*** START OF THE PROJECT GUTENBERG EBOOK A VERY LONG\nTITLE, OR: THE MODERN\nPROMETHEUS ***\n",
    "***START OF PROJECT GUTENBERG ETEXT\n",
    "*** Start of the Project Gutenberg EBook A Book ***\n",
    "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n",
    "*END THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n",
    "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*\n\n*** START OF THE PROJECT GUTENBERG EBOOK A ***\n",
    "*** START OF THE PROJECT GUTENBERG EBOOK A ***\n\nsmall\n*END*THE SMALL PRINT!*END*\n",
    "*** start of the project gutenberg ebook a book ***\n",
    "***** START OF THE COPYRIGHTED PROJECT GUTENBERG EBOOK A BOOK *****\n",
    "***END OF THE SMALL PRINT!***\n",
    "*end*the small print! for public domain etexts*ver.04.29.93*end*\n",
]
ENDS = [
    "*** END OF THE PROJECT GUTENBERG EBOOK A BOOK ***\n",
    "***END OF THIS PROJECT GUTENBERG EBOOK A BOOK***\n",
    "End of the Project Gutenberg EBook of A Book, by B\n\n*** END OF THIS PROJECT GUTENBERG EBOOK A ***\n",
    "End of Project Gutenberg's A Book, by B\n",
    "End of The Project Gutenberg Etext of A Book\n",
    "*** end of the project gutenberg ebook a book ***\n",
    "END OF PROJECT GUTENBERG'S A BOOK\n",
    "end of the project gutenberg edition of a book\n",
]


def unframed(text: str, piece: int = 1 << 20) -> tuple[str, dict[str, int]]:
    """What is left of a text that comes in pieces of this length, and what was counted."""
    account = Account()
    pieces = (text[start : start + piece] for start in range(0, len(text), piece))
    left = "".join(without_frame(pieces, account))
    assert len(left.encode()) + account.left_out.total() == len(text.encode())
    return left, account.left_out | account.seen


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("end", ENDS)
def test_the_frame_is_removed_and_said(start, end):
    frame = len(HEADER + start) + len(end + LICENCE)
    assert unframed(HEADER + start + STORY + end + LICENCE) == (
        STORY,
        {"gutenberg_frames": frame},
    )


@pytest.mark.parametrize("piece", [1, 7, 64, 1000, 4096])
def test_a_frame_cut_over_pieces_is_removed_all_the_same(piece):
    long_line = "no line end for long " * 300 + ENDS[0]  # the mark is not at the start of its line
    story = STORY + long_line + "more\n"
    assert unframed(HEADER + STARTS[4] + story + ENDS[2] + LICENCE[:3000], piece)[0] == story


def test_a_start_without_an_end_and_an_end_without_a_start():
    assert unframed(HEADER + STARTS[0] + STORY) == (
        STORY,
        {"gutenberg_frames": len(HEADER + STARTS[0]), "gutenberg_headers_without_footer": 1},
    )
    assert unframed(STORY + ENDS[0] + LICENCE) == (
        STORY,
        {"gutenberg_frames": len(ENDS[0] + LICENCE), "gutenberg_footers_without_header": 1},
    )
    assert unframed(STORY + ENDS[0].rstrip())[0] == STORY


def test_the_small_print_may_stand_at_the_end_of_a_book():
    story = STORY + "x\n" * 50_000
    header, footer = HEADER + STARTS[0], ENDS[3] + LICENCE + STARTS[7]
    assert unframed(header + story + footer) == (
        story,
        {"gutenberg_frames": len(header + footer)},
    )


def test_several_books_in_one_file_lose_their_frames_alone():
    story = STORY + "x\n" * 50_000
    text, counts = unframed((HEADER + STARTS[0] + story + ENDS[0] + LICENCE) * 3)
    assert text == story * 3
    assert counts == {"gutenberg_frames": 3 * len(HEADER + STARTS[0] + ENDS[0] + LICENCE)}


def test_a_frame_in_the_middle_of_a_corpus_does_not_take_the_rest_with_it():
    before, after = "other text\n" * 10_000, "and more text\n" * 10_000
    corpus = before + HEADER + STARTS[0] + STORY + ENDS[0] + LICENCE + after
    assert unframed(corpus) == (corpus, {"gutenberg_marks_kept": 2})


def test_a_mention_of_gutenberg_is_text():
    text = "I read it at Project Gutenberg.\nEnd of the Project Gutenberg was near.\n* END OF LIST\n"
    assert unframed(text) == (text, {})


def test_many_end_lines_take_linear_time():
    text = (ENDS[0] + "text\n" * 5) * 8_000 + "x\n" * 50_000
    assert unframed(text) == (text, {"gutenberg_marks_kept": 8_000})


def test_small_print_behind_a_footer_without_asterisks_does_not_take_the_book_with_it():
    book = "A short story. " * 20
    footer = "End of Project Gutenberg's A Short Story\n\n*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*\n"
    assert "".join(without_frame([f"{book}\n{footer}"], Account())).strip() == book.strip()


def test_prose_before_a_header_is_kept_and_the_mark_is_said():
    prose = "A story of somebody else, told at length.\n" * 100
    text = prose + HEADER + STARTS[0] + STORY
    assert unframed(text) == (text, {"gutenberg_marks_kept": 1})


def test_an_essay_about_the_end_of_project_gutenberg_is_text():
    essay = (
        "It was a spring.\n\nEnd of Project Gutenberg's monopoly: a summer.\n" + "More of the essay.\n" * 200
    )
    assert unframed(essay) == (essay, {"gutenberg_marks_kept": 1})
    short = STORY + "End of Project Gutenberg's A Book\n\n"
    assert unframed(short)[0] == STORY
    licensed = STORY + ENDS[3] + LICENCE + "Project Gutenberg is a trademark.\n"
    assert unframed(licensed)[0] == STORY


def test_small_print_of_somebody_else_is_text():
    text = "Our offer\n\n*END*THE SMALL PRINT*\n\nand the rest\n"
    assert unframed(text) == (text, {})
