"""Prints samples: text under headings, or JSON lines."""

import codecs
import itertools
import json
import shutil
import sys

from tqdm import tqdm

from sampling.flags import Flags

LINE_WIDTH = 80     # characters of the line below a prompt's samples


def write_samples(generator, flags: Flags, prompts: list[str], *, first: int = 0, line: bool = False) -> None:
    """Prints flags.nsamples continuations of each prompt, token by token if the batch size is 1.

    first: the number of the first prompt, a part of the samples' seeds. line: print a line below each prompt's samples.
    """
    texts = (generator.continuation(prompt, flags.settings, [flags.seed, number, i])
             for number, prompt in enumerate(prompts, start=first)
             for i in (range(flags.nsamples) if flags.nsamples else itertools.count()))
    if flags.batch_size == 1 and not flags.jsonl:
        for text in generator.steps(texts, 1):
            print(header(text) if len(text.ids) == 1 else '', end=text.new_text(), flush=True)
            if text.stop_reason:
                print(footer(text, flags, line), flush=True)
        return
    total = flags.nsamples * len(prompts)
    with tqdm(generator.finish(texts, flags.batch_size), total=total or None, unit='sample', leave=False,
              disable=True if total == 1 else None) as bar:
        for text in bar:
            sample = as_json(text) if flags.jsonl else header(text) + text.text + footer(text, flags, line)
            bar.write(sample, file=sys.stdout)
            sys.stdout.flush()


def header(text) -> str:
    return f'======== SAMPLE {text.seed[2] + 1} ========\n'


def footer(text, flags: Flags, line: bool) -> str:
    """The line below a prompt's last sample, no wider than the terminal."""
    if not line or text.seed[2] + 1 != flags.nsamples:
        return ''
    return '\n' + '=' * min(LINE_WIDTH, shutil.get_terminal_size().columns if sys.stdout.isatty() else LINE_WIDTH)


def as_json(text) -> str:
    """A line of JSON, in ASCII unless standard output is UTF-8: Python's escapes of characters it lacks are not JSON's."""
    utf8 = codecs.lookup(sys.stdout.encoding or 'utf-8').name == 'utf-8'
    return json.dumps({'prompt': text.prompt, 'text': text.text, 'ids': text.ids, 'seed': text.seed[0],
                       'sample': text.seed[2] + 1, 'stop_reason': text.stop_reason,
                       'log_probability': round(text.log_probability, 4)}, ensure_ascii=not utf8)
