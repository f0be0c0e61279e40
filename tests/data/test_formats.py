import os
import threading

import pytest

from keras_senti.data.formats import guess_encoding
from keras_senti.data.tables import Table, read_lines
from keras_senti.errors import UserError

TEXTS = {
    "gb18030": "这个酒店的房间很干净，服务也很好，下次还会来的。",
    "big5": "這個酒店的房間很乾淨，服務也很好，下次還會來的。",
    "euc_jp": "このカメラはとても良いです。でも重い",
    "shift_jis": "このカメラはとても良いです。でも重い",
    "euc_kr": "이 호텔은 정말 좋았어요. 다시 가고 싶습니다",
    "cp1251": "Очень хороший отель, мне понравилось",
    "koi8_r": "Очень хороший отель, мне понравилось",
    "cp1252": "café très élégant – “déjà vu”, naïve Größe",
}


@pytest.mark.parametrize("encoding", TEXTS)
def test_the_probable_encoding_is_found(encoding):
    assert guess_encoding(f"text,label\n{TEXTS[encoding]}\n".encode(encoding)) == encoding
    assert guess_encoding(f"text,label\n{TEXTS[encoding]}\n".encode()) is None


@pytest.mark.parametrize(
    "separator, shown",
    [(";", "';'"), ("\t", r"'\t'"), ("|", "'|'"), ("@", "'@'"), ("::", "'::'"), (" | ", "'|'"), ("\x1f", r"'\x1f'")],
)
def test_another_separator_and_encoding_are_named_together_with_the_line_of_pandas(tmp_path, separator, shown):
    path = tmp_path / "a.csv"
    path.write_bytes(f"text{separator}sentiment\nd\u00e9j\u00e0, vu{separator}p\n".encode("cp1252"))
    with pytest.raises(UserError) as error:
        Table(path).require_column("text", "data.text_column")
    message = str(error.value)
    assert f"It seems to be separated by {shown} and encoded in CP1252." in message
    assert "pandas.read_csv('a.csv', sep=" in message and "encoding='cp1252', dtype=str" in message


@pytest.mark.parametrize("separator, shown", [(";", "';'"), ("|", "'|'"), ("\t", r"'\t'"), (" ", "' '")])
def test_another_separator_between_quoted_names_is_named(tmp_path, separator, shown):
    path = tmp_path / "a.csv"
    path.write_text(separator.join(['"text"', '"sentiment"\n"a; b, c | d"', '"p"\n']))
    with pytest.raises(UserError) as error:
        Table(path)
    assert f"line 1: the header is not separated by ','. It seems to be separated by {shown}. Save" in str(error.value)


