"""Where rows of CSV end: as Python's own reader finds them, whatever the blocks in which a file is read."""

import csv
import io
import random

import pytest

from tapeworks_workers.components.sources.csv_rows import Dialect, Unclosed

PIECES = ["a", '"', '""', ",", "\n", "\r\n", "\r", 'b,"', '"\n', '",', '24" ', "é"]


def rows_of(text: bytes) -> list[list[str]]:
    return [row for row in csv.reader(io.StringIO(text.decode(), newline="")) if row]


def test_rows_end_where_pythons_reader_ends_them_in_blocks_of_every_size() -> None:
    draw, dialect, closed = random.Random(1), Dialect(), 0
    for _ in range(1500):
        text = "".join(draw.choice(PIECES) for _ in range(draw.randrange(1, 25))).encode()
        try:
            whole = list(dialect.parts([text]))
        except Unclosed:
            continue
        closed += 1
        expected = rows_of(text)
        assert sum(part.count for part in whole) == len(dialect.starts(text)) == len(expected), text
        for size in (1, 2, 3, 7):
            parts = list(dialect.parts(text[start : start + size] for start in range(0, len(text), size)))
            read = [rows_of(text[part.start : part.end]) for part in parts]
            assert [len(rows) for rows in read] == [part.count for part in parts], (text, size)
            assert [row for rows in read for row in rows] == expected, (text, size)
    assert closed > 500


def test_a_quotation_mark_that_nothing_closes_is_found_where_it_opens() -> None:
    with pytest.raises(Unclosed) as found:
        list(Dialect().parts([b'a,b\n1,24"\n2,"x\n3,4\n']))
    assert found.value.offset == 12


def test_comments_end_with_their_line_and_hold_no_quotation_marks() -> None:
    dialect = Dialect(comment="#")
    text = b'# a "note\n1,"x # y"\n2,z # "more\n#\n3,"#"\n'
    (part,) = dialect.parts([text])
    assert part.count == 3
    assert rows_of(dialect.without_comments(text)) == [["1", "x # y"], ["2", "z "], ["3", "#"]]
    assert [text[start : start + 1] for start in dialect.starts(text).tolist()] == [b"1", b"2", b"3"]
