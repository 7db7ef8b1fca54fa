"""Hugging Face's files of a tokenizer: vocabulary, special tokens, end.

transformers reads tokenizer.json if it is there, else vocab.json and merges.txt. Tokens that were added later, and which of
them ends a text, may be in several other files. An added token has its own text as its name, not spelled in byte characters.
"""

import json
import os
from typing import NamedTuple

from command.errors import UserError
from command.read_files import read_bytes, read_json
from encoder import Encoder
from vocabulary.special import ONLY_END_OF_TEXT, SpecialTokens, write_special_tokens
from vocabulary.spelling import BYTE_CHARACTERS, END_OF_TEXT, spell, well_formed

# The settings that name special tokens, in the order in which transformers adds those that are not in the vocabulary.
NAMED = ('bos_token', 'eos_token', 'unk_token', 'sep_token', 'pad_token', 'cls_token', 'mask_token')
MORE_NAMED = ('additional_special_tokens', 'extra_special_tokens')      # of later versions; lists or objects
# The values with which these files describe GPT-2's way to encode; the first is the default.
TOKENIZER_CONFIG = {'add_prefix_space': [False], 'add_bos_token': [False], 'add_eos_token': [False],
                    'split_special_tokens': [False]}
# Without effect, so not here: fuse_unk, unk_token (all bytes are tokens, so no text is unknown), trim_offsets.
MODEL = {'type': ['BPE'], 'dropout': [None, 0], 'ignore_merges': [False], 'byte_fallback': [False],
         'continuing_subword_prefix': [None, ''], 'end_of_word_suffix': [None, '']}
PRE_TOKENIZER = {'type': ['ByteLevel'], 'use_regex': [True]}
ADDED_TOKEN = {'lstrip': [False], 'rstrip': [False], 'single_word': [False]}


class Tokenizer(NamedTuple):
    """A tokenizer as the files of a model directory. notes: what the user should read about it, a line each."""
    encoder_json: bytes
    vocab_bpe: bytes
    special: SpecialTokens
    notes: list[str]


def read_tokenizer(directory: str, n_vocab: int) -> Tokenizer:
    """The tokenizer in a Hugging Face directory of a model with n_vocab rows of wte.

    Raises UserError if files are missing, or ask for anything that Encoder does not do.
    """
    settings = _read_optional(directory, 'tokenizer_config.json')
    _check(os.path.join(directory, 'tokenizer_config.json'), '', settings, TOKENIZER_CONFIG)
    try:
        ids, files, added = _read_vocabulary(directory)
        named = _named_tokens(directory, settings)
        found, left_out = _resolve(directory, ids, _added_tokens(directory, settings, added, named), n_vocab)
        made = {''.join(line.split()) for line in files[1].decode('utf-8', 'replace').split('\n')[1:]}
        return _combine(directory, ids, files, found, made | set(BYTE_CHARACTERS.values()), named, left_out)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f'the tokenizer in {directory} is not one of GPT-2: {error!r}') from None


def write_model_files(directory: str, tokenizer: Tokenizer) -> None:
    """Writes encoder.json, vocab.bpe and, if needed, special_tokens.json. Raises OSError."""
    for name, content in (('encoder.json', tokenizer.encoder_json), ('vocab.bpe', tokenizer.vocab_bpe)):
        with open(os.path.join(directory, name), 'wb') as file:
            file.write(content)
    write_special_tokens(directory, tokenizer.special)


def _read_optional(directory: str, name: str) -> dict:
    path = os.path.join(directory, name)
    return read_json(path) if os.path.exists(path) else {}


def _check(path: str, prefix: str, settings: dict, accepted: dict[str, list]) -> None:
    """Raises UserError that names a setting with which texts would have other tokens."""
    for name, values in accepted.items():
        if (value := settings.get(name, values[0])) not in values:
            raise UserError(f'{path}: {prefix}{name} is {value!r}, which is not supported; GPT-2 has {values[0]!r}')


def _read_vocabulary(directory: str) -> tuple[dict[str, int], tuple[bytes, bytes], list[dict]]:
    """The ids of all tokens by name, encoder.json and vocab.bpe without added tokens, and the added tokens listed there."""
    path = os.path.join(directory, 'tokenizer.json')
    if not os.path.exists(path):
        paths = [os.path.join(directory, name) for name in ('vocab.json', 'merges.txt')]
        return read_json(paths[0]), tuple(map(read_bytes, paths)), []
    content = read_json(path)
    _check_pipeline(path, content)
    added = content.get('added_tokens') or []
    ids = dict(content['model']['vocab'])
    if end := [token['id'] for token in added if token['content'] == END_OF_TEXT]:
        ids[END_OF_TEXT] = end[0]
    merges = [merge if isinstance(merge, str) else ' '.join(merge) for merge in content['model']['merges']]
    return ids, (_encoder_json(ids), ''.join(f'{line}\n' for line in ['#version: 0.2', *merges]).encode()), added


