import pytest

from keras_senti.data import records
from keras_senti.data.tables import Table
from keras_senti.errors import UserError


@pytest.fixture
def read(tmp_path):
    """Writes a file and returns its columns, its rows as (line, fields) and the notes as {what: (rows, lines)}."""

    def read_it(content, name="a.csv"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        table = Table(path)
        rows = [(line, list(row.values())) for line, row in table]
        assert [(line, list(row.values())) for line, row in table] == rows  # a second time the same
        return table.columns, rows, table.records.notes

    return read_it


# Header


def test_header_cells_without_a_name_are_named_by_their_place_as_pandas_does(read):
    columns, rows, _ = read(",text,,sentiment, \n0,a,,p,\n")
    assert columns == ["Unnamed: 0", "text", "Unnamed: 2", "sentiment", "Unnamed: 4"]
    assert rows == [(2, ["0", "a", "", "p", ""])]


def test_a_name_that_an_empty_header_cell_would_get_may_be_taken(read):
    assert read(",Unnamed: 0,text\n1,2,a\n")[:2] == (["Unnamed: 0_", "Unnamed: 0", "text"], [(2, ["1", "2", "a"])])


def test_spaces_and_invisible_characters_around_a_column_name_do_not_count(read):
    assert read("\ufeff\u200btext , sentiment\u00a0\na,p\n")[0] == ["text", "sentiment"]
    assert read("te\u0301xt,sentiment\na,p\n")[0] == ["t\u00e9xt", "sentiment"]


def test_cells_that_are_empty_behind_the_last_column_are_left_alone(read):
    assert read("text,sentiment\na,p,,\nb,n\n")[1] == [(2, ["a", "p"]), (3, ["b", "n"])]
    assert read("text,sentiment,,\na,p\nb,n,,\n")[1] == [(2, ["a", "p", "", ""]), (3, ["b", "n", "", ""])]


@pytest.mark.parametrize("row", ["a,p,x", "a"], ids=["a filled cell more", "a named cell less"])
def test_a_row_that_lacks_a_named_cell_or_has_one_too_many_is_refused(read, row):
    with pytest.raises(UserError, match=r"a\.csv, line 2: [13] fields, expected 2 as in the header"):
        read(f"text,sentiment\n{row}\n")


@pytest.mark.parametrize(
    "again",
    ["text,sentiment", '"text","sentiment"', "\ufefftext,sentiment", '\ufeff"text","sentiment"', "Text, Sentiment "],
    ids=["as it was", "quoted", "with its byte-order mark", "with mark and quotes", "in capitals"],
)
def test_rows_that_repeat_the_header_are_left_out_and_noted(read, again):
    _, rows, notes = read(f"text,sentiment\na,p\n{again}\ntext,p\nb,n\n{again}\n")
    assert rows == [(2, ["a", "p"]), (4, ["text", "p"]), (5, ["b", "n"])]
    assert notes == {"repeated header": (2, [3, 6])}


@pytest.mark.parametrize("first, separator", [("sep=,", ","), ('"sep=;"', ";"), ("sep=\t", "\t"), ("SEP=|", "|")])
def test_the_first_line_in_which_excel_names_the_separator_is_obeyed(read, first, separator):
    content = f"{first}\r\ntext{separator}sentiment\r\na{separator}p\r\n"
    assert read(content)[:2] == (["text", "sentiment"], [(3, ["a", "p"])])


# Quotes


def test_in_a_tsv_quotes_are_part_of_a_cell(read):
    _, rows, notes = read('text\tsentiment\n"a\tp\nb\tn\n30" c\tp\n"d"\tp\n"e ""f"" g"\tn\n', "a.tsv")
    assert [fields[0] for _, fields in rows] == ['"a', "b", '30" c', '"d"', '"e ""f"" g"']
    assert notes == {"quoted cell": (2, [5, 6])}  # which may be meant otherwise


def test_in_a_tsv_with_a_quoted_header_quotes_wrap_cells(read):
    _, rows, notes = read('"text"\t"sentiment"\n"a\tb\nc"\t"p"\nd ""\tn\n', "a.tsv")
    assert rows == [(2, ["a\tb\nc", "p"]), (4, ['d ""', "n"])] and notes == {}


def test_a_tsv_whose_text_holds_a_tab_says_that_quotes_do_not_help(read):
    with pytest.raises(
        UserError, match=r"a\.tsv, line 2: 3 fields, expected 2 .* Quotes mean nothing in a \.tsv: save"
    ):
        read('text\tsentiment\n"a\tb"\tp\n', "a.tsv")


def test_a_space_before_a_quote_is_left_out_and_noted(read):
    _, rows, notes = read('id, text, sentiment\n1, "a, ""b""", "p"\n "2","c, ""d"" e", n\n3,"f\n, ""g""",p\n')
    assert rows == [(2, ["1", 'a, "b"', "p"]), (3, ["2", 'c, "d" e', " n"]), (4, ["3", 'f\n, "g"', "p"])]
    assert notes == {"space before a quote": (2, [2, 3])}  # not the one inside a text


def test_a_space_after_a_quote_is_left_out_and_noted(read):
    columns, rows, notes = read('"text" ,  "sentiment" \n"a, b" ,p\n"c" ,  "n" \nd,p\n')
    assert columns == ["text", "sentiment"] and rows == [(2, ["a, b", "p"]), (3, ["c", "n"]), (4, ["d", "p"])]
    assert notes == {"space before a quote": (2, [1, 3]), "space after a quote": (3, [1, 2, 3])}


def test_a_tab_or_a_hard_space_at_a_quote_is_one_too(read):
    _, rows, notes = read('text,sentiment\n"a",\t"p"\n\u00a0"b, c",\u00a0"n"\u00a0\n')
    assert rows == [(2, ["a", "p"]), (3, ["b, c", "n"])]
    assert notes == {"space before a quote": (2, [2, 3]), "space after a quote": (1, [3])}


def test_a_separator_behind_a_backslash_is_named(read):
    with pytest.raises(UserError, match=r"line 2: 3 fields, .* A backslash before it \(\\,\) does not make it part"):
        read("text,sentiment\na\\, b,p\n")


def test_quotes_behind_a_backslash_are_quotes_where_nothing_else_makes_sense(read):
    lines = r""""a \"b\" c",p|"d\"|e \"f",n|"g \",h",p|"i \"",n|"j",p|"C:\",n|"k \\ \"l\"",p""".split("|")
    _, rows, notes = read("\n".join(["text,sentiment", *lines]))
    assert [fields for _, fields in rows] == [
        ['a "b" c', "p"], ['d"\ne "f', "n"], ['g ",h', "p"], ['i "', "n"], ["j", "p"], ["C:\\", "n"],
        ['k \\ "l"', "p"],
    ]  # fmt: skip
    assert [line for line, _ in rows] == [2, 3, 5, 6, 7, 8, 9]
    assert notes == {"backslash": (5, [2, 3, 5, 6, 9])}


def test_a_record_that_backslashes_do_not_mend_is_refused_by_its_first_line(read):
    with pytest.raises(UserError, match=r"a\.csv, line 3: .*not valid CSV.*behind a backslash \(.*\) do not make it"):
        read('text,sentiment\na,p\n"b \\"c\\" d,n\ne,p\n')


# Line ends


def test_a_carriage_return_inside_a_line_is_read_as_a_space_and_noted(read):
    _, rows, notes = read('text,sentiment\na\rb,p\n"c\rd",n\ne,p\r\nf,n')
    assert rows == [(2, ["a b", "p"]), (3, ["c\rd", "n"]), (4, ["e", "p"]), (5, ["f", "n"])]
    assert notes == {"carriage return": (1, [2])}


def test_carriage_returns_that_end_whole_rows_are_line_ends(read):
    _, rows, notes = read('text,sentiment\r\na,p\r"b, c",n\rd,p\ne,n\r\r\n')
    assert rows == [(2, ["a", "p"]), (3, ["b, c", "n"]), (4, ["d", "p"]), (5, ["e", "n"])]
    assert notes == {"carriage return as line end": (1, [2])}


def test_a_file_whose_lines_all_end_in_a_carriage_return_is_read(read):
    assert read('text,sentiment\ra,p\r"b\rc",n\rd,p')[1] == [(2, ["a", "p"]), (3, ["b\rc", "n"]), (4, ["d", "p"])]


def test_carriage_returns_between_json_objects_are_line_ends(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\r{"text": "b"}\r\n\n\xef\xbb\xbf{"text": "c"}\n')  # joined with its mark
    assert list(Table(path)) == [(1, {"text": "a"}), (2, {"text": "b"}), (4, {"text": "c"})]


# Limits


def test_a_record_above_the_limit_is_refused_before_it_is_in_memory(read, monkeypatch):
    monkeypatch.setattr(records, "MOST_BYTES", 1000)
    assert len(read(f"text,sentiment\n{'a' * 900},p\n{'b' * 900},n\n")[1]) == 2
    with pytest.raises(UserError, match=r"a\.csv, line 3: the record that begins here is longer than .* never closed"):
        read('text,sentiment\na,p\n"b,n\n' + "c,p\n" * 400)


def test_a_line_above_the_limit_is_refused_before_it_is_in_memory(tmp_path):
    path = tmp_path / "a.jsonl"
    with open(path, "wb") as file:
        file.write(b'{"text": "a"}\n{"text": "')
        file.truncate(65 * 2**20)  # zeros that take no space on the disk
    with pytest.raises(UserError, match=r"a\.jsonl, line 2: is longer than 64 MB"):
        list(Table(path))
