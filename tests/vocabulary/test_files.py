"""files.py: the two vocabulary files, written, read, and refused when they are broken."""

import json
import os

import pytest

from command.errors import UserError
from encoder import Encoder, get_encoder, load_encoder
from optional import gpt2_directory
from text_samples import CODE, vocabulary
from vocabulary.files import write_vocabulary
from vocabulary.learn import learn_vocabulary
from vocabulary.spelling import END_OF_TEXT


def test_get_encoder_finds_models_by_name(settings_directory, tmp_path):
    model = tmp_path / 'somewhere' / '124M'
    model.mkdir(parents=True)
    for name in ('hparams.json', 'encoder.json', 'vocab.bpe'):
        (model / name).write_bytes((settings_directory / name).read_bytes())
    expected = load_encoder(str(settings_directory)).encode(CODE)
    for name in ('124M', '117M'):
        assert get_encoder(name, str(tmp_path / 'somewhere')).encode(CODE) == expected
    with pytest.raises(UserError, match='no model .mine.'):
        get_encoder('mine', str(tmp_path / 'somewhere'))


@pytest.mark.parametrize('ending', ['', '\n', '\n\n', '\r\n'])
def test_line_ends_of_vocab_bpe(tmp_path, ending):
    write_vocabulary(tmp_path, *vocabulary('l o', 'lo w'))
    newline = '\r\n' if '\r' in ending else '\n'
    (tmp_path / 'vocab.bpe').write_bytes((newline.join(['#version: 0.2', 'l o', 'lo w']) + ending).encode())
    assert load_encoder(tmp_path).encode('low lo') == Encoder(*vocabulary('l o', 'lo w')).encode('low lo')


@pytest.mark.parametrize('position', [0, 256, 258])
def test_end_of_text_may_have_any_id(tmp_path, position):
    ids, merges = vocabulary('l o', 'lo w')
    tokens = list(ids)[:-1]
    tokens.insert(position, END_OF_TEXT)
    write_vocabulary(tmp_path, {token: id for id, token in enumerate(tokens)}, merges)
    moved = load_encoder(tmp_path)
    assert moved.encode_with_special(f'low{END_OF_TEXT}') == [tokens.index('low'), position]
    assert moved.decode([position]) == END_OF_TEXT


def with_ids(**changes):
    """An encoder.json with changed ids; None removes a token."""
    ids = vocabulary('l o', 'lo w')[0] | changes
    return json.dumps({token: id for token, id in ids.items() if id is not None}).encode()


@pytest.mark.parametrize('content, fault', [
    (None, 'cannot read .*encoder.json: No such file'),
    (b'{"a": 0,\n "\xff": 1}', 'encoder.json line 2 is not UTF-8'),
    (b'\n\xff', 'encoder.json line 2 is not UTF-8'),
    (b'{"a": 0', 'encoder.json is not JSON: .*line 1'),
    (b'', 'encoder.json is not JSON'),
    (b'[' * 100_000, 'encoder.json is not JSON'),
    (b'["a", "b"]', 'encoder.json must hold an object that gives each token its id'),
    (with_ids(lo='256'), 'encoder.json must hold an object'),
    (with_ids(lo=256.0), 'encoder.json must hold an object'),
    (with_ids(a=True), 'encoder.json must hold an object'),
    (with_ids(lo=255), 'encoder.json has 259 tokens, so their ids must be 0 to 258, each exactly once'),
    (with_ids(lo=259), 'encoder.json has 259 tokens, so their ids must be 0 to 258, each exactly once'),
    (with_ids(lo=-1), 'encoder.json has 259 tokens, so their ids must be 0 to 258, each exactly once'),
    (with_ids(Ń=None, low=255, **{END_OF_TEXT: 257}), "encoder.json lacks the token 'Ń'"),
    (with_ids(**{END_OF_TEXT: None}), r"encoder.json lacks the token '<\|endoftext\|>'"),
    (with_ids(**{'two words': 259}), "encoder.json: tokens may only use the 256 .*, not ' '$"),
    (with_ids(中=259), "encoder.json: tokens may only use the 256 .*, not '中'$"),
])
def test_broken_encoder_json(tmp_path, content, fault):
    write_vocabulary(tmp_path, *vocabulary('l o', 'lo w'))
    if content is None:
        (tmp_path / 'encoder.json').unlink()
    else:
        (tmp_path / 'encoder.json').write_bytes(content)
    with pytest.raises(UserError, match=fault):
        load_encoder(str(tmp_path))


