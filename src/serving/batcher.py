"""A thread that runs the model; requests share its batch, step by step."""

import collections
import math
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from command.errors import UserError
from sampling.continuation import Continuation, SamplingSettings
from sampling.rows import Rows
from sampling.scores import Score, diverged

READ_AT_ONCE = 2        # windows of tokens that texts which join in one step have together, at most: others wait meanwhile


class Unavailable(Exception):
    """A request that is not accepted now, but may be later. The message says why."""


class Token(NamedTuple):
    """Another token of a text."""
    text: int                   # its number in the job
    id: int
    piece: str                  # the text that can be shown now
    stop_reason: str | None
    # With logprobs, else None; see Continuation.
    log_probability: float | None
    alternatives: list[tuple[int, float]] | None
    offset: int | None


class Scored(NamedTuple):
    """The score of a prompt without its first token."""
    prompt: int                 # its number in the job
    score: Score


class Failed(NamedTuple):
    """The end of a job that was not completed."""
    error: Exception


FINISHED = 'finished'           # the end of a job that was


class Job:
    """What a request wants: prompts, as arrays of token ids, to score, and then texts to write.

    logprobs: of the prompts (see Generator.scores). deliver: takes each Token, Scored, and the end, FINISHED or Failed; it is
    called in the batcher's thread, and must return quickly.
    """

    def __init__(self, texts: Iterable[Continuation], prompts: Iterable[np.ndarray], logprobs: int | None,
                 deliver: Callable[[object], None]):
        self.texts = collections.deque(enumerate(texts))            # that have no row yet
        self.prompts = collections.deque(enumerate(prompts))        # that are not scored yet
        self.logprobs, self.deliver = logprobs, deliver
        self.running = {}                                           # text -> its number
        self.started = self.cancelled = False

    @property
    def is_complete(self) -> bool:
        return not (self.texts or self.prompts or self.running)

    def cancel(self) -> None:
        """Makes the batcher forget it before its next step."""
        self.cancelled = True


class Batcher:
    """Writes and scores what jobs want, in the thread that calls `run`. batch_size: texts that are written together.

    A free row goes to a text of the job that has the fewest, so that a large one does not hold up the others. queue: how many
    jobs may wait besides as many as there are rows.
    """

    def __init__(self, generator, *, batch_size: int, queue: int):
        self._generator, self._most = generator, batch_size + queue
        self._rows, self._jobs = Rows(batch_size), []       # the oldest first
        self._changed, self._closed = threading.Condition(), False

    def warm_up(self) -> None:
        """Writes two tokens with each number of rows, for which programs are compiled. Raises UserError for damaged weights."""
        settings, size = SamplingSettings(length=2, stop_at_eot=False), self._rows.most
        while size:
            texts = [self._generator.continuation('', settings, [0, row]) for row in range(size)]
            for text in self._generator.finish(texts, size):
                if not math.isfinite(text.log_probability):
                    raise diverged(-text.log_probability)
            size //= 2

    def submit(self, job: Job) -> None:
        """Accepts a job, from any thread. Raises Unavailable if too many wait, or the batcher is closed."""
        with self._changed:
            if self._closed:
                raise Unavailable('the server is shutting down')
            if len(self._jobs) >= self._most:
                raise Unavailable(f'{len(self._jobs)} requests are running or waiting already: try again later')
            self._jobs.append(job)
            self._changed.notify()

    def close(self) -> None:
        """From now on accepts no job, and gives up those that have not started. `run` returns when the others are complete."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def abandon(self) -> None:
        """Closes, and gives up everything that is not complete."""
        with self._changed:
            for job in self._jobs:
                job.cancel()
        self.close()

    def run(self) -> None:
        """Works until it is closed and nothing is left to do."""
        while self.turn():
            pass

    def turn(self) -> bool:
        """Waits for something to do, and makes a step. Returns False if the batcher is closed and nothing is left to do."""
        if not self._choose():
            return False
        try:
            self._score()
            self._write()
        except Exception as error:      # noqa: BLE001  (of memory, for example: the requests that ran end, not the server)
            if not isinstance(error, UserError):
                traceback.print_exc(file=sys.stderr)
            self._fail(error)
        return True

    def _choose(self) -> bool:
        """Waits for something to do, and gives free rows to texts. Returns whether there is something to do."""
        with self._changed:
            while True:
                for job in list(self._jobs):
                    if job.cancelled:
                        self._forget(job)
                    elif self._closed and not job.started:
                        self._end(job, Failed(Unavailable('the server is shutting down')))
                if self._jobs:
                    break
                if self._closed:
                    return False
                self._changed.wait()
            self._fill_rows()
            return True

    def _fill_rows(self) -> None:
        count = longest = 0
        while len(self._rows) < self._rows.most:
            ready = [job for job in self._jobs if job.texts and not job.prompts]
            if not ready:
                return
            job = min(ready, key=lambda job: len(job.running))
            number, text = job.texts[0]
            longest, count = max(longest, len(text.tokens)), count + 1
            if count > 1 and count * longest > READ_AT_ONCE * self._generator.hparams.n_ctx:
                return
            job.texts.popleft()
            job.running[text] = number
            job.started = True
            self._rows.join(text)

    def _score(self) -> None:
        """Scores prompts of the oldest jobs, about READ_AT_ONCE windows of them."""
        n_ctx, left, chosen = self._generator.hparams.n_ctx, READ_AT_ONCE * self._generator.hparams.n_ctx, []
        for job in self._jobs:
            for number, prompt in job.prompts:
                if left > 0:
                    chosen.append((job, number, prompt))
                left -= len(prompt)
        if not chosen:
            return
        for job, *_ in chosen:
            job.started = True
        counts = [job.logprobs for job, *_ in chosen if job.logprobs is not None]
        scores = self._generator.scores([prompt for *_, prompt in chosen], length=n_ctx, stride=max(n_ctx // 2, 1),
                                        batch_size=READ_AT_ONCE, logprobs=max(counts) if counts else None)
        for (job, number, _), score in zip(chosen, scores):
            job.prompts.popleft()
            self._deliver(job, Scored(number, score))

    def _write(self) -> None:
        """Draws a token for each of the texts that have a row."""
        if not self._rows:
            return
        owners = {text: job for job in self._jobs for text in job.running}
        for text in self._generator.step(self._rows):
            job = owners[text]
            noted = (each[-1] if text.logprobs is not None else None
                     for each in (text.log_probabilities, text.alternatives, text.offsets))
            token = Token(job.running[text], text.ids[-1], text.new_text(), text.stop_reason, *noted)
            if text.stop_reason:
                self._rows.leave(text)
                del job.running[text]
            self._deliver(job, token)

    def _deliver(self, job: Job, event: object) -> None:
        job.deliver(event)
        if job.is_complete:
            with self._changed:
                self._end(job, FINISHED)

    def _end(self, job: Job, event: object) -> None:
        self._forget(job)
        job.deliver(event)

    def _forget(self, job: Job) -> None:
        self._jobs.remove(job)
        for text in job.running:
            self._rows.leave(text)

    def _fail(self, error: Exception) -> None:
        """Ends all jobs that have started."""
        with self._changed:
            for job in [job for job in self._jobs if job.started]:
                self._end(job, Failed(error))
            self._rows = Rows(self._rows.most)      # whatever the cache holds belongs to none of these
