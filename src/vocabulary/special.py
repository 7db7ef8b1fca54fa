"""special_tokens.json: texts that are one token each, and the end token.

The file is optional: without it, <|endoftext|> is the only special token. Every special token is in encoder.json too,
spelled in byte characters, so that tools which do not know this file decode it:

    {"end_of_text": "<|im_end|>", "special": ["<|endoftext|>", "<|im_end|>"], "added": ["Grüezi"]}

special: markup, which ordinary text does not contain. added (optional): words that no merge makes.
"""

import dataclasses
import functools
import json
import os
import re

from command.errors import UserError
from command.models import SPECIAL_TOKENS
from command.read_files import read_json
from vocabulary.spelling import END_OF_TEXT, spell, well_formed


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """Texts that are one token wherever they stand. end_of_text: the one of `special` that ends a text."""
    end_of_text: str = END_OF_TEXT
    special: tuple[str, ...] = (END_OF_TEXT,)
    added: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        return self.special + self.added

    @functools.cached_property
    def _pattern(self) -> re.Pattern:
        """Matches a special token; of those that begin at one position, the longest."""
        return re.compile(f'({"|".join(map(re.escape, sorted(self.texts, key=len, reverse=True)))})')

    def split(self, text: str) -> tuple[list[str], list[str]]:
        """Cuts a text at its special tokens: 'a<|endoftext|>b' -> (['a', 'b'], ['<|endoftext|>'])."""
        if len(self.texts) == 1:        # faster than a regular expression
            texts = text.split(self.end_of_text)
            return texts, [self.end_of_text] * (len(texts) - 1)
        parts = self._pattern.split(text)
        return parts[::2], parts[1::2]

    def crosses(self, text: str, position: int) -> bool:
        """Whether a special token lies across a position, or may do so when the text continues: 'a<|endof', 3 -> True."""
        return any(token.startswith(text[start:start + len(token)]) for token in self.texts
                   for start in range(max(position - len(token) + 1, 0), position))


ONLY_END_OF_TEXT = SpecialTokens()


def read_special_tokens(directory: str) -> SpecialTokens:
    """The special tokens of a model directory. Raises UserError that names the file and what is wrong with it."""
    path = os.path.join(directory, SPECIAL_TOKENS)
    if not os.path.exists(path):
        return ONLY_END_OF_TEXT
    content = read_json(path)
    end_of_text, *lists = content.get('end_of_text'), content.get('special'), content.get('added', [])
    names = [field.name for field in dataclasses.fields(SpecialTokens)]
    if extra := [name for name in content if name not in names]:
        raise UserError(f'{path} has unknown entries: {", ".join(extra)}; expected only {", ".join(names)}')
    if not all(isinstance(texts, list) and all(isinstance(text, str) and text for text in texts) for texts in lists):
        raise UserError(f'{path}: special and added must be lists of texts, none of them empty')
    if end_of_text not in lists[0]:
        raise UserError(f'{path}: end_of_text must be one of the texts in special, not {end_of_text!r}')
    special = SpecialTokens(end_of_text, *map(tuple, lists))
    if len(set(special.texts)) < len(special.texts):
        raise UserError(f'{path} lists a text twice')
    if invalid := [text for text in special.texts if well_formed(text) != text]:
        raise UserError(f'{path}: {invalid[0]!r} holds half a surrogate pair')
    return special


def special_ids(special: SpecialTokens, ids: dict[str, int], directory: str) -> dict[str, int]:
    """The ids of special tokens: their texts -> ids. Raises UserError for one that encoder.json lacks."""
    found = {text: ids.get(spell(text)) for text in special.texts}
    if missing := [text for text, id in found.items() if id is None]:
        raise UserError(f'{os.path.join(directory, "encoder.json")} lacks the token {missing[0]!r}'
                        + ('' if special == ONLY_END_OF_TEXT else f', which {SPECIAL_TOKENS} lists'))
    return found


def write_special_tokens(directory: str, special: SpecialTokens) -> None:
    """Writes the file, or none if END_OF_TEXT is the only special token. Raises OSError."""
    if special == ONLY_END_OF_TEXT:
        return
    content = {name: value for name, value in dataclasses.asdict(special).items() if value}
    with open(os.path.join(directory, SPECIAL_TOKENS), 'w', encoding='utf-8') as file:
        json.dump(content, file)
        file.write('\n')
