"""huggingface_tokenizer.py: which tokens it finds in whose files, as transformers does, and what it refuses."""

import json
import shutil

import pytest

from command.errors import UserError
from encoder import load_encoder
from optional import HUGGINGFACE, needs
from storage import huggingface_tokenizer
from text_samples import LFS_POINTER, WEB_PAGE
from vocabulary.special import ONLY_END_OF_TEXT, SpecialTokens
from vocabulary.spelling import END_OF_TEXT

START, STOP, PAD = '<|im_start|>', '<|im_end|>', '<pad token>'
TEXTS = [f'{START}user\nthe dog{STOP}\n fox {END_OF_TEXT} x<|im_en', f'{STOP}{STOP} the{PAD} x  {STOP}  y', '', STOP, ' the fox',
         f'<s>the dog</s>x<pad> {END_OF_TEXT}', 'Hello, hello Hello', '<|im_<|im_end|>|>']
END = 299       # of the 300 tokens of the toy vocabulary


def write(directory, name, content):
    (directory / name).write_text(json.dumps(content))


def edit(directory, name, **changes):
    write(directory, name, json.loads((directory / name).read_text()) | changes)


def token(text, special=True, **changes):
    """The properties of an added token, as tokenizer_config.json and tokenizer.json have them."""
    return {'content': text, 'lstrip': False, 'rstrip': False, 'single_word': False, 'normalized': False,
            'special': special} | changes


@pytest.fixture
def there(tmp_path, settings_directory):
    """A directory with the vocabulary of a Hugging Face model, without any settings."""
    for ours, theirs in (('encoder.json', 'vocab.json'), ('vocab.bpe', 'merges.txt')):
        shutil.copyfile(settings_directory / ours, tmp_path / theirs)
    write(tmp_path, 'config.json', {'model_type': 'gpt2', 'eos_token_id': 50256})
    return tmp_path


