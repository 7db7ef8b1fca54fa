"""A text that grows token by token: what can be shown, and when it ends."""

import codecs
import collections
import dataclasses
import math
import numbers
from collections.abc import Sequence

import numpy as np

from command.errors import UserError
from encoder import Encoder
from network.quantize import TYPES
from sampling.bans import Bans, banned_sequences

MOST = 2 ** 31 - 1              # the largest int32, in which TensorFlow counts
MOST_PENALTY = 100              # that is subtracted from a logit: e^100 times less likely
SMALLEST, LARGEST = 1e-12, 1e12     # of numbers that logits are multiplied or divided by: float32 then never overflows


@dataclasses.dataclass(frozen=True)
class SamplingSettings:
    """How to continue a text. Raises UserError for an invalid value.

    length: most tokens to write; half of the model's window if None. temperature, top_k, top_p: see sample.next_token;
    repetition_penalty: see sample.penalize. presence_penalty: is subtracted from the logit of each token that was drawn before;
    frequency_penalty: is subtracted as often as it was drawn. no_repeat_ngram: no sequence of so many tokens occurs twice, 0
    for no limit; banned_words: words or phrases whose tokens do not occur; see sampling.bans. stop: strings that end a text.
    stop_at_eot: the end-of-text token ends it, too. truncate: leave out the string or token that ended the text.
    include_prompt: begin with the prompt.
    """
    length: int | None = None
    temperature: float = 1
    top_k: int = 0
    top_p: float = 0.0
    repetition_penalty: float = 1
    presence_penalty: float = 0
    frequency_penalty: float = 0
    no_repeat_ngram: int = 0
    banned_words: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    stop_at_eot: bool = True
    truncate: bool = False
    include_prompt: bool = False

    def __post_init__(self):
        if self.length is not None:
            check_whole_number('length', self.length, 1)
        for name in ('top_k', 'no_repeat_ngram'):
            check_whole_number(name, getattr(self, name), 0)
        check_number('temperature', self.temperature)
        check_number('top_p', self.top_p, 1)
        check_number('repetition_penalty', self.repetition_penalty)
        if not self.repetition_penalty:
            raise UserError('repetition_penalty must be more than 0; 1 means no penalty')
        for name in ('presence_penalty', 'frequency_penalty'):
            value = getattr(self, name)
            if not is_number(value) or not -MOST_PENALTY <= value <= MOST_PENALTY:
                raise UserError(f'{name} must be a number from -{MOST_PENALTY} to {MOST_PENALTY}, not {value!r}')
        for name in ('banned_words', 'stop'):
            if not isinstance(texts := getattr(self, name), (tuple, list)):
                raise UserError(f'{name} must be a tuple of strings, not {texts!r}')
            if not all(isinstance(text, str) and text for text in texts):
                raise UserError(f'{name} must be a string, and not an empty one')
        for name in ('stop_at_eot', 'truncate', 'include_prompt'):
            if type(getattr(self, name)) is not bool:
                raise UserError(f'{name} must be True or False, not {getattr(self, name)!r}')

    @property
    def distribution(self) -> tuple:
        """The settings that all rows of one draw have in common."""
        return self.temperature, self.top_k, self.top_p, self.repetition_penalty


def check_weights(value: object) -> None:
    """Raises UserError unless the value is a type in which a model's weights can be in memory."""
    if value not in TYPES:
        raise UserError(f'weights must be {", ".join(TYPES[:-1])} or {TYPES[-1]}, not {value!r}')


