"""records.py: the texts in .json, .jsonl, .ndjson, .csv and .tsv files, and which records are bad."""

import gzip
import json
import tracemalloc

import pytest

from command.errors import UserError
from corpus import read_text, records
from corpus.read_text import TextFormat, check_text_column, read_documents
from document_files import documents, error_of


def test_records_of_jsonl(tmp_path, block):
    texts = ['ä "quoted"\nline', '', '\U0001f600', 'x' * 50]
    lines = [json.dumps({'n': 1, 'text': text}, ensure_ascii=number % 2 == 0) for number, text in enumerate(texts)]
    (tmp_path / 'a.jsonl').write_text('\r\n'.join([*lines, '', ' ', '{"text": "a\\r\\nb\\rc \\ud800", "n": {}}']), newline='')
    assert documents(tmp_path / 'a.jsonl', text_column='text') == [*texts, 'a\nb\nc \ufffd']


@pytest.mark.parametrize('content, message', [
    ('{"t": "a"}\n\n{"u": 1, "v": 2}\n', " line 3 has no column 't' (--text_column); it has 'u', 'v'"),
    ('{}', " line 1 has no column 't' (--text_column); it has none"),
    ('{"t": "a"}\n["t"]', " line 2 must hold an object, with the column 't'"),
    ('{"t": null}', " line 1: the column 't' holds null; expected text"),
    ('{"t": "a"}\n{"t": "b"', ' line 2 is not JSON: '),
    ('{"t":' * 100_000, ' line 1 is not JSON: '),
])
def test_mistakes_in_jsonl(tmp_path, content, message):
    assert error_of(tmp_path / 'a.jsonl', content, text_column='t').startswith(message)