def tokenizer_json(settings_directory, *added, model=None, **changes):
    """The content of tokenizer.json, with the end-of-text token among the added tokens only."""
    ids = json.loads((settings_directory / 'encoder.json').read_text())
    merges = (settings_directory / 'vocab.bpe').read_text().split('\n')[1:-1]
    end = {'id': ids.pop(END_OF_TEXT)} | token(END_OF_TEXT)
    return {'normalizer': None, 'pre_tokenizer': {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': True},
            'post_processor': {'type': 'ByteLevel', 'add_prefix_space': True, 'trim_offsets': False},
            'decoder': {'type': 'ByteLevel', 'add_prefix_space': True, 'trim_offsets': True},
            'model': {'type': 'BPE', 'vocab': ids, 'merges': merges} | (model or {}), 'added_tokens': [end, *added]} | changes


def read(directory, n_vocab=310):
    """The tokenizer, and the encoder that the files of a model made of it give."""
    tokenizer = huggingface_tokenizer.read_tokenizer(str(directory), n_vocab)
    model = directory / 'model'
    model.mkdir()
    huggingface_tokenizer.write_model_files(str(model), tokenizer)
    return tokenizer, load_encoder(str(model))


# Where tokens are found

def in_added_tokens(there, settings_directory):
    """As transformers wrote it until 2023."""
    write(there, 'added_tokens.json', {START: 300, STOP: 301, 'Hello': 302})
    write(there, 'special_tokens_map.json', {'eos_token': token(STOP), 'bos_token': START})


def in_tokenizer_config(there, settings_directory):
    """As transformers 4 writes it."""
    tokens = {'299': token(END_OF_TEXT), '300': token(START), '301': token(STOP), '302': token('Hello', special=False)}
    write(there, 'tokenizer_config.json', {'tokenizer_class': 'GPT2Tokenizer', 'add_prefix_space': False, 'eos_token': STOP,
                                           'added_tokens_decoder': tokens, 'additional_special_tokens': [START]})
    write(there, 'special_tokens_map.json', {'eos_token': END_OF_TEXT})       # not read then


def in_tokenizer_json(there, settings_directory):
    """As transformers 5 writes it."""
    (there / 'vocab.json').unlink()
    tokens = ({'id': 300} | token(START), {'id': 301} | token(STOP), {'id': 302} | token('Hello', special=False, normalized=True))
    write(there, 'tokenizer.json', tokenizer_json(settings_directory, *tokens))
    write(there, 'tokenizer_config.json', {'tokenizer_class': 'GPT2Tokenizer', 'eos_token': STOP})


WAYS = [in_added_tokens, in_tokenizer_config, in_tokenizer_json]


@pytest.mark.parametrize('way', WAYS)
def test_added_tokens_are_found(there, settings_directory, way):
    way(there, settings_directory)
    tokenizer, encoder = read(there)
    assert tokenizer.special == SpecialTokens(STOP, (END_OF_TEXT, START, STOP), ('Hello',))
    assert tokenizer.notes == [f"special tokens: '{END_OF_TEXT}', '{START}', '{STOP}', 'Hello'; a text ends with '{STOP}'"]
    assert (encoder.n_vocab, encoder.end_of_text) == (303, 301)
    assert encoder.encode_with_special(f'{STOP}Hello{END_OF_TEXT}{START}') == [301, 302, END, 300]


@pytest.mark.parametrize('way', WAYS)
def test_transformers_gives_the_same_ids_there_and_back(there, settings_directory, way):
    transformers = needs('transformers', HUGGINGFACE)
    way(there, settings_directory)
    theirs = transformers.AutoTokenizer.from_pretrained(there)
    _, encoder = read(there)
    (there / 'back').mkdir()
    huggingface_tokenizer.write_tokenizer(str(there / 'back'), str(there / 'model'), 32, encoder)
    write(there / 'back', 'config.json', {'model_type': 'gpt2'})
    back = transformers.AutoTokenizer.from_pretrained(there / 'back')
    assert (theirs.eos_token_id, back.eos_token_id) == (301, 301) and len(theirs) == len(back) == 303
    assert set(back.all_special_ids) == {END, 300, 301}
    for text in TEXTS:
        ids = encoder.encode_with_special(text)
        assert theirs(text)['input_ids'] == back(text)['input_ids'] == ids, text
        assert theirs.decode(ids) == back.decode(ids) == encoder.decode(ids) == text
    assert back.decode([300, 302, 301], skip_special_tokens=True) == 'Hello'


def test_a_tokenizer_without_added_tokens_is_copied_to_the_byte(there, settings_directory):
    names = ('encoder.json', 'vocab.bpe')
    (there / 'vocab.json').write_text((there / 'vocab.json').read_text().replace(', ', ',\n'))
    tokenizer, _ = read(there)
    assert (tokenizer.special, tokenizer.notes) == (ONLY_END_OF_TEXT, [])
    assert sorted(path.name for path in (there / 'model').iterdir()) == [*names]
    assert (there / 'model/encoder.json').read_bytes() == (there / 'vocab.json').read_bytes()
    for kind in (str, list):
        merges = [merge if kind is str else merge.split(' ') for merge in tokenizer_json(settings_directory)['model']['merges']]
        write(there, 'tokenizer.json', tokenizer_json(settings_directory, model={'merges': merges}))
        shutil.rmtree(there / 'model')
        read(there)
        for name in names:
            assert (there / 'model' / name).read_bytes() == (settings_directory / name).read_bytes()


def test_tokens_that_are_only_named_get_the_next_ids(there):
    transformers = needs('transformers', HUGGINGFACE)
    write(there, 'tokenizer_config.json', {'tokenizer_class': 'GPT2Tokenizer', 'pad_token': PAD, 'eos_token': STOP,
                                           'additional_special_tokens': [START]})
    theirs = transformers.AutoTokenizer.from_pretrained(there)
    _, encoder = read(there)
    assert encoder.end_of_text == theirs.eos_token_id == 300
    for text in TEXTS:
        assert encoder.encode_with_special(text) == theirs(text)['input_ids']


def test_a_vocabulary_without_gpt_2_s_end_token(there):
    ids = {name: id + 3 for name, id in json.loads((there / 'vocab.json').read_text()).items() if name != END_OF_TEXT}
    write(there, 'vocab.json', {'<s>': 0, '<pad>': 1, '</s>': 2} | ids)
    write(there, 'tokenizer_config.json', {'bos_token': '<s>', 'eos_token': '</s>', 'unk_token': '<s>'})
    tokenizer, encoder = read(there)
    assert tokenizer.special == SpecialTokens('</s>', ('<s>', '</s>'))
    assert encoder.encode_with_special('<s>the</s>') == [0, *encoder.encode('the'), 2] and encoder.end_of_text == 2
    assert encoder.encode_with_special('<pad>') == encoder.encode('<pad>') != [1]
    write(there, 'tokenizer_config.json', {})
    with pytest.raises(UserError, match=r'has no token that ends a text: no eos_token, eos_token_id or <\|endoftext\|>'):
        huggingface_tokenizer.read_tokenizer(str(there), 310)


# Which token ends a text

@pytest.mark.parametrize(('generation', 'config', 'eos_token', 'expected'), [
    (None, None, None, END_OF_TEXT), (None, 50256, None, END_OF_TEXT), (None, END, STOP, STOP), (301, END, None, STOP),
    ([END, 301], END, None, STOP), (None, 301, START, STOP), (300, 301, STOP, START), (None, 5, None, END_OF_TEXT),
    (None, 256, None, END_OF_TEXT), (None, 999, STOP, STOP)])
def test_the_end_of_a_text(there, generation, config, eos_token, expected):
    write(there, 'added_tokens.json', {START: 300, STOP: 301})
    write(there, 'config.json', {'model_type': 'gpt2', 'eos_token_id': config})
    if generation:
        write(there, 'generation_config.json', {'eos_token_id': generation})
    if eos_token:
        write(there, 'special_tokens_map.json', {'eos_token': eos_token})
    tokenizer, encoder = read(there)
    assert tokenizer.special.end_of_text == encoder.decode([encoder.end_of_text]) == expected


def test_several_ends_are_printed(there):
    in_added_tokens(there, None)
    write(there, 'config.json', {'eos_token_id': [300, END]})
    assert read(there)[0].notes[0].endswith(f"a text ends with '{START}', not with '{END_OF_TEXT}', '{STOP}'")


def test_tokens_without_a_row_in_the_model_are_left_out(there):
    write(there, 'added_tokens.json', {STOP: 300, '[PAD]': 301})
    write(there, 'special_tokens_map.json', {'eos_token': STOP})
    tokenizer, encoder = read(there, n_vocab=301)
    assert encoder.n_vocab == 301 and tokenizer.notes[0] == "no rows in the model, so left out: '[PAD]'"
    shutil.rmtree(there / 'model')
    tokenizer, encoder = read(there, n_vocab=300)
    assert encoder.n_vocab == 300 and encoder.end_of_text == END and tokenizer.special == ONLY_END_OF_TEXT


# What is refused

@pytest.mark.parametrize(('changes', 'words'), [
    ({'model': {'type': 'WordPiece'}}, "model.type is 'WordPiece', which is not supported; GPT-2 has 'BPE'"),
    ({'model': {'dropout': 0.1}}, 'model.dropout is 0.1'),
    ({'model': {'ignore_merges': True}}, 'model.ignore_merges is True, which is not supported; GPT-2 has False'),
    ({'model': {'byte_fallback': True}}, 'model.byte_fallback is True'),
    ({'model': {'continuing_subword_prefix': '##'}}, "model.continuing_subword_prefix is '##'"),
    ({'model': {'end_of_word_suffix': '</w>'}}, "model.end_of_word_suffix is '</w>'"),
    ({'pre_tokenizer': {'type': 'ByteLevel', 'add_prefix_space': True}}, 'pre_tokenizer.add_prefix_space is True'),
    ({'pre_tokenizer': {'type': 'ByteLevel', 'add_prefix_space': False, 'use_regex': False}}, 'pre_tokenizer.use_regex is False'),
    ({'pre_tokenizer': {'type': 'Metaspace', 'add_prefix_space': False}}, "pre_tokenizer.type is 'Metaspace'"),
    ({'pre_tokenizer': {'type': 'Sequence', 'pretokenizers': [{'type': 'Digits'}, {'type': 'ByteLevel'}]}},
     "pre_tokenizer.type is 'Sequence'"),
    ({'pre_tokenizer': None}, 'pre_tokenizer.type is None'),
    ({'normalizer': {'type': 'NFC'}}, "normalizer.type is 'NFC', which is not supported; GPT-2 has None"),
    ({'decoder': {'type': 'WordPiece'}}, "decoder.type is 'WordPiece'"),
    ({'post_processor': {'type': 'RobertaProcessing'}}, "post_processor.type is 'RobertaProcessing', which adds tokens"),
    ({'post_processor': {'type': 'TemplateProcessing', 'single': [{'SpecialToken': {'id': '<s>'}}, {'Sequence': {'id': 'A'}}]}},
     "post_processor.type is 'TemplateProcessing', which adds tokens to every text"),
    ({'added_tokens': [{'id': 300} | token('<mask>', lstrip=True)]}, "the token '<mask>': lstrip is True"),
    ({'added_tokens': [{'id': 300} | token('a', single_word=True)]}, "the token 'a': single_word is True"),
    ({'added_tokens': [{'id': 300} | token('x1'), {'id': 301} | token('x1')]}, "gives the token 'x1' two ids, 300 and 301"),
    ({'added_tokens': [{'id': 300} | token('<s>'), {'id': 302} | token('</s>')]}, 'must be 0 to 301, each exactly once'),
    ({'added_tokens': [{'id': 300} | token('the')]}, "gives the token 'the' two ids, 2"),
    ({'added_tokens': [{'id': 300} | token(' the')]}, "the added token ' the' has the bytes of another token of the vocabulary"),
    ({'added_tokens': [{'id': 300} | token('\n')]}, r"the added token '\\n' has the bytes of another token"),
    ({'added_tokens': [{'id': 165} | token('é')]}, "the added token 'é' has the bytes of another token"),
    ({'added_tokens': [{}]}, "is not one of GPT-2: KeyError"),
    ({'model': {'vocab': 3}}, 'is not one of GPT-2: ')])
def test_other_tokenizers_are_refused(there, settings_directory, changes, words):
    write(there, 'tokenizer.json', tokenizer_json(settings_directory, **changes))
    if 'added_tokens' in changes:
        changes['added_tokens'].append({'id': END} | token(END_OF_TEXT))
        write(there, 'tokenizer.json', tokenizer_json(settings_directory, **changes))
    with pytest.raises(UserError, match=words) as error:
        read(there)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('changes', [
    {'post_processor': None}, {'normalizer': {'type': 'Sequence', 'normalizers': []}}, {'decoder': None},
    {'model': {'dropout': 0, 'unk_token': END_OF_TEXT, 'fuse_unk': True, 'end_of_word_suffix': ''}},
    {'pre_tokenizer': {'type': 'Sequence', 'pretokenizers': [{'type': 'ByteLevel', 'add_prefix_space': False}]}},
    {'post_processor': {'type': 'TemplateProcessing', 'single': [{'Sequence': {'id': 'A', 'type_id': 0}}]}}])
def test_settings_without_effect_are_accepted(there, settings_directory, changes):
    write(there, 'tokenizer.json', tokenizer_json(settings_directory, **changes))
    assert read(there)[0].special == ONLY_END_OF_TEXT


@pytest.mark.parametrize('setting', ['add_prefix_space', 'add_bos_token', 'add_eos_token', 'split_special_tokens'])
def test_settings_of_tokenizer_config_are_refused(there, setting):
    write(there, 'tokenizer_config.json', {setting: True})
    with pytest.raises(UserError, match=f'tokenizer_config.json: {setting} is True, which is not supported; GPT-2 has False'):
        huggingface_tokenizer.read_tokenizer(str(there), 310)


@pytest.mark.parametrize(('name', 'content', 'words'), [
    ('merges.txt', None, 'cannot read .*/merges.txt: No such file'),
    ('vocab.json', b'{', 'vocab.json is not JSON'),
    ('vocab.json', b'{"a": "b"}', 'is not one of GPT-2'),
    ('vocab.json', WEB_PAGE, 'vocab.json is a web page'),
    ('merges.txt', LFS_POINTER, 'merges.txt is a Git LFS pointer'),
    ('tokenizer.json', LFS_POINTER, 'tokenizer.json is a Git LFS pointer'),
    ('tokenizer_config.json', b'[]', 'tokenizer_config.json must hold an object'),
    ('added_tokens.json', b'[]', 'added_tokens.json must hold an object')])
def test_broken_files_are_named(there, name, content, words):
    if content is None:
        (there / name).unlink()
    else:
        (there / name).write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        huggingface_tokenizer.read_tokenizer(str(there), 310)
    assert str(there) in str(error.value)


def test_a_special_token_that_vocab_json_cannot_hold(there, settings_directory):
    ids = json.loads((settings_directory / 'encoder.json').read_text())
    (there / 'model').mkdir()
    huggingface_tokenizer.write_model_files(str(there / 'model'), huggingface_tokenizer.Tokenizer(
        json.dumps(ids | {'Ã©': 300}).encode(), (there / 'merges.txt').read_bytes(),
        SpecialTokens(END_OF_TEXT, (END_OF_TEXT,), ('é',)), []))
    (there / 'back').mkdir()
    with pytest.raises(UserError, match='a special token is written as another token is spelled, which vocab.json cannot hold'):
        huggingface_tokenizer.write_tokenizer(str(there / 'back'), str(there / 'model'), 32, load_encoder(str(there / 'model')))
