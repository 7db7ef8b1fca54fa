#!/usr/bin/env python3
"""Measures encoding speed against tiktoken, tokenizers and the encoder of 2019.

    pip install -r bench/requirements.txt
    bench/encode.py VOCABULARY_DIR TEXT [--rounds 5] [--only English code Unicode end_to_end] [--memory]

VOCABULARY_DIR has GPT-2's encoder.json and vocab.bpe. TEXT, such as Shakespeare's plays, is the beginning of the English
text; the rest of the texts is made from Python's standard library and documentation, and --texts DIR keeps them. All
contestants have the same texts and the same vocabulary, and take turns. In each round every contestant is created again and
encodes the text twice, cold and warm. Ratios are taken within a round; the tables have their medians. In comparisons with slow
contestants, all get a fifth of the text. end_to_end: 200 MB from file to file, by whole commands. --memory: the resident
memory of encode.py on 1 GB.
"""

import argparse
import concurrent.futures
import functools
import glob
import importlib.metadata
import inspect
import itertools
import json
import os
import platform
import pydoc_data.topics
import re
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import unicodedata
import zlib
from collections.abc import Iterator

import numpy as np
import regex

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, '..', 'src')]

import encoder
from vocabulary import pieces, spelling

TEXT_SIZE, SHORT_SIZE, FILE_SIZE, MEMORY_SIZE = 50_000_000, 10_000_000, 200_000_000, 1_000_000_000      # bytes
PART = 2 ** 20              # characters that a contestant is given at a time
PUBLISHED_PIECE = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# (ranges of letters, between words, between sentences, most letters of a word)
SCRIPTS = {
    'Latin': ('a-zß-öø-ż', ' ', '. ', 10), 'Greek': ('α-ωά-ώ', ' ', '. ', 10), 'Cyrillic': ('а-яё-ў', ' ', '. ', 10),
    'Hebrew': ('א-ת', ' ', '. ', 7), 'Arabic': ('ء-غف-ي', ' ', '، ', 8), 'Devanagari': ('अ-हा-्', ' ', '। ', 7),
    'Thai': ('ก-ฺเ-๎', '', ' ', 7), 'Hangul': ('가-힣', ' ', '. ', 4), 'kana': ('ぁ-ゖァ-ヺ', '', '、', 5),
    'Chinese': ('一-龥', '', '，', 3), 'emoji': ('😀-🙏🚀-🛅', ' ', '!\n', 2),
}


# The texts

