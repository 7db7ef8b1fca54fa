"""Prompts from files: lines or separated texts, with any line breaks."""

import pytest

from sampling.prompts import read_prompts, split_at


@pytest.mark.parametrize(('content', 'prompts'), [
    (b'\xef\xbb\xbfFirst', ['First']),
    (b'To be\r\nor not\r\n', ['To be', 'or not']),
    ('\ufeffé\r\n\n'.encode(), ['é', '']),
    (b'a \n b', ['a ', ' b']),
])
def test_lines(tmp_path, content, prompts):
    path = tmp_path / 'prompts.txt'
    path.write_bytes(content)
    assert read_prompts(str(path)) == {f'{path} line {number}': prompt for number, prompt in enumerate(prompts, start=1)}


def test_separated_prompts(tmp_path):
    path = tmp_path / 'prompts.txt'
    path.write_bytes(b'\xef\xbb\xbfone\r\ntwo\r\n---\r\n---three\r\n')
    assert read_prompts(str(path), '---') == {f'{path} prompt 1': 'one\ntwo', f'{path} prompt 2': '---three'}


@pytest.mark.parametrize(('text', 'separator', 'prompts'), [
    ('a\nb\n---\nc\n', '---', ['a\nb', 'c']),
    ('a\n---\n', '---', ['a']),                 # which ends the last prompt
    ('---\na', '---', ['', 'a']),               # the prompt that is missing is reported
    ('a\n---\n---\nb', '---', ['a', '', 'b']),
    ('a---b\n ---\n', '---', ['a---b\n ---']),  # not a line of its own
    ('a\n\n---\n\nb\n\n', '---', ['a\n', '\nb\n']),
    ('a\nb\n\nc\n', '\n\n', ['a\nb', 'c']),
    ('a\n\nb\n\n', '\n\n', ['a', 'b']),
    ('a\n\nb\n\n', '\r\n\r\n', ['a', 'b']),
    ('a\n--\nb', '\n--\n', ['a', 'b']),
])
def test_separators(text, separator, prompts):
    assert split_at(text, separator) == prompts


def test_a_prompt_may_begin_as_a_web_page_does(tmp_path):
    (tmp_path / 'prompts.txt').write_text('<p>One\nTwo\n')
    assert list(read_prompts(str(tmp_path / 'prompts.txt')).values()) == ['<p>One', 'Two']
