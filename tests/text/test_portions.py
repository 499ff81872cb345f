"""Files come in, portions of them go out: where a file is divided."""

from made_texts import lines

from lucidlm.text import portions
from lucidlm.text.formats.decoding import File
from lucidlm.text.reading import READING


def test_a_file_is_divided_at_lines_and_only_where_its_parts_can_be_read_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    data = lines(7, 100).encode()
    path.write_bytes(data)

    def spans(file):
        lengths, size = [path.stat().st_size], len(data) // 5
        found = portions.portions([file], lengths, READING, size=size, whole=frozenset())
        return [portion.files[0].span for portion in found]

    divided = spans(File(path, "a.jsonl", "jsonl"))
    assert len(divided) == 5
    assert [start for start, _ in divided] == [0, *(end for _, end in divided[:-1])]
    assert all(data[end - 1 : end] == b"\n" for _, end in divided)
    assert spans(File(path, "a.jsonl", "jsonl", ("gz",))) == [None]
    assert spans(File(path, "a.jsonl", "csv")) == [None]
    path.write_bytes(data.replace(b"\n", b" "))
    assert spans(File(path, "a.jsonl", "jsonl")) == [None]