def repeated(parts: list[str]) -> str:
    """The parts joined, again and again up to TEXT_SIZE UTF-8 bytes."""
    data = '\n\n'.join(parts).encode()
    return (data * -(-TEXT_SIZE // len(data)))[:TEXT_SIZE].decode(errors='ignore')


def sources(directory: str) -> Iterator[str]:
    """The text of each Python source below a directory, without installed packages."""
    for path in sorted(glob.glob(os.path.join(glob.escape(directory), '**', '*.py'), recursive=True)):
        if 'site-packages' not in os.path.relpath(path, directory):
            with open(path, encoding='utf-8', errors='ignore') as file:
                yield file.read()


def code(_: str) -> str:
    """The standard library."""
    return repeated(list(sources(sysconfig.get_paths()['stdlib'])))


def english(path: str) -> str:
    """The file, Python's reference, and the documentation strings of all that is installed, until there is enough."""
    with open(path, encoding='utf-8') as file:
        parts = [file.read(), *pydoc_data.topics.topics.values()]
    size = sum(map(len, parts))
    for source in itertools.chain.from_iterable(sources(sysconfig.get_paths()[name]) for name in ('stdlib', 'purelib')):
        found = [inspect.cleandoc(text) for text in re.findall(r'"""(.{80,}?)"""', source, re.DOTALL)]
        parts += found
        size += sum(map(len, found))
        if size > TEXT_SIZE:
            break
    return repeated(parts)


def zipf(rng: np.random.Generator, things: list[str], size: int) -> np.ndarray:
    """Draws from things, the n-th with a probability proportional to 1/n."""
    weights = 1 / np.arange(1, len(things) + 1)
    return np.array(things, object)[rng.choice(len(things), size, p=weights / weights.sum())]


def alphabet(rng: np.random.Generator, ranges: str) -> list[str]:
    """The letters, marks and symbols of 'a-zß-ö', in random order."""
    characters = [chr(i) for first, last in zip(ranges[::3], ranges[2::3]) for i in range(ord(first), ord(last) + 1)]
    return rng.permutation([c for c in characters if unicodedata.category(c)[0] in 'LMS']).tolist()


def paragraphs(rng: np.random.Generator, words: list[str], space: str, stop: str) -> list[str]:
    """Texts of 60 words from a Zipf distribution, in sentences of 8 on average."""
    drawn = zipf(rng, words, 600_000) + np.where(rng.random(600_000) < 1 / 8, stop, space).astype(object)
    return [''.join(paragraph) for paragraph in drawn.reshape(-1, 60)]


def unicode(_: str) -> str:
    """Scripts with words made up at random, and for every five paragraphs one of words from the names of characters."""
    rng = np.random.default_rng(0)
    names = {word for i in range(0x20000) for word in unicodedata.name(chr(i), '').lower().split() if word.isalpha()}
    texts = []
    for ranges, space, stop, longest in SCRIPTS.values():
        lengths = rng.integers(1, longest + 1, 50_000)
        letters = iter(zipf(rng, alphabet(rng, ranges)[:3_000], lengths.sum()))
        texts += paragraphs(rng, [''.join(itertools.islice(letters, int(n))) for n in lengths], space, stop)
        texts += paragraphs(rng, rng.permutation(sorted(names)).tolist(), ' ', ', ')[::5]
    return repeated(rng.permutation(np.array(texts, object)).tolist())


TEXTS = {'English': english, 'code': code, 'Unicode': unicode}


def make_text(name: str, args: argparse.Namespace) -> str:
    """The text of this name, from the directory of texts if it is there."""
    path = os.path.join(args.texts, f'{name}.txt') if args.texts else None
    if path and os.path.exists(path):
        with open(path, encoding='utf-8', newline='') as file:
            return file.read()
    text = TEXTS[name](args.text)
    if path:
        with open(path, 'w', encoding='utf-8', newline='') as file:
            file.write(text)
    return text


# The contestants: from the directory of a vocabulary to a function from the parts of a text to arrays of ids

def ours(directory: str):
    enc = encoder.load_encoder(directory)
    return lambda parts: [enc.encode_array(part) for part in parts]


def tiktoken_encoding(directory: str):
    import tiktoken
    with open(os.path.join(directory, 'encoder.json'), encoding='utf-8') as file:
        ids = json.load(file)
    special = {spelling.END_OF_TEXT: ids.pop(spelling.END_OF_TEXT)}
    ranks = {token.translate(spelling.CHARACTER_BYTES).encode('latin-1'): id for token, id in ids.items()}
    return tiktoken.Encoding('gpt2', pat_str=PUBLISHED_PIECE, mergeable_ranks=ranks, special_tokens=special)


def tiktoken(directory: str, threads: int = 1):
    encode = functools.partial(tiktoken_encoding(directory).encode_to_numpy, allowed_special='all')

    def run(parts):
        if threads == 1:
            return list(map(encode, parts))
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            return list(pool.map(encode, parts))
    return run


def tokenizers(directory: str):
    import tokenizers
    tokenizer = tokenizers.ByteLevelBPETokenizer.from_file(*(os.path.join(directory, name)
                                                            for name in ('encoder.json', 'vocab.bpe')))
    tokenizer.add_special_tokens([spelling.END_OF_TEXT])
    return lambda parts: [np.array(tokenizer.encode(part).ids) for part in parts]


class Encoder2019:
    """The algorithm of the encoders of 2019: for each merge a set of all pairs, from which `min` takes the best; results are
    kept, as joined strings, in a dict without limit."""

    def __init__(self, directory: str):
        with open(os.path.join(directory, 'encoder.json'), encoding='utf-8') as file:
            self.ids = json.load(file)
        with open(os.path.join(directory, 'vocab.bpe'), encoding='utf-8') as file:
            pairs = file.read().split('\n')[1:-1]
        self.ranks = {tuple(pair.split()): rank for rank, pair in enumerate(pairs)}
        self.pieces = regex.compile(PUBLISHED_PIECE)
        self.cache = {}

    def tokens(self, piece: str) -> str:
        if piece in self.cache:
            return self.cache[piece]
        word = tuple(piece)
        while len(word) > 1:
            left, right = min(set(itertools.pairwise(word)), key=lambda pair: self.ranks.get(pair, float('inf')))
            if (left, right) not in self.ranks:
                break
            merged = []
            for symbol in word:
                if symbol == right and merged and merged[-1] == left:
                    merged[-1] = left + ' '         # no symbol has a space: this one is not the left of another pair
                else:
                    merged.append(symbol)
            word = tuple(left + right if symbol == left + ' ' else symbol for symbol in merged)
        self.cache[piece] = ' '.join(word)
        return self.cache[piece]

    def encode(self, text: str) -> list[int]:
        ids = []
        for piece in self.pieces.findall(text):
            spelled = ''.join(spelling.BYTE_CHARACTERS[byte] for byte in piece.encode())
            ids.extend(self.ids[token] for token in self.tokens(spelled).split(' '))
        return ids


def encoder_2019(directory: str):
    enc = Encoder2019(directory)
    return lambda parts: [np.array(enc.encode(part)) for part in parts]


OURS = 'this toolkit'
RACES = (       # (bytes of the text, {name: what makes the contestant}); the others are compared with ours
    (TEXT_SIZE, {OURS: ours, 'tiktoken, one thread': tiktoken, 'tiktoken, two threads': functools.partial(tiktoken, threads=2)}),
    (SHORT_SIZE, {OURS: ours, 'Hugging Face tokenizers': tokenizers, '2019 encoder': encoder_2019}),
)


def cut_up(text: str) -> list[str]:
    """The text in parts of PART characters or less."""
    parts, start = [], 0
    while start < len(text):
        part = text[start:start + PART]
        parts.append(part[:pieces.cut(part, end=start + PART >= len(text))])
        start += len(parts[-1])
    return parts


def measure(name: str, size: int, contestants: dict, args: argparse.Namespace) -> str:
    """All contestants encode the beginning of a text in turns. Returns the table."""
    parts = cut_up(make_text(name, args).encode()[:size].decode(errors='ignore'))
    size = sum(len(part.encode()) for part in parts)
    rates = {contestant: [] for contestant in contestants}      # of each round: cold and warm, bytes per second
    expected = None
    for _ in range(args.rounds):
        for contestant, make in contestants.items():
            encode = make(args.vocabulary)
            passes = []
            for _ in ('cold', 'warm'):
                start = time.perf_counter()
                arrays = encode(parts)
                passes.append(size / (time.perf_counter() - start))
                checksums = [zlib.crc32(ids.astype(np.uint32).tobytes()) for ids in arrays]
                expected = expected or checksums
                if checksums != expected:
                    print(f'{name}: {contestant} gives other ids than {OURS}', file=sys.stderr)
            rates[contestant].append(passes)
            print(f'{name}, {contestant}: {passes[0] / 1e6:.2f} {passes[1] / 1e6:.2f} MB/s', file=sys.stderr)
    lines = [f'{name}, {size / 1e6:.0f} MB, {args.rounds} rounds', '',
             '| | this toolkit is faster, cold | warm | MB/s, cold | warm |', '|---' * 5 + '|']
    for contestant, rows in rates.items():
        columns = [f'{statistics.median(ours[i] / row[i] for ours, row in zip(rates[OURS], rows)):.2f}' for i in (0, 1)]
        columns += [f'{statistics.median(row[i] for row in rows) / 1e6:.2f}' for i in (0, 1)]
        lines.append(f'| {contestant} | {" | ".join(columns)} |')
    return '\n'.join([*lines, ''])


# From file to file

def tiktoken_file(directory: str, source: str, target: str) -> None:
    """What encode.py does, with tiktoken on two threads: reads UTF-8, writes an .npz of uint16."""
    with open(source, encoding='utf-8') as file:
        text = file.read()
    np.savez(target, np.concatenate([ids.astype(np.uint16) for ids in tiktoken(directory, threads=2)(cut_up(text))]))


def run(command: list[str], watch: bool = False) -> tuple[float, int, int]:
    """Seconds, and, if watched, the peak of resident bytes of one process and of all together (shared pages counted once)."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    one = all_together = 0
    while watch and process.poll() is None:
        of_each = [memory(pid) for pid in family(process.pid)]
        one = max([one, *(resident for resident, _ in of_each)])
        all_together = max(all_together, sum(share for _, share in of_each))
        time.sleep(0.05)
    if process.wait():
        sys.exit(f'{" ".join(command)} failed')
    return time.perf_counter() - start, one, all_together


def family(pid: int) -> Iterator[int]:
    """The process and all its descendants."""
    yield pid
    try:
        with open(f'/proc/{pid}/task/{pid}/children') as file:
            children = list(map(int, file.read().split()))
    except OSError:             # it has ended
        return
    for child in children:
        yield from family(child)


def memory(pid: int) -> tuple[int, int]:
    """Resident bytes, and the same with shared pages divided among the processes that share them; 0, 0 after its end."""
    try:
        with open(f'/proc/{pid}/smaps_rollup') as file:
            kilobytes = dict(re.findall(r'^(Rss|Pss):\s+(\d+) kB', file.read(), re.MULTILINE))
    except OSError:
        return 0, 0
    return int(kilobytes.get('Rss', 0)) * 1024, int(kilobytes.get('Pss', 0)) * 1024


def write_file(path: str, size: int, args: argparse.Namespace) -> None:
    """English and code, again and again up to `size` bytes."""
    texts = [make_text(name, args).encode() for name in ('English', 'code')]
    with open(path, 'wb') as file:
        while file.tell() < size:
            file.write(texts[0] + b'\n')
            file.write(texts[1] + b'\n')


def our_command(directory: str, source: str, target: str, models: str) -> list[str]:
    """The command of encode.py with that vocabulary, in a model directory without weights."""
    model = os.path.join(models, 'bench')
    if not os.path.exists(model):
        os.mkdir(model)
        for name in ('encoder.json', 'vocab.bpe'):
            os.symlink(os.path.abspath(os.path.join(directory, name)), os.path.join(model, name))
        with open(os.path.join(model, 'hparams.json'), 'w') as file:
            json.dump({'n_vocab': 50257, 'n_ctx': 1024, 'n_embd': 768, 'n_head': 12, 'n_layer': 12}, file)
    return [os.path.join(HERE, '..', 'encode.py'), source, target, '--model_name', 'bench', '--models_dir', models]


def ids_of(path: str) -> np.ndarray:
    with np.load(path) as file:
        return np.concatenate([file[name] for name in file.files])


def end_to_end(args: argparse.Namespace) -> str:
    with tempfile.TemporaryDirectory() as directory:
        source, mine, theirs = (os.path.join(directory, name) for name in ('text.txt', 'ours.npz', 'theirs.npz'))
        write_file(source, FILE_SIZE, args)
        commands = [our_command(args.vocabulary, source, mine, directory),
                    [os.path.abspath(__file__), args.vocabulary, source, '--tiktoken_file', theirs]]
        seconds = []
        for _ in range(args.rounds):
            seconds.append([run(command)[0] for command in commands])
            print('end to end: {:.1f} {:.1f} s'.format(*seconds[-1]), file=sys.stderr)
        if not np.array_equal(ids_of(mine)[:10 ** 7], ids_of(theirs)[:10 ** 7]):
            print('end to end: not the same ids', file=sys.stderr)
        size = os.path.getsize(source) / 1e6
    ratio = statistics.median(b / a for a, b in seconds)
    ours_median, theirs_median = (statistics.median(column) for column in zip(*seconds))
    return '\n'.join([
        f'From file to file, {size:.0f} MB, {args.rounds} rounds', '',
        '| | this toolkit is faster | s | MB/s |', '|---' * 4 + '|',
        f'| encode.py | 1.00 | {ours_median:.1f} | {size / ours_median:.1f} |',
        f'| tiktoken, two threads | {ratio:.2f} | {theirs_median:.1f} | {size / theirs_median:.1f} |', ''])


def most_memory(args: argparse.Namespace) -> str:
    with tempfile.TemporaryDirectory() as directory:
        source = os.path.join(directory, 'text.txt')
        write_file(source, MEMORY_SIZE, args)
        command = our_command(args.vocabulary, source, os.path.join(directory, 'ours.npz'), directory)
        seconds, one, all_together = run(command, watch=True)
        size = os.path.getsize(source) / 1e6
    return (f'Resident memory of encode.py on {size:.0f} MB ({seconds:.0f} s): {one / 1e6:.0f} MB in the largest process, '
            f'{all_together / 1e6:.0f} MB in all\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('vocabulary', metavar='VOCABULARY_DIR')
    parser.add_argument('text', metavar='TEXT')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--only', nargs='*', choices=[*TEXTS, 'end_to_end'], default=[*TEXTS, 'end_to_end'],
                        metavar='PART')
    parser.add_argument('--memory', action='store_true', help='measure it too; takes 3 GB of disk')
    parser.add_argument('--texts', metavar='DIR', help='keep the texts there, and take those that are there')
    parser.add_argument('--tiktoken_file', metavar='OUT', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.tiktoken_file:
        return tiktoken_file(args.vocabulary, args.text, args.tiktoken_file)
    versions = [f'{name} {importlib.metadata.version(name)}' for name in ('regex', 'numpy', 'tiktoken', 'tokenizers')]
    print(f'{processor()}, {os.cpu_count()} cores, {time.strftime("%Y-%m-%d")}; Python {platform.python_version()}, '
          f'{", ".join(versions)}\n')
    for name in args.only:
        for table in [end_to_end(args)] if name == 'end_to_end' else (measure(name, *race, args) for race in RACES):
            print(table, flush=True)
    if args.memory:
        print(most_memory(args))


def processor() -> str:
    with open('/proc/cpuinfo') as file:
        names = re.findall(r'^model name\s*: (.*)$', file.read(), re.MULTILINE)
    return ', '.join([platform.machine(), *names[:1]])


if __name__ == '__main__':
    main()
