"""Reads records of .json, .jsonl, .ndjson, .csv and .tsv: each is a document.

A .jsonl or .ndjson has a record in each line; a .json is an array of records, or has one in each line, or objects one
after the other. An array in a .jsonl is read too. A record is an object that has the text in a column, or, without a
column, the text itself.
"""

import csv
import dataclasses
import itertools
import json
import re
import sys
from collections.abc import Iterable, Iterator

from command.errors import UserError
from vocabulary.spelling import well_formed

LONGEST_RECORD = 1 << 25    # characters; memory holds a complete record, in several copies
JSON = ('.json', '.jsonl', '.ndjson')
TABLES = {'.csv': ',', '.tsv': '\t'}
_MARK = re.compile(r'\\.|["{}\[\],]', re.DOTALL)    # what the end of a JSON value depends on


class BadRecord(UserError):
    """A record that is damaged or holds no text, while others may be good."""


@dataclasses.dataclass
class Skipped:
    """The bad records that --skip_bad_records has left out: their number, and what is wrong with the first."""
    allowed: bool = False
    count: int = 0
    first: str = ''

    def add(self, bad: BadRecord) -> None:
        """Counts a bad record. Raises it if skipping is not allowed."""
        if not self.allowed:
            raise bad
        self.first = self.first or str(bad)
        self.count += 1

    def __str__(self) -> str:
        return f'skipped bad records: {self.count}; the first: {self.first}'

    def report(self) -> None:
        """Prints a line on standard error if there were any."""
        if self.count:
            print(self, file=sys.stderr)


def json_texts(pieces: Iterable[str], path: str, column: str | None, skipped: Skipped, array_or_lines: bool = False
               ) -> Iterator[tuple[str, bool]]:
    """The text of each record, as events. array_or_lines: whether the file is a .json."""
    for number, source in _json_sources(pieces, path, array_or_lines):
        if source and not source.isspace():
            try:
                text = _json_text(source, f'{path} line {number}', column)
            except BadRecord as bad:
                skipped.add(bad)
            else:
                yield well_formed(text).replace('\r\n', '\n').replace('\r', '\n'), True


def _json_text(source: str, where: str, column: str | None) -> str:
    """The text of a record. Raises BadRecord, or UserError if it is an object and there is no column."""
    try:
        record = json.loads(source)
    except (ValueError, RecursionError) as error:
        # Not str(error): its line and column are those within the record.
        raise BadRecord(f'{where} is not JSON: {getattr(error, "msg", error)}') from None
    if column is None:
        if isinstance(record, dict):
            raise UserError(f'{where} holds a record: name the column of its text (--text_column), or leave the file out by a '
                            f'glob such as *.txt; it has {_names(record)}')
        if not isinstance(record, str):
            raise BadRecord(f'{where} holds {json.dumps(record)[:40]}; expected text, or an object')
        return record
    if not isinstance(record, dict):
        raise BadRecord(f'{where} must hold an object, with the column {column!r}')
    if column not in record:
        raise BadRecord(f'{where} has no column {column!r} (--text_column); it has {_names(record)}')
    if not isinstance(text := record[column], str):
        raise BadRecord(f'{where}: the column {column!r} holds {json.dumps(text)[:40]}; expected text')
    return text


def _json_sources(pieces: Iterable[str], path: str, array_or_lines: bool) -> Iterator[tuple[int, str]]:
    """The JSON of each record, with the number of the line in which it begins."""
    pieces, head = iter(pieces), []
    while not (first := ''.join(head).lstrip()[:1]) and (piece := next(pieces, '')):
        head.append(piece)
    pieces = itertools.chain(head, pieces)
    if first == '[':
        return _values(pieces, path)
    lines = _lines(pieces, path)
    if array_or_lines and first == '{':
        head = list(itertools.islice(lines, 1 + ''.join(head).partition('{')[0].count('\n')))
        lines = itertools.chain(head, lines)
        if not _is_json(head[-1]):      # an object of several lines
            return _values(lines, path)
    return enumerate(lines, start=1)


def _is_json(source: str) -> bool:
    try:
        json.loads(source)
    except (ValueError, RecursionError):
        return False
    return True