def test_commas_in_a_tsv_are_named(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("text,sentiment\na,p\n")
    with pytest.raises(UserError, match=r"seems to be separated by ','\. Save it with commas.*sep=','"):
        Table(path).require_column("text", "data.text_column")


def test_a_misspelt_column_is_not_taken_for_another_separator(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("v1,v2,,,\na,p,,,\n")
    with pytest.raises(UserError, match=r"The file has 'v1', 'v2', .*'Unnamed: 4'\.$"):
        Table(path).require_column("text", "data.text_column")
    path.write_text("the text,sentiment_id\na,p\n")
    with pytest.raises(UserError, match=r"The file has 'the text', 'sentiment_id'\. Did you mean 'sentiment_id'\?$"):
        Table(path).require_column("sentiment", "data.label_column")


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_the_line_in_which_excel_names_the_separator_is_left_out_of_the_conversion(tmp_path, encoding):
    path = tmp_path / "a.csv"
    path.write_bytes("sep=;\r\nid;text;sentiment\r\n1;d\u00e9j\u00e0, vu;p\r\n".encode(encoding))
    with pytest.raises(UserError, match="It seems to be encoded in ") as error:
        list(Table(path))
    assert f"'a.csv', skiprows=1, sep=';', encoding='{encoding}', dtype=str" in str(error.value)


def test_another_separator_than_the_first_line_names_is_named(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("sep=;\ntext,sentiment\na,p\n")
    with pytest.raises(UserError, match=r"seems to be separated by ','\. .*skiprows=1, sep=','"):
        Table(path).require_column("text", "data.text_column")


def test_a_byte_that_is_not_utf_8_far_down_is_explained_like_one_at_the_top(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,sentiment\n" + b"a long text,p\n" * 80_000 + b"d\xe9j\xe0,n")
    with pytest.raises(UserError, match=r"line 80002: byte 0xe9 .*seems to be encoded in CP1252"):
        list(Table(path))


def test_one_line_in_another_encoding_is_not_taken_for_the_encoding_of_the_file(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("text,sentiment\nd\u00e9j\u00e0,p\n".encode() + b"d\xe9j\xe0,n\n")
    with pytest.raises(UserError, match=r"line 3: byte 0xe9 .* The lines before it are UTF-8: .* Mend it\.$"):
        list(Table(path))


@pytest.mark.parametrize("content, options", [
    (b'[{"text": "a"}, {"text": "b"}]', ""),
    (b'[\n {"text": "a"}\n]', ""),
    ('{"text": "d\u00e9j\u00e0"}'.encode("cp1252"), "encoding='cp1252', lines=True, "),
], ids=["a list", "a list in lines", "in another encoding"])  # fmt: skip
def test_other_json_is_converted_to_json_lines(tmp_path, content, options):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json, line 1: .* Save it with one object a line") as error:
        Table(path)
    assert f"pandas.read_json('a.json', {options}dtype=False" in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf_16_is_named_with_or_without_its_mark(tmp_path, encoding):
    path = tmp_path / "a.csv"
    path.write_bytes("text,sentiment\na,p\n".encode(encoding))
    with pytest.raises(UserError, match=rf"a\.csv: is not UTF-8\. .*encoding='{encoding}'"):
        Table(path)


def test_tabs_in_utf_16_as_excel_saves_unicode_text_are_named(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("text\tsentiment\na, b\tp\n".encode("utf-16"))
    with pytest.raises(UserError, match=r"separated by '\\t' and encoded in UTF-16\. .*sep='\\t', encoding='utf-16'"):
        Table(path)


def test_a_tsv_in_another_encoding_is_converted_with_its_tabs(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes("text\tsentiment\nd\u00e9j\u00e0\tp\n".encode("cp1252"))
    with pytest.raises(
        UserError, match=r"line 2: byte 0xe9 .*seems to be encoded in CP1252\. .*'a\.tsv', sep='\\t', enc"
    ):
        list(Table(path))


@pytest.mark.parametrize("name, content, what, call", [
    ("a.parquet", b"PAR1\x15\x04", "a Parquet file", r"read_parquet\('a\.parquet'\)\.to_csv\('a\.csv', index=False\)"),
    ("a.feather", b"ARROW1\0\0", r"an Arrow \(Feather\) file", r"read_feather\('a\.feather'\)"),
    ("a.xlsx", b"PK\x03\x04" + b"\0" * 26 + b"[Content_Types].xml", "an Excel workbook", r"read_excel\('a\.xlsx'\)"),
    ("a.csv", b"PK\x03\x04" + b"\0" * 26 + b"[Content_Types].xml", "an Excel workbook", r"read_excel\('a\.csv'\)"),
    ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1", r"an Excel workbook \(\.xls\)", r"read_excel\('a\.xls'\)"),
    ("a.zip", b"PK\x03\x04" + b"\0" * 26 + b"a.csv", "a zip archive", r"Unpack it, .*read_csv\('a\.zip'\)"),
    ("a.csv.bz2", b"BZh91AY", "a bzip2 file", r"Unpack it"),
], ids=["parquet", "feather", "xlsx", "xlsx named csv", "xls", "zip", "bz2"])  # fmt: skip
def test_another_format_is_named_with_the_line_of_pandas_that_converts_it(tmp_path, name, content, what, call):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: is {what}, expected text in UTF-8\. .*{call}") as error:
        Table(path)
    assert "iconv" not in str(error.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("read", [Table, lambda path: next(read_lines(path))], ids=["table", "lines"])
def test_a_pipe_or_a_device_is_refused_at_once(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.csv")
    for path in (tmp_path / "pipe.csv", type(tmp_path)("/dev/zero")):
        found = []

        def refuse(path=path, found=found):
            with pytest.raises(UserError, match="is a pipe or a device, expected a file"):
                read(path)
            found.append(True)

        thread = threading.Thread(target=refuse, daemon=True)  # which a failure would leave waiting
        thread.start()
        thread.join(10)
        assert found == [True]