@pytest.mark.parametrize('content, fault', [
    (None, 'cannot read .*vocab.bpe: No such file'),
    (b'#version: 0.2\nl o\nlo \xff\n', 'vocab.bpe line 3 is not UTF-8'),
    (b'', 'vocab.bpe line 1: expected .#version: 0.2., not'),
    (b'l o\nlo w\n', "vocab.bpe line 1: expected '#version: 0.2', not 'l o'"),
    (b'#version: 0.2\nl o\nlo w x\n', "vocab.bpe line 3: expected two tokens, not 'lo w x'"),
    (b'#version: 0.2\nlo\nlo w\n', "vocab.bpe line 2: expected two tokens, not 'lo'"),
    (b'#version: 0.2\nl o\n\nlo w\n', "vocab.bpe line 3: expected two tokens, not ''"),
    (b'#version: 0.2\nl o\ne r\n', "vocab.bpe line 3: the merged token 'er' is not in encoder.json"),
    (b'#version: 0.2\nl o\nlow er\n', "vocab.bpe line 3: 'low' is neither a byte nor made by an earlier line"),
    (b'#version: 0.2\nl o\nlo 0x\n', "vocab.bpe line 3: '0x' is neither a byte nor made by an earlier line"),
    (b'#version: 0.2\nlo w\nl o\n', "vocab.bpe line 2: 'lo' is neither a byte nor made by an earlier line"),
    (b'#version: 0.2\nl o\n',
     "vocab.bpe ends after 1 merges, none of which makes the token 'low' of encoder.json: the file is incomplete"),
    (b'#version: 0.2\nl o\nlo w\nl o\n', "vocab.bpe line 4: 'l o' repeats line 2"),
])
def test_broken_vocab_bpe(tmp_path, content, fault):
    write_vocabulary(tmp_path, *vocabulary('l o', 'lo w'))
    if content is None:
        (tmp_path / 'vocab.bpe').unlink()
    else:
        (tmp_path / 'vocab.bpe').write_bytes(content)
    with pytest.raises(UserError, match=fault):
        load_encoder(str(tmp_path))


def test_a_token_after_end_of_text_needs_no_merge(tmp_path):
    ids, merges = vocabulary('l o', 'lo w')
    write_vocabulary(tmp_path, ids | {'<|pad|>': len(ids)}, merges)
    assert load_encoder(str(tmp_path)).decode([len(ids)]) == '<|pad|>'


def test_a_file_that_is_a_directory(tmp_path):
    (tmp_path / 'encoder.json').mkdir()
    with pytest.raises(UserError, match='cannot read .*encoder.json: Is a directory'):
        load_encoder(str(tmp_path))


# Writing

def test_files_are_read_as_they_were_written(tmp_path):
    ids, merges = learn_vocabulary([CODE, 'é中😀 é中😀'], 600)
    write_vocabulary(str(tmp_path), ids, merges)
    encoder = load_encoder(str(tmp_path))
    text = CODE + 'é中😀\r\n\0'
    assert encoder.n_vocab == len(ids) == 600
    assert encoder.end_of_text == 599
    assert encoder.encode(text) == Encoder(ids, merges).encode(text)
    assert encoder.decode(encoder.encode(text)) == text


def test_the_bytes_of_the_files(tmp_path):
    write_vocabulary(str(tmp_path), {'a': 0, 'Ġ"': 1, END_OF_TEXT: 2}, [('Ġ', '"'), ('a', 'a')])
    assert (tmp_path / 'encoder.json').read_bytes() == b'{"a": 0, "\\u0120\\"": 1, "<|endoftext|>": 2}'
    assert (tmp_path / 'vocab.bpe').read_bytes() == '#version: 0.2\nĠ "\na a\n'.encode()


def test_gpt2s_own_files_are_written_byte_for_byte(tmp_path):
    directory = gpt2_directory()
    contents = {}
    for name in ('encoder.json', 'vocab.bpe'):
        with open(os.path.join(directory, name), 'rb') as file:
            contents[name] = file.read()
    merges = [tuple(line.split()) for line in contents['vocab.bpe'].decode().split('\n')[1:-1]]
    write_vocabulary(str(tmp_path), json.loads(contents['encoder.json']), merges)
    for name, content in contents.items():
        assert (tmp_path / name).read_bytes() == content


@pytest.mark.parametrize('name', ['encoder.json', 'vocab.bpe'])
def test_a_file_that_cannot_be_written_is_named(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f'cannot write .*{name}: Is a directory'):
        write_vocabulary(str(tmp_path), *learn_vocabulary([], 257))
