"""Which rows a batch has as texts join and leave."""

import types

from sampling.rows import Rows


def text(name):
    return types.SimpleNamespace(name=name, cached=True)


def names(rows):
    return ''.join(each.name if each else '-' for each in rows.texts)


def test_the_number_of_rows_is_the_most_or_one_of_its_halves():
    rows, texts, found = Rows(8), [text(name) for name in 'abcdefgh'], []
    for each in texts:
        rows.join(each)
        rows.fit()
        found.append(names(rows))
    assert found == ['a', 'ab', 'abc-', 'abcd', 'abcde---', 'abcdef--', 'abcdefg-', 'abcdefgh']
    kept = []
    for each in texts[:7]:
        rows.leave(each)
        kept.append(rows.fit())
        found.append(names(rows))
    assert found[8:] == ['-bcdefgh', '--cdefgh', '---defgh', 'efgh', '-fgh', 'gh', 'h']
    assert kept[3:] == [[4, 5, 6, 7], [0, 1, 2, 3], [2, 3], [1]]


def test_an_odd_number():
    rows = Rows(5)
    for each in 'abc':
        rows.join(text(each))
    assert rows.fit() == [0, 1, 2] and names(rows) == 'abc--'
    assert (len(rows), [each.name for each in rows]) == (3, ['a', 'b', 'c'])


def test_the_first_free_row_is_taken_and_its_text_has_to_be_read():
    rows, first = Rows(4), text('a')
    rows.join(first)
    rows.join(text('b'))
    rows.leave(first)
    rows.join(text('c'))
    assert names(rows) == 'cb' and not rows.texts[0].cached
