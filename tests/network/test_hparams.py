"""network/hparams.py: the published sizes and shapes, and mistakes in hparams.json."""

import json

import pytest

from command.errors import UserError
from conftest import ROOT
from network.hparams import HParams, check_vocabulary, default_hparams, load_hparams, write_hparams
from storage.bundle import read_index

HPARAMS = HParams(n_vocab=37, n_ctx=12, n_embd=24, n_head=3, n_layer=3)


def test_default_hparams_are_the_smallest_published_model():
    assert vars(default_hparams()) == {'n_vocab': 50257, 'n_ctx': 1024, 'n_embd': 768, 'n_head': 12, 'n_layer': 12}
    assert default_hparams().head_size == 64


def test_the_shapes_are_those_of_a_checkpoint():
    index, _ = read_index(f'{ROOT}/models/tiny/model.ckpt')
    assert load_hparams(f'{ROOT}/models/tiny').shapes() == {name: entry.shape for name, entry in index.items()}


def test_hparams_are_read_as_they_were_written(tmp_path):
    write_hparams(str(tmp_path), HPARAMS)
    assert load_hparams(str(tmp_path)) == HPARAMS


@pytest.mark.parametrize(('change', 'words'), [
    ({'n_layer': None, 'n_ctx': None}, 'lacks n_ctx, n_layer'),
    ({'n_head': 5}, 'n_embd 24 is not divisible by n_head 5'),
    ({'n_ctx': 12.0}, 'n_ctx must be a positive whole number, not 12.0'),
    ({'n_ctx': True}, 'n_ctx must be a positive whole number, not True'),
    ({'n_vocab': 0}, 'n_vocab must be a positive whole number, not 0'),
    ({'n_embed': 3}, 'unknown entries: n_embed; expected only n_vocab, n_ctx, n_embd, n_head, n_layer'),
])
def test_mistakes_are_named(tmp_path, change, words):
    values = {name: value for name, value in (vars(HPARAMS) | change).items() if value is not None}
    (tmp_path / 'hparams.json').write_text(json.dumps(values))
    with pytest.raises(UserError, match=words) as error:
        load_hparams(str(tmp_path))
    assert str(tmp_path / 'hparams.json') in str(error.value)


def test_one_is_the_smallest_size(tmp_path):
    write_hparams(str(tmp_path), HParams(1, 1, 1, 1, 1))
    assert load_hparams(str(tmp_path)).n_vocab == 1


@pytest.mark.parametrize(('content', 'words'), [('{"n_ctx": ', 'is not JSON'), ('[1]', 'must hold an object'),
                                                (None, 'cannot read')])
def test_other_files_are_refused(tmp_path, content, words):
    if content is not None:
        (tmp_path / 'hparams.json').write_text(content)
    with pytest.raises(UserError, match=words):
        load_hparams(str(tmp_path))


def test_a_vocabulary_may_be_smaller_than_n_vocab_and_not_larger():
    check_vocabulary(HPARAMS, 36, 'models/toy')
    check_vocabulary(HPARAMS, 37, 'models/toy')
    with pytest.raises(UserError, match='^models/toy: encoder.json has 38 tokens, but n_vocab in hparams.json is 37$'):
        check_vocabulary(HPARAMS, 38, 'models/toy')