def _values(pieces: Iterable[str], path: str) -> Iterator[tuple[int, str]]:
    """The JSON of each element of an array, and of each object outside one, with the line in which it begins.

    Only brackets are understood here, so that one value may be wrong, and the next one right. Raises UserError if one
    does not end.
    """
    parts, held, line, depth, in_array = [], 0, 1, 0, False
    for text, mark in _split_at_marks(pieces):
        parts.append(text)
        held += len(text) + len(mark)
        depth = max(depth + (mark in ('[', '{')) - (mark in (']', '}')), 0)
        opens, closes = mark == '[' and depth == 1, mark in (']', '}') and depth == 0
        ends_element = in_array and (closes or mark == ',' and depth == 1)
        if not opens and not ends_element:
            parts.append(mark)
        if opens or ends_element or closes:
            source = ''.join(parts)
            parts, held = [], 0
            yield _first_line(source, line), source
            line += source.count('\n')
            in_array = not closes
        if held > LONGEST_RECORD:
            raise _too_long(path, _first_line(''.join(parts), line))
    source = ''.join(parts)
    if depth:
        raise UserError(f'{path} line {_first_line(source, line)}: what begins here does not end; a bracket or quotation mark '
                        'is missing, or the file is cut off')
    yield _first_line(source, line), source


def _split_at_marks(pieces: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The text before each bracket and comma outside a string, and that mark; after each piece the rest of it and ''."""
    in_string = False
    for piece in _without_split_escapes(pieces):
        start = 0
        for match in _MARK.finditer(piece):
            if match[0] == '"':
                in_string = not in_string
            elif not in_string and match[0][0] != '\\':
                yield piece[start:match.start()], match[0]
                start = match.end()
        yield piece[start:], ''


def _first_line(source: str, line: int) -> int:
    """The number of the line of the first character that is no white space. line: the number of the first line."""
    return line + source[:len(source) - len(source.lstrip())].count('\n')


def _without_split_escapes(pieces: Iterable[str]) -> Iterator[str]:
    """The pieces of a text cut so that none ends in a backslash, except the last."""
    held = ''
    for piece in pieces:
        piece = held + piece
        text = piece.rstrip('\\')
        held = piece[len(text):]
        yield text
    yield held


def table_texts(pieces: Iterable[str], path: str, column: str, delimiter: str, skipped: Skipped
                ) -> Iterator[tuple[str, bool]]:
    """The text of each row, as events.

    The first row names the columns. If none has the name `column` and that is a number, it counts columns from 1, and
    the first row is a record too.
    """
    csv.field_size_limit(LONGEST_RECORD)        # by default a text of 131,072 characters would be too long
    reader = csv.reader(_lines(pieces, path), delimiter=delimiter, strict=True)
    width = 0
    for row in _rows(reader, path, skipped):
        if not width:
            width, index = len(row), _column_index(row, column, f'{path} line {reader.line_num}')
            if row[index] == column:
                continue
        if len(row) != width:
            skipped.add(BadRecord(f'{path} line {reader.line_num} has {len(row)} columns, but the first row {width}'))
        else:
            yield row[index], True


def _rows(reader, path: str, skipped: Skipped) -> Iterator[list[str]]:
    """The rows that are not empty. After an error, csv.reader continues with the next line."""
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            kind = 'TSV' if reader.dialect.delimiter == '\t' else 'CSV'
            skipped.add(BadRecord(f'{path} line {reader.line_num} is not {kind}: {error}'))
        else:
            if row:
                yield row


def _column_index(first_row: list[str], column: str, where: str) -> int:
    """The index of the column of this name, or else of this number. Raises UserError."""
    if column in first_row:
        return first_row.index(column)
    if re.fullmatch('[0-9]+', column) and 1 <= int(column) <= len(first_row):
        return int(column) - 1
    raise UserError(f'{where} has no column {column!r} (--text_column); it has {_names(first_row)}; without a header, give '
                    f'the number of the column, 1 to {len(first_row)}')


def _names(columns: Iterable[str]) -> str:
    return ', '.join(map(repr, itertools.islice(columns, 10))) or 'none'


def _lines(pieces: Iterable[str], path: str) -> Iterator[str]:
    """Complete lines, each with its \\n. Raises UserError for one that is too long."""
    parts, held, number = [], 0, 1
    for piece in pieces:
        *lines, rest = piece.split('\n')
        for line in lines:
            yield ''.join([*parts, line, '\n'])
            parts.clear()
        number += len(lines)
        held = len(rest) if lines else held + len(rest)
        if held > LONGEST_RECORD:
            raise _too_long(path, number)
        parts.append(rest)
    if last := ''.join(parts):
        yield last + '\n'


def _too_long(path: str, number: int) -> UserError:
    return UserError(f'{path} line {number} has more than {LONGEST_RECORD} characters, too many for one record: split it')