def _encoder_json(ids: dict[str, int]) -> bytes:
    return json.dumps(dict(sorted(ids.items(), key=lambda item: item[1]))).encode()


def _check_pipeline(path: str, content: dict) -> None:
    """Raises UserError that names what a tokenizer.json does and Encoder does not."""
    steps = {}
    for name in ('normalizer', 'pre_tokenizer', 'decoder'):
        step = content.get(name) or {'type': None}
        members = step.get('pretokenizers') or step.get('normalizers') or step.get('decoders') or []
        if step['type'] == 'Sequence' and len(members) <= 1:
            step = members[0] if members else {'type': None}
        steps[name] = step
    _check(path, 'model.', content['model'], MODEL)
    _check(path, 'normalizer.', steps['normalizer'], {'type': [None]})
    _check(path, 'pre_tokenizer.', steps['pre_tokenizer'], PRE_TOKENIZER)
    _check(path, 'pre_tokenizer.', {'add_prefix_space': steps['pre_tokenizer']['add_prefix_space']}, TOKENIZER_CONFIG)
    _check(path, 'decoder.', steps['decoder'], {'type': ['ByteLevel', None]})
    if kind := _adds_tokens(content.get('post_processor')):
        raise UserError(f'{path}: post_processor.type is {kind!r}, which adds tokens to every text: not supported')


def _adds_tokens(processor: dict | None) -> str | None:
    """The type of the post-processor that adds tokens to a text; None if there is none."""
    if processor is None or processor['type'] == 'ByteLevel':
        return None
    if processor['type'] == 'Sequence':
        return next(filter(None, map(_adds_tokens, processor['processors'])), None)
    if processor['type'] == 'TemplateProcessing' and not any('SpecialToken' in piece for piece in processor['single']):
        return None
    return processor['type']


def _text(token: str | dict) -> str:
    """The text of a token that is given as text or with its properties. Raises UserError for one that takes more than it."""
    if isinstance(token, str):
        return token
    _check(f'the token {token["content"]!r}', '', token, ADDED_TOKEN)
    return token['content']


def _named_tokens(directory: str, settings: dict) -> dict[str, str]:
    """Setting -> text of the special tokens that are named: 'eos_token' -> '<|im_end|>'; the lists' with a number."""
    if 'added_tokens_decoder' not in settings:      # else transformers does not read this file
        settings = settings | _read_optional(directory, 'special_tokens_map.json')
    named = {name: _text(settings[name]) for name in NAMED if settings.get(name)}
    for name in MORE_NAMED:
        tokens = settings.get(name) or []
        for number, token in enumerate(tokens.values() if isinstance(tokens, dict) else tokens):
            named[f'{name} {number}'] = _text(token)
    return named


def _added_tokens(directory: str, settings: dict, listed: list[dict], named: dict[str, str]
                  ) -> dict[str, tuple[int | None, bool]]:
    """Text -> (id, whether special) of all tokens that are found as texts. An id is None if no file gives it."""
    tokens = [(token['id'], _text(token), token.get('special')) for token in listed]
    if (decoder := settings.get('added_tokens_decoder')) is not None:
        tokens += [(int(id), _text(token), token.get('special')) for id, token in decoder.items()]
    else:
        tokens += [(id, text, False) for text, id in _read_optional(directory, 'added_tokens.json').items()]
    added = {}
    for id, text, special in tokens:
        if text in added and added[text][0] != id:
            raise UserError(f'the tokenizer in {directory} gives the token {text!r} two ids, {added[text][0]} and {id}')
        added[text] = id, bool(special) or text in named.values() or added.get(text, (id, False))[1]
    return added | {text: (None, True) for text in named.values() if text not in added}


def _resolve(directory: str, ids: dict[str, int], added: dict[str, tuple[int | None, bool]], n_vocab: int
             ) -> tuple[dict[str, tuple[int, bool]], list[str]]:
    """Gives each added token its id, and leaves out those for which the model has no row: (the others, those)."""
    following = max([*ids.values(), *(id for id, _ in added.values() if id is not None)]) + 1
    found, left_out = {}, []
    for text, (id, special) in added.items():
        if text in ids and id not in (None, ids[text]):
            raise UserError(f'the tokenizer in {directory} gives the token {text!r} two ids, {ids[text]} and {id}')
        if id is None and text not in ids:
            id, following = following, following + 1
        id = ids.get(text, id)
        if text not in ids and id >= n_vocab:
            left_out.append(text)
        elif text:
            found[text] = id, special
    return found, left_out


