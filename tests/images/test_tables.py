"""Tables of text: rows are what ``csv`` reads where nothing is broken, and what is broken stays in its row."""

from __future__ import annotations

import csv
import io
import random

import pytest

from gpuannot.images import tables
from gpuannot.images.tables import MAX_LINES, Table, image_column, word_column


def rows(text: str, **options: object) -> list[tuple[int, int, list[str]]]:
    found = list(Table(io.StringIO(text, newline=""), **options))  # type: ignore[arg-type]
    assert not any(row.fault for row in found)
    return [tuple(row[:3]) for row in found]  # type: ignore[misc]


def faults(text: str) -> list[tuple[int, list[str], str]]:
    return [(row.line, row.cells, row.fault[:20]) for row in Table(io.StringIO(text, newline=""))]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_what_csv_writes_is_what_is_read(delimiter: str, end: str, quoting: int) -> None:
    """Random cells of what makes CSV difficult, against what the writer of the standard library was given."""
    rng = random.Random(0)
    header = ["image", "note", "other"]
    breaks = "\n\r" if quoting == csv.QUOTE_ALL else end  # the writer leaves other line breaks than its own without quotes
    written = [["".join(rng.choices(f'ab {delimiter}",é\u2028{breaks}', k=rng.randrange(12))) for _ in header] for _ in range(300)]
    written = [[f"x{cell}" for cell in row] for row in written]  # no row is blank, no cell begins with a space and a quote
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=quoting)  # type: ignore[arg-type]
    writer.writerows([header, *written])
    assert [cells for *_, cells in rows(file.getvalue())] == written


def test_numbers_lines_and_blank_lines() -> None:
    assert rows('\nimage,n\n\na,1\n   \n"b\nc",2\r\nd,3') == [(0, 4, ["a", "1"]), (1, 6, ["b\nc", "2"]), (2, 8, ["d", "3"])]
    assert rows("") == rows("\n \n") == rows("image") == []


def test_quotes_behind_spaces_and_within_cells() -> None:
    assert rows('image, words\na, "x, y" ,\nb, "x" y\nc,5" "z"') == [
        (0, 2, ["a", "x, y", ""]),
        (1, 3, ["b", ' "x" y']),
        (2, 4, ["c", '5" "z"']),
    ]


@pytest.mark.parametrize("more", [0, 1, MAX_LINES - 1, MAX_LINES, MAX_LINES + 1])
def test_how_far_a_quoted_cell_may_go_on(more: int) -> None:
    text = 'image,n\n"a' + "\nx" * more + '",1\nb,2\n'
    found = list(Table(io.StringIO(text, newline="")))
    if more <= MAX_LINES:
        assert [row.cells for row in found] == [["a" + "\nx" * more, "1"], ["b", "2"]]
    else:
        assert [bool(row.fault) for row in found] == [True] + [False] * (more + 1)


def test_an_open_quote_does_not_reach_into_rows_that_it_would_not_fit() -> None:
    assert faults('image,n\n"a,1\nb,2\nc,3"\nd,4\n') == [
        (2, [], 'a quote (") is opene'),  # closed at the end of line 4, it would be a row of one cell
        (3, ["b", "2"], ""),
        (4, ["c", '3"'], ""),
        (5, ["d", "4"], ""),
    ]
    assert faults('image,n\n"a,1\n"b",2\n"c",3\n') == [
        (2, [], 'a quote (") is opene'),
        (3, ["b", "2"], ""),
        (4, ["c", "3"], ""),
    ]


def test_a_row_that_is_too_long_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_SIGNS", 10)
    for long in ("x" * 11, "x" * 35, '"' + "x\n" * 20):
        found = list(Table(io.StringIO(f"path\n{long}\nshort\n0123456789\n", newline="")))
        assert found[0].fault and [row.cells for row in found if not row.fault][-2:] == [["short"], ["0123456789"]]
    assert rows("path\n0123456789") == [(0, 2, ["0123456789"])]


def test_the_separator_is_the_one_that_gives_a_column_of_images() -> None:
    def separator(text: str, **options: object) -> str:
        return Table(io.StringIO(text, newline=""), **options).delimiter  # type: ignore[arg-type]

    assert [separator(f"n{each}image\n") for each in ",;\t|"] == [",", ";", "\t", "|"]
    assert separator("path\n") == "," and separator("path\n", tabs=True) == "\t"
    assert separator("image,a;b\n") == "," and separator("image;a,b\n") == ";"
    assert separator("no;usual;name\n") == "," and separator("no;usual;name\n", column="usual") == ";"
    assert separator("path,x\n", tabs=True) == ","


def test_names_of_columns() -> None:
    assert image_column(["words", " ImageID", "x"]) == 1 and image_column(["File-Name", "image"]) == 0
    assert image_column(["image", "file_path", "x"]) == 1 and image_column(["colour", "id"]) is None
    assert image_column(["path", "x "], "x") == 1 and image_column(["path", "x"], "X") is None
    assert word_column(["image", "tag", "Image Labels"]) == 2 and word_column(["LabelName"]) == 0 and word_column(["name"]) is None
