"""How samples are printed: as text under headings, or as JSON lines."""

import itertools
import json
import shutil
import sys

from tqdm import tqdm

from sampling.flags import Flags

RULE = 80           # characters of the line below a prompt's samples


def write_samples(generator, flags: Flags, prompts: list[str], *, first: int = 0, rule: bool = False) -> None:
    """Prints flags.nsamples continuations of each prompt, as they are written if one is made at a time.

    first: the number of the first prompt, which decides about random draws. rule: draw a line below each prompt's samples.
    """
    texts = (generator.continuation(prompt, flags.settings, [flags.seed, number, i])
             for number, prompt in enumerate(prompts, start=first)
             for i in (range(flags.nsamples) if flags.nsamples else itertools.count()))
    if flags.batch_size == 1 and not flags.jsonl:
        for text in generator.steps(texts, 1):
            print(header(text) if len(text.ids) == 1 else '', end=text.new_text(), flush=True)
            if text.stop_reason:
                print(below(text, flags, rule), flush=True)
        return
    many = flags.nsamples * len(prompts)
    with tqdm(generator.finish(texts, flags.batch_size), total=many or None, unit='sample', leave=False,
              disable=True if many == 1 else None) as bar:
        for text in bar:
            line = as_json(text) if flags.jsonl else header(text) + text.text + below(text, flags, rule)
            bar.write(line, file=sys.stdout)
            sys.stdout.flush()


def header(text) -> str:
    return f'======== SAMPLE {text.seed[2] + 1} ========\n'


def below(text, flags: Flags, rule: bool) -> str:
    if not rule or text.seed[2] + 1 != flags.nsamples:
        return ''
    # In a narrower window it would be two lines.
    return '\n' + '=' * min(RULE, shutil.get_terminal_size().columns if sys.stdout.isatty() else RULE)


def as_json(text) -> str:
    return json.dumps({'prompt': text.prompt, 'text': text.text, 'ids': text.ids, 'seed': text.seed[0],
                       'sample': text.seed[2] + 1, 'stop_reason': text.stop_reason,
                       'log_probability': round(text.log_probability, 4)}, ensure_ascii=False)
