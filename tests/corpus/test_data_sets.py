"""data_sets.py: paths with weights, and files that several of them name."""

import os

import pytest

from byte_encoder import error_of
from corpus.data_sets import DataSet, find_data_sets, find_texts, in_words, one_or_list, split_weight


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.makedirs('d/sub')
    for name in ('a.txt', 'b.txt', 'x=2', 'x', 'd/c.txt', 'd/sub/e.txt'):
        (tmp_path / name).write_text(name)


def test_one_path_is_one_data_set():
    assert find_data_sets(['a.txt']) == [DataSet(['a.txt'], 1)] == find_data_sets(['a.txt=1'])
    assert find_data_sets(['d']) == [DataSet(['d/c.txt', 'd/sub/e.txt'], 1)] == find_data_sets(['d/**'])


def test_what_the_shell_expands_is_what_a_glob_finds():
    assert find_data_sets(['a.txt', 'b.txt']) == find_data_sets(['*.txt']) == [DataSet(['a.txt', 'b.txt'])]


def test_paths_of_the_same_weight_are_together():
    assert find_data_sets(['b.txt=2', 'd=1.0', 'a.txt', 'x=2=2e0']) == [DataSet(['b.txt', 'x=2'], 2),
                                                                       DataSet(['d/c.txt', 'd/sub/e.txt', 'a.txt'], 1)]


@pytest.mark.parametrize('text, path, weight', [
    ('a.txt=2', 'a.txt', 2), ('*.txt=.5', '*.txt', 0.5), ('d/=3', 'd/', 3), ('x=2', 'x=2', 1), ('x=2=3', 'x=2', 3),
    ('x=3', 'x', 3), ('a.txt', 'a.txt', 1), ('=2', '=2', 1), ('lr=1/d.txt', 'lr=1/d.txt', 1), ('d=1/c.txt', 'd=1/c.txt', 1),
    ('n=x', 'n=x', 1)])
def test_where_a_weight_begins(text, path, weight):
    assert split_weight(text) == (path, weight)


@pytest.mark.parametrize('weight', ['0', '-1', 'nan', 'inf', '1e999', '', 'two', '2x'])
def test_wrong_weights(weight):
    assert error_of(find_data_sets, [f'a.txt={weight}']) == (
        f'a.txt={weight}: the weight of a.txt must be a number above 0, not {weight!r}')


def test_paths_that_are_not_there():
    assert error_of(find_data_sets, ['a.txt', 'no.txt']) == "cannot find 'no.txt': No such file or directory"
    assert error_of(find_data_sets, ['no=two']) == "cannot find 'no=two': No such file or directory"
    assert error_of(find_data_sets, ['*.md=2']) == 'nothing matches the pattern *.md'


def test_a_file_in_two_data_sets():
    os.symlink('d', 'link')
    for paths, file in ((['a.txt', '*.txt'], 'a.txt'), (['a.txt=2', './a.txt'], './a.txt'), (['a.txt', 'a.txt'], 'a.txt'),
                        (['d', 'link/c.txt'], 'link/c.txt')):
        assert error_of(find_data_sets, paths) == (
            f'{file} is in the data set {paths[0]} and in {paths[1]}: name it once ({file}=2 draws it more often)')


def test_texts_have_no_weights():
    assert find_texts(['b.txt', 'x=2', 'a.txt']) == ['b.txt', 'x=2', 'a.txt']
    assert error_of(find_texts, ['b.txt', 'a.txt=2']) == (
        'a.txt=2: weights are for training, here each text is read once; give a.txt')


def test_in_words_and_for_a_record():
    assert in_words(['a']) == one_or_list(['a']) == 'a'
    assert in_words(['a', 'b', 'c']) == 'a, b, c' and in_words(list('abcde')) == 'a, b, c and 2 more'
    assert one_or_list(['a', 'b']) == ['a', 'b']