def check_whole_number(name: str, value: object, least: int, most: float = MOST) -> None:
    """Raises UserError unless the value is a whole number from `least` to `most`."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise UserError(f'{name} must be a whole number, {least} or more, not {value!r}')
    if value > most:
        raise UserError(f'{name} must be at most {most}')


def is_number(value: object) -> bool:
    return isinstance(value, (numbers.Integral, float, np.floating)) and not isinstance(value, bool)


def check_number(name: str, value: object, most: float | None = None) -> None:
    """Raises UserError unless the value is 0, or a number from SMALLEST to `most`, or to LARGEST without it."""
    if not is_number(value) or not (0 <= value if most is None else 0 <= value <= most):
        raise UserError(f'{name} must be a number, 0 {"or more" if most is None else f"to {most}"}, not {value!r}')
    if value and not SMALLEST <= value <= LARGEST:
        raise UserError(f'{name} must not be so close to 0, or so large: {SMALLEST:g} to {LARGEST:g}')


def prompt_tokens(prompt: str | Sequence[int], encoder: Encoder, n_ctx: int, source: str = 'the prompt') -> list[int]:
    """The token ids of a prompt, in which a literal END_OF_TEXT is its one token; '' is that token too. Ids stay as they are.

    Raises UserError if it is neither a string nor ids, or longer than the model's window of n_ctx. source: how messages begin.
    """
    if isinstance(prompt, str):
        tokens = encoder.encode_with_special(prompt) or [encoder.end_of_text]
    elif isinstance(prompt, Sequence) and not isinstance(prompt, bytes):
        tokens = list(prompt)
        for token in tokens:
            check_whole_number(f'each token of {source}', token, 0, encoder.n_vocab - 1)
        if not tokens:
            raise UserError(f'{source} has no tokens')
    else:
        raise UserError(f'{source} must be a string, not {prompt!r}')
    if len(tokens) > n_ctx:
        raise UserError(f"{source} has {len(tokens)} tokens, the model's window holds {n_ctx}: give a shorter one")
    return tokens


class Continuation:
    """A text that continues `context`, the token ids of `prompt`, which is a text or those ids.

    ids: the tokens drawn. text: their text, as the settings want it; it begins with a character that the prompt's ids leave
    incomplete. log_probability: of the tokens drawn, in nats, before temperature and truncation. stop_reason: 'length',
    'eot' or 'stop'; None until the text ends. seed: numbers that decide the random draws; random if the first is None.
    random: gives one number for each token, so that the text does not depend on the others in its batch.

    With logprobs, for each token its entry in log_probabilities, in alternatives (so many (token, log-probability), the most
    likely first) and in offsets: the characters of `text` before it, or before the character that it is a part of.
    """

    def __init__(self, prompt: str | list[int], context: list[int], settings: SamplingSettings, seed: list, encoder: Encoder,
                 default_length: int, logprobs: int | None = None):
        self.prompt, self.settings, self.seed, self.logprobs = prompt, settings, seed, logprobs
        self.random = np.random.default_rng(None if seed[0] is None else seed)
        self._length = settings.length or default_length
        self.tokens, self.window_start = list(context), 0       # the model reads tokens[window_start:]
        self.ids, self.log_probability, self.stop_reason = [], 0.0, None
        self.log_probabilities, self.alternatives, self.offsets = [], [], []
        self._encoder, self._utf8 = encoder, codecs.getincrementaldecoder('utf-8')('replace')
        shown = prompt if isinstance(prompt, str) else self._utf8.decode(encoder.decode_bytes(context))
        self.text = shown if settings.include_prompt else ''
        self.cached = False     # whether the cache holds the window except its last token
        sequences = banned_sequences(encoder, settings.banned_words)
        self._bans = Bans(sequences, settings.no_repeat_ngram) if sequences or settings.no_repeat_ngram else None
        self._counts = collections.Counter()    # of the tokens drawn, if there is a penalty for them
        self._prompt_end = len(self.text)       # stops are searched for after it
        self._shown = 0

    def slide(self, n_ctx: int) -> None:
        """Shortens the window to n_ctx // 2 tokens if it is longer than n_ctx."""
        if len(self.tokens) - self.window_start > n_ctx:
            self.window_start, self.cached = len(self.tokens) - max(n_ctx // 2, 1), False

    def banned_tokens(self) -> set[int]:
        """The tokens that must not come next; none if that would leave no token at all."""
        banned = self._bans.next(self.tokens) if self._bans else set()
        return banned if len(banned) < self._encoder.n_vocab else set()

    def changed_logits(self) -> dict[int, float]:
        """What is added to the logits of tokens: minus their penalties, and -inf for those that are banned."""
        settings = self.settings
        changes = {token: -settings.presence_penalty - settings.frequency_penalty * n for token, n in self._counts.items()}
        return changes | dict.fromkeys(self.banned_tokens(), -math.inf)

    def add(self, token: int, log_probability: float, alternatives: list[tuple[int, float]] | None = None) -> None:
        """Adds a token, and sets stop_reason if the text ends with it."""
        self.tokens.append(token)
        self.ids.append(token)
        self.log_probability += log_probability
        if self.logprobs is not None:
            self.log_probabilities.append(log_probability)
            self.alternatives.append(alternatives)
            self.offsets.append(len(self.text))
        if self.settings.presence_penalty or self.settings.frequency_penalty:
            self._counts[token] += 1
        settings = self.settings
        if token == self._encoder.end_of_text and settings.stop_at_eot:
            self.stop_reason = 'eot'
            self._add_bytes(b'' if settings.truncate else self._encoder.decode_bytes([token]))
        else:
            self._add_bytes(self._encoder.decode_bytes([token]))
            if self.stop_reason is None and len(self.ids) == self._length:
                self.stop_reason = 'length'
        if self.stop_reason in ('eot', 'length'):
            self._add_bytes(b'', final=True)

    def _add_bytes(self, new: bytes, final: bool = False) -> None:
        before = len(self.text)
        self.text += self._utf8.decode(new, final)
        stops = [(start, start + len(stop)) for stop in self.settings.stop
                 if (start := self.text.find(stop, max(self._prompt_end, before - len(stop) + 1))) >= 0]
        if stops:
            self.stop_reason = 'stop'
            self.text = self.text[:min(start if self.settings.truncate else end for start, end in stops)]

    def new_text(self) -> str:
        """The text since the last call, without what may be the beginning of a stop that would be truncated."""
        until = len(self.text)
        if self.stop_reason is None and self.settings.truncate:
            longest = max(map(len, self.settings.stop), default=0)
            for start in range(max(self._prompt_end, until - longest + 1), until):
                if any(stop.startswith(self.text[start:]) for stop in self.settings.stop):
                    until = start
                    break
        piece, self._shown = self.text[self._shown:until], max(until, self._shown)
        return piece