@pytest.mark.parametrize('suffix', ['jsonl', 'csv'])
def test_a_record_that_is_too_long(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(records, 'LONGEST_RECORD', 1000)
    monkeypatch.setattr(read_text, 'BLOCK', 10)
    line = {'jsonl': '{"t": "%s"}\n', 'csv': 't\n"%s"\n'}[suffix]
    (tmp_path / f'a.{suffix}').write_text(line % ('a ' * 490) + (line % 'short').replace('t\n"', '"') * 200)
    assert documents(tmp_path / f'a.{suffix}', text_column='t') == ['a ' * 490] + ['short'] * 200
    assert error_of(tmp_path / f'a.{suffix}', line % 'a\n' + line % ('a ' * 510) if suffix == 'csv' else '{"t": ""}\n' + line % (
        'a ' * 510), text_column='t').endswith('has more than 1000 characters, too many for one record: split it')
    assert 'field larger than field limit' in error_of(tmp_path / 'a.csv', 't\n"' + 'a line\n' * 200, text_column='t')


@pytest.mark.parametrize('suffix', ['json', 'jsonl', 'ndjson'])
def test_json_without_a_column(tmp_path, suffix):
    path = tmp_path / f'a.{suffix}'
    for content in ('[{"id": 1, "t": ""}]', '\n{"id": 1, "t": ""}\n'):
        line = 1 + content.startswith('\n')
        assert error_of(path, content, skip_bad_records=True) == (
            f' line {line} holds a record: name the column of its text (--text_column), or leave the file out by a glob such as '
            "*.txt; it has 'id', 't'")
    for content in ('["one", "two\\n"]', '"one"\n"two\\n"\n'):
        path.write_text(content)
        assert documents(path) == ['one', 'two\n']
    assert error_of(path, '["one", 2]') == ' line 1 holds 2; expected text, or an object'
    assert error_of(path, '["one"]', text_column='t') == " line 1 must hold an object, with the column 't'"


def test_records_of_csv(tmp_path, block):
    long = 'y' * 200_000        # more than the csv module accepts by default
    (tmp_path / 'a.csv').write_bytes(f'id,text\r\n1,"two\r\nlines, ""quoted"""\r\n\r\n2,\r\n3,{long}'.encode())
    if block > 9:
        assert documents(tmp_path / 'a.csv', text_column='text') == ['two\nlines, "quoted"', '', long]
        assert documents(tmp_path / 'a.csv')[0].startswith('id,text\n1,"two\n')


@pytest.mark.parametrize('content, message', [
    ('a,b\n1,2\n', " line 1 has no column 't' (--text_column); it has 'a', 'b'"),
    ('a,t\n1,2\n\n1,2,3\n', ' line 4 has 3 columns, but the first row 2'),
    ('a,t\n1,2\n1\n', ' line 3 has 1 columns, but the first row 2'),
    ('a,t\n1,"2\n3\n', ' line 3 is not CSV: '),
    ('a,t\n1,"2"3\n', ' line 2 is not CSV: '),
])
def test_mistakes_in_csv(tmp_path, content, message):
    assert error_of(tmp_path / 'a.csv', content, text_column='t').startswith(message)


TEXTS = ['one', 'a "quote", a \\ and a bracket ]', '', '{', 'é\u2028[', 'two\nlines\\']
RECORDS = [{'n': [{}, [number]], 't': text, 'more': {'t': None}} for number, text in enumerate(TEXTS)]


@pytest.mark.parametrize('name', ['a.json', 'a.jsonl', 'a.ndjson', 'A.JSON'])
@pytest.mark.parametrize('indent', [None, 0, 2, '\t'])
@pytest.mark.parametrize('ascii', [True, False])
def test_an_array_of_records(tmp_path, block, name, indent, ascii):
    (tmp_path / name).write_text(f' \n{json.dumps(RECORDS, indent=indent, ensure_ascii=ascii)}\n')
    assert documents(tmp_path / name, text_column='t') == TEXTS


@pytest.mark.parametrize('between', ['\n', '\n\n', '\r\n', ''])
@pytest.mark.parametrize('indent', [None, 0, 2])
def test_objects_one_after_the_other(tmp_path, block, indent, between):
    """Those of several lines are for .json alone."""
    content = between.join(json.dumps(record, indent=indent) for record in RECORDS)
    for name in ('a.json', 'a.jsonl', 'a.ndjson')[:None if indent is None and between else 1]:
        (tmp_path / name).write_text(f'\n{content}', newline='')
        assert documents(tmp_path / name, text_column='t') == TEXTS


def test_empty_json(tmp_path, block):
    for content in ('', '\n \n', '[]', ' [\n]\n'):
        (tmp_path / 'a.json').write_text(content)
        assert documents(tmp_path / 'a.json', text_column='t') == documents(tmp_path / 'a.json') == []


GOOD = '{"t": "good"}'


@pytest.mark.parametrize('name, content, message, others', [
    ('a.json', f'[{GOOD},\n{{"t": bad}},\n{GOOD}]', ' line 2 is not JSON: Expecting value', 2),
    ('a.json', f'[{GOOD},\n\n{{"t": 1}}, {GOOD}]', " line 3: the column 't' holds 1; expected text", 2),
    ('a.json', f'[{GOOD}, [],\n{GOOD}]', " line 1 must hold an object, with the column 't'", 2),
    ('a.json', f'{GOOD}\n{{"t": "bad"\n{GOOD}\n', ' line 2 is not JSON: ', 2),
    ('a.json', f'{GOOD}\nbad\n{GOOD}\n', ' line 2 is not JSON: ', 2),
    ('a.json', f'{{\n"u": "bad"}}\n{GOOD}', " line 1 has no column 't' (--text_column); it has 'u'", 1),
    ('a.json', f'[{GOOD}]\nmore', ' line 2 is not JSON: ', 1),
    ('a.json', f'[{GOOD}] bad [{GOOD}]', ' line 1 is not JSON: ', 2),
    ('a.json', f'[{GOOD}]]', ' line 1 is not JSON: ', 1),
    ('a.jsonl', f'{GOOD}\n{{"t": "bad\n{GOOD}', ' line 2 is not JSON: ', 2),
    ('a.ndjson', f'{GOOD}\n{{"u": ""}}\n{GOOD}', " line 2 has no column 't' (--text_column); it has 'u'", 2),
    ('a.csv', 'n,t\n1,good\n1\n1,2,3\n"1"2,3\n2,good\n', ' line 3 has 1 columns, but the first row 2', 2),
    ('a.tsv', 'n\tt\n1\tgood\n"1"2\t3\n2\tgood\n', ' line 3 is not TSV: ', 2),
])
def test_bad_records_are_an_error_or_are_skipped(tmp_path, block, name, content, message, others):
    assert error_of(tmp_path / name, content, text_column='t').startswith(message)
    skipped = records.Skipped(allowed=True)
    format = TextFormat(text_column='t', skip_bad_records=True)
    found = ''.join(text for text, _ in read_documents(str(tmp_path / name), format, skipped=skipped))
    assert found == 'good' * others
    assert skipped.count == (3 if name == 'a.csv' else 1) and skipped.first.startswith(f'{tmp_path / name}{message}')


@pytest.mark.parametrize('content, line', [(f'[{GOOD},\n{GOOD}', 2), (f'[{GOOD},\n{{"t": "never closed}}]', 2),
                                           (f'{{\n"t": [1}}\n{GOOD}', 1), ('[', 1)])
def test_json_that_does_not_end_is_an_error_in_any_case(tmp_path, block, content, line):
    """What is lost may be more than a record."""
    for skip in (False, True):
        message = error_of(tmp_path / 'a.json', content, text_column='t', skip_bad_records=skip)
        assert message == (f' line {line}: what begins here does not end; a bracket or quotation mark is missing, or the file is '
                           'cut off')


def test_an_array_is_read_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(records, 'LONGEST_RECORD', 300_000)
    record = json.dumps({'n': ['[,]'] * 50, 't': 'many words, ' * 10_000})
    (tmp_path / 'a.json').write_text(f'[{",".join([record] * 200)}]')
    tracemalloc.start()
    try:
        assert sum(len(text) for text, _ in read_documents(str(tmp_path / 'a.json'), TextFormat(text_column='t'))) == 24_000_000
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()
    assert error_of(tmp_path / 'a.json', f'[{GOOD},\n{{"t": "{"a " * 900_000}"}}]', text_column='t') == (
        ' line 2 has more than 300000 characters, too many for one record: split it')


@pytest.mark.parametrize('suffix, delimiter', [('csv', ','), ('tsv', '\t')])
def test_tables_by_name_and_by_number(tmp_path, block, suffix, delimiter):
    path = tmp_path / f'a.{suffix}'
    path.write_text('1,2\nx,"a,b\n""c"""\n'.replace(',', delimiter))
    assert documents(path, text_column='2') == [f'a{delimiter}b\n"c"']      # a header has that name
    path.write_text('id,t\n1,one\n'.replace(',', delimiter))
    assert documents(path, text_column='2') == ['t', 'one']
    assert documents(path, text_column='1') == ['id', '1']
    for column in ('0', '3', '-1', 'x', '²', ''):
        assert error_of(path, path.read_bytes(), text_column=column, skip_bad_records=True) == (
            f" line 1 has no column '{column}' (--text_column); it has 'id', 't'; without a header, give the number of the "
            'column, 1 to 2')
    assert documents(path) == ['id,t\n1,one\n'.replace(',', delimiter)]


@pytest.mark.parametrize('name', ['a.json', 'a.ndjson', 'a.tsv', 'a.csv', 'a.jsonl'])
def test_compressed_records(tmp_path, name):
    content = 't\none\n' if name.endswith('sv') else '{"t": "one"}\n'
    (tmp_path / f'{name}.gz').write_bytes(gzip.compress(content.encode()))
    (tmp_path / f'{name}.ZST').write_bytes(pytest.importorskip('zstandard').compress(content.encode()))
    for suffix in ('gz', 'ZST'):
        assert documents(tmp_path / f'{name}.{suffix}', text_column='t') == ['one']
        check_text_column(TextFormat(text_column='t'), ['a.txt', f'{name}.{suffix}'])


def test_a_column_without_effect():
    files = ['a.txt', 'json', 'b.json.txt', 'c.npz', 'd.gz']
    check_text_column(TextFormat(), files)
    with pytest.raises(UserError, match='^--text_column t has no effect: no file of the corpus ends in .json, .jsonl, '):
        check_text_column(TextFormat(text_column='t'), files)


def test_only_bad_records_are_reported(capsys):
    skipped = records.Skipped(allowed=True)
    skipped.report()
    assert capsys.readouterr() == ('', '')
    skipped.add(records.BadRecord('a line 2 is bad'))
    skipped.add(records.BadRecord('b line 1 is bad'))
    skipped.report()
    assert capsys.readouterr() == ('', 'skipped bad records: 2; the first: a line 2 is bad\n')
