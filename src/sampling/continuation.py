"""A text as it is written: its tokens, what of it may be shown already, and why it ends."""

import codecs
import dataclasses
import math

import numpy as np

from command.errors import UserError
from encoder import Encoder


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to continue a text. Raises UserError for a value that will not do.

    length: most tokens to write; half of the model's window if None. temperature, top_k, top_p: see sample.next_token;
    repetition_penalty: see sample.penalize. stop: strings at which a text ends. stop_at_eot: whether it ends at the
    end-of-text token. truncate: leave out the string or token at which it ended, which otherwise is its end.
    include_prompt: begin with the prompt.
    """
    length: int | None = None
    temperature: float = 1
    top_k: int = 0
    top_p: float = 0.0
    repetition_penalty: float = 1
    stop: tuple[str, ...] = ()
    stop_at_eot: bool = True
    truncate: bool = False
    include_prompt: bool = False

    def __post_init__(self):
        if self.length is not None:
            whole('length', self.length, 1)
        whole('top_k', self.top_k, 0)
        for name, most in (('temperature', math.inf), ('top_p', 1), ('repetition_penalty', math.inf)):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 <= value <= most or math.isinf(value):
                upper = f' to {most}' if most == 1 else ' or more'
                raise UserError(f'{name} must be a number, 0{upper}, not {value!r}')
        if not self.repetition_penalty:
            raise UserError('repetition_penalty must be more than 0; 1 is none')
        if not isinstance(self.stop, (tuple, list)):
            raise UserError(f'stop must be a tuple of strings, not {self.stop!r}')
        if not all(isinstance(text, str) and text for text in self.stop):
            raise UserError('stop must be a string, and not an empty one')
        for name in ('stop_at_eot', 'truncate', 'include_prompt'):
            if type(getattr(self, name)) is not bool:
                raise UserError(f'{name} must be True or False, not {getattr(self, name)!r}')


def whole(name: str, value: object, least: int) -> None:
    """Raises UserError unless the value is a whole number and not less than `least`."""
    if type(value) is not int or value < least:
        raise UserError(f'{name} must be a whole number, {least} or more, not {value!r}')


class Continuation:
    """A text that begins with `context`, the token ids of `prompt`.

    ids: the tokens drawn. text: what they say, as Settings want it. log_probability: of the tokens drawn, in nats, by the
    model as it is, before temperature and truncation. stop_reason: 'length', 'eot' or 'stop', or None while it goes on.
    seed: numbers that decide the random draws; any, if the first is None. random: gives one number for each token, so that
    the text does not depend on the others in its batch.
    """

    def __init__(self, prompt: str, context: list[int], settings: Settings, seed: list, encoder: Encoder,
                 default_length: int):
        self.prompt, self.settings, self.seed = prompt, settings, seed
        self.random = np.random.default_rng(None if seed[0] is None else seed)
        self._length = settings.length or default_length
        self.tokens, self.window = list(context), 0     # the model sees those from `window` on
        self.ids, self.log_probability, self.stop_reason = [], 0.0, None
        self.text = prompt if settings.include_prompt else ''
        self.cached = False     # whether the cache holds the window, but for its last token
        self._encoder, self._decoder = encoder, codecs.getincrementaldecoder('utf-8')('replace')
        self._begin = len(self.text)
        self._shown = 0

    def slide(self, n_ctx: int) -> None:
        """Keeps the last half of the window, where it is longer than n_ctx tokens."""
        if len(self.tokens) - self.window > n_ctx:
            self.window, self.cached = len(self.tokens) - max(n_ctx // 2, 1), False

    def accept(self, token: int, log_probability: float) -> None:
        """Adds a token, and ends the text where that is due."""
        self.tokens.append(token)
        self.ids.append(token)
        self.log_probability += log_probability
        settings = self.settings
        if token == self._encoder.end_of_text and settings.stop_at_eot:
            self.stop_reason = 'eot'
            self._say(b'' if settings.truncate else self._encoder.decode_bytes([token]))
        else:
            self._say(self._encoder.decode_bytes([token]))
            if self.stop_reason is None and len(self.ids) == self._length:
                self.stop_reason = 'length'
        if self.stop_reason in ('eot', 'length'):
            self._say(b'', final=True)

    def _say(self, new: bytes, final: bool = False) -> None:
        before = len(self.text)
        self.text += self._decoder.decode(new, final)
        ends = [(at, at + len(stop)) for stop in self.settings.stop
                if (at := self.text.find(stop, max(self._begin, before - len(stop) + 1))) >= 0]
        if ends:
            self.stop_reason = 'stop'
            self.text = self.text[:min(at if self.settings.truncate else end for at, end in ends)]

    def new_text(self) -> str:
        """What came since the last call and will stay: whole characters, and nothing that may turn out to be a stop."""
        until = len(self.text)
        if self.stop_reason is None and self.settings.truncate:
            longest = max(map(len, self.settings.stop), default=0)
            for at in range(max(self._begin, until - longest + 1), until):
                if any(stop.startswith(self.text[at:]) for stop in self.settings.stop):
                    until = at
                    break
        piece, self._shown = self.text[self._shown:until], max(until, self._shown)
        return piece