def _combine(directory: str, ids: dict[str, int], files: tuple[bytes, bytes], found: dict[str, tuple[int, bool]],
             made: set[str], named: dict[str, str], left_out: list[str]) -> Tokenizer:
    """The tokenizer from its parts. made: names of tokens that are bytes or made by merges: ordinary text."""
    if END_OF_TEXT in ids:
        found.setdefault(END_OF_TEXT, (ids[END_OF_TEXT], True))
    ends = _end_candidates(directory, ids, found, made, named.get('eos_token'))
    end = next((text for text in ends if text != END_OF_TEXT), END_OF_TEXT)
    if end not in ends and end not in found:
        raise UserError(f'the tokenizer in {directory} has no token that ends a text: no eos_token, eos_token_id or '
                        f'{END_OF_TEXT} that the model has a row for')
    found.setdefault(end, (ids.get(end), True))
    by_id = sorted(found, key=lambda text: found[text][0])
    special = SpecialTokens(end, tuple(text for text in by_id if found[text][1] or text == end),
                            tuple(text for text in by_id if not found[text][1] and text != end))
    notes = [f'no rows in the model, so left out: {", ".join(map(repr, left_out))}'] if left_out else []
    if special == ONLY_END_OF_TEXT:
        return Tokenizer(*files, special, notes)
    others = [text for text in dict.fromkeys(ends) if text != end]
    notes.append(f'special tokens: {", ".join(map(repr, special.texts))}; a text ends with {end!r}'
                 + (f', not with {", ".join(map(repr, others))}' if others else ''))
    return Tokenizer(_encoder_json(_spelled(directory, ids, found, made)), files[1], special, notes)


def _end_candidates(directory: str, ids: dict[str, int], found: dict, made: set[str], eos_token: str | None
                    ) -> list[str]:
    """The tokens that these files say end a text: what `generate` of transformers stops at first, then the tokenizer's.

    An eos_token_id that is not among the tokens, or an ordinary one, is a default that nobody has adapted.
    """
    texts = {id: name for name, id in ids.items() if name not in made} | {id: text for text, (id, _) in found.items()}
    candidates = []
    for name in ('generation_config.json', 'config.json'):
        value = _read_optional(directory, name).get('eos_token_id')
        candidates += [texts[id] for id in (value if isinstance(value, list) else [value]) if id in texts]
    return candidates + [eos_token] * (eos_token in found)


def _spelled(directory: str, ids: dict[str, int], found: dict[str, tuple[int, bool]], made: set[str]) -> dict[str, int]:
    """Ids by tokens in byte characters. Raises UserError if an added token is spelled as an ordinary one of another id."""
    spelled = {name: id for name, id in ids.items() if name not in found or name in made}
    for text, (id, _) in found.items():
        name = spell(well_formed(text))
        if spelled.setdefault(name, id) != id or text in made and text != name:
            raise UserError(f'{directory}: the added token {text!r} has the bytes of another token of the vocabulary, '
                            'which is not supported')
    return spelled


def write_tokenizer(directory: str, source: str, n_ctx: int, encoder: Encoder) -> None:
    """Writes vocab.json, merges.txt and tokenizer_config.json for the model directory `source`. Raises UserError, OSError."""
    special = encoder.special_tokens
    for ours, theirs in (('encoder.json', 'vocab.json'), ('vocab.bpe', 'merges.txt')):
        content = read_bytes(os.path.join(source, ours))
        if theirs == 'vocab.json' and special != ONLY_END_OF_TEXT:
            content = _vocab_json(os.path.join(source, ours), special)
        with open(os.path.join(directory, theirs), 'wb') as file:
            file.write(content)
    end = special.end_of_text
    config = {'tokenizer_class': 'GPT2Tokenizer', 'add_prefix_space': False, 'clean_up_tokenization_spaces': False,
              'model_max_length': n_ctx, 'bos_token': end, 'eos_token': end, 'unk_token': end}
    if special != ONLY_END_OF_TEXT:
        config |= {'additional_special_tokens': [text for text in special.special if text != end],
                   'added_tokens_decoder': _added_tokens_decoder(special, encoder)}
    with open(os.path.join(directory, 'tokenizer_config.json'), 'w', encoding='utf-8') as file:
        file.write(json.dumps(config, indent=2) + '\n')


def _vocab_json(path: str, special: SpecialTokens) -> bytes:
    """The content of vocab.json: special tokens under their own texts."""
    ids = read_json(path)
    texts = {spell(text): text for text in special.texts}
    renamed = {texts.get(token, token): id for token, id in ids.items()}
    if len(renamed) < len(ids):
        raise UserError(f'{path}: a special token is written as another token is spelled, which vocab.json cannot hold')
    return json.dumps(renamed).encode()


def _added_tokens_decoder(special: SpecialTokens, encoder: Encoder) -> dict[str, dict]:
    """The entry of tokenizer_config.json with the properties of every special token, by id."""
    def properties(text: str) -> dict:
        return {'content': text, 'lstrip': False, 'normalized': text in special.added, 'rstrip': False, 'single_word': False,
                'special': text in special.special}
    ids = sorted((encoder.encode_with_special(text)[0], text) for text in special.texts)
    return {str(id): properties(text) for id, text in ids}
