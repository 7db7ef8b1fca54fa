"""The two sampling scripts as a user runs them."""

import contextlib
import errno
import importlib
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import types

import pytest

from checkpoint_files import read_checkpoint
from command.errors import UserError
from conftest import ROOT, SMALL_RUN, one_line_error
from sampling import printing

INTERACTIVE = 'src/interactive_conditional_samples.py'
UNCONDITIONAL = 'src/generate_unconditional_samples.py'
HEADER = re.compile(r'^======== SAMPLE (\d+) ========$', re.MULTILINE)


@pytest.fixture
def ask(tf, home, built_once, monkeypatch, capsys):
    """Runs a sampling script in this process with lines of input: ask(module, lines, flags) -> (stdout, stderr)."""
    def run(script, lines, *flags):
        module = importlib.import_module(os.path.basename(script).removesuffix('.py'))
        monkeypatch.chdir(home)
        monkeypatch.setattr(sys, 'argv', [script, '--model_name', 'toy', *map(str, flags)])
        monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(lines.encode())))
        capsys.readouterr()
        module.main()
        return capsys.readouterr()
    return run


def test_each_prompt_is_continued_and_an_empty_one_asked_again(ask):
    screen = ask(INTERACTIVE, 'the quick\n\n   \nthe dog', '--nsamples', 3, '--batch_size', 2, '--length', 5)
    assert HEADER.findall(screen.out) == ['1', '2', '3'] * 2
    assert screen.out.count('=' * 80) == 2
    assert screen.err.count('The prompt is empty: give the beginning of the text') == 2


def test_a_seed_gives_the_same_text_for_every_batch_size(ask):
    flags = ('--seed', 7, '--nsamples', 4, '--length', 12, '--top_k', 40)
    texts = [ask(INTERACTIVE, 'the fox\n', *flags, '--batch_size', n).out for n in (1, 4, 3)]
    assert texts[0] == texts[1] == texts[2]
    assert len(set(re.split(HEADER, texts[0])[2::2])) > 1
    assert ask(INTERACTIVE, 'the fox\n', '--seed', 8, *flags[2:]).out != texts[0]
    unseeded = [ask(INTERACTIVE, 'the fox\n', *flags[2:]).out for _ in range(2)]
    assert unseeded[0] != unseeded[1]


def test_greedy_text_is_the_oracle_s(ask, model_directory, tf):
    import numpy as np

    import reference
    from encoder import load_encoder
    from network.hparams import load_hparams
    hparams, encoder = load_hparams(str(model_directory)), load_encoder(str(model_directory))
    params = read_checkpoint(model_directory, 'model/')
    tokens = encoder.encode('the lazy')
    for _ in range(20):
        tokens.append(int(reference.gpt2(np.array([tokens]), params, hparams)[0, -1].argmax()))
    expected = encoder.decode(tokens[-20:])
    for setting in (['--top_k', 1], ['--temperature', 0]):
        assert expected in ask(INTERACTIVE, 'the lazy\n', '--length', 20, *setting).out


def test_a_sample_may_be_longer_than_the_window_and_a_prompt_may_not(ask):
    screen = ask(INTERACTIVE, f'{"the dog" * 5}\n{"z" * 40}\nthe\n', '--length', 100, '--jsonl', '--nostop_at_eot')
    assert [len(sample['ids']) for sample in samples_in(screen.out)] == [100, 100]
    assert screen.err == "The prompt has 40 tokens, the model's window holds 32: give a shorter one\n"


def samples_in(output):
    return [json.loads(line) for line in output.splitlines()]


def test_prompts_from_a_file_as_json_lines(ask, home):
    (home / 'prompts.txt').write_text('the fox\nthe lazy dog jumps\n')
    flags = ('--prompt_file', 'prompts.txt', '--jsonl', '--nsamples', 3, '--length', 20, '--top_k', 40)
    screen = ask(INTERACTIVE, '', *flags, '--batch_size', 4, '--seed', 5)
    samples = samples_in(screen.out)
    assert [(sample['prompt'], sample['sample'], sample['seed']) for sample in samples] == [
        (prompt, i, 5) for prompt in ('the fox', 'the lazy dog jumps') for i in (1, 2, 3)]
    for sample in samples:
        assert sample['stop_reason'] in ('length', 'eot') and sample['log_probability'] < 0 and sample['ids']
    alone = samples_in(ask(INTERACTIVE, '', *flags, '--seed', 5).out)
    assert [sample | {'log_probability': 0} for sample in alone] == [sample | {'log_probability': 0} for sample in samples]
    assert [sample['log_probability'] for sample in alone] == pytest.approx(
        [sample['log_probability'] for sample in samples], abs=1e-3)
    # Without --seed, the printed seed makes the same samples again.
    unseeded = ask(INTERACTIVE, '', *flags).out
    assert unseeded == ask(INTERACTIVE, '', *flags, '--seed', samples_in(unseeded)[0]['seed']).out != screen.out


def test_python_writes_the_same_samples(ask, home):
    from generator import Generator
    (home / 'prompts.txt').write_text('the fox\ndog\n')
    flags = ('--prompt_file', 'prompts.txt', '--nsamples', 3, '--seed', 5, '--top_k', 40)
    samples = samples_in(ask(INTERACTIVE, '', *flags, '--jsonl').out)
    texts = Generator(str(home / 'models/toy')).generate(['the fox', 'dog'], n=3, seed=5, top_k=40)
    assert texts == [sample['text'] for sample in samples] and len(texts) == 6


def test_standard_input_can_be_a_prompt_file(ask):
    screen = ask(INTERACTIVE, 'the fox\r\ndog\r\n', '--prompt_file', '-', '--length', 5, '--include_prompt', '--jsonl')
    samples = samples_in(screen.out)
    assert [sample['prompt'] for sample in samples] == ['the fox', 'dog']
    assert all(sample['text'].startswith(sample['prompt']) for sample in samples)


def test_one_prompt_with_stops(ask):
    flags = ('--prompt', 'the quick', '--length', 60, '--seed', 2, '--jsonl')
    [complete] = samples_in(ask(INTERACTIVE, '', *flags).out)
    assert not complete['text'].startswith('the quick')
    stops = [complete['text'][30:33], complete['text'][20:22]]
    at = min(map(complete['text'].find, stops))
    stop_flags = [part for stop in stops for part in ('--stop', stop)]
    [stopped] = samples_in(ask(INTERACTIVE, '', *flags, *stop_flags, '--truncate').out)
    assert (stopped['text'], stopped['stop_reason']) == (complete['text'][:at], 'stop')
    [kept] = samples_in(ask(INTERACTIVE, '', *flags, *stop_flags, '--include_prompt').out)
    assert kept['text'].startswith('the quick' + complete['text'][:at])
    assert kept['text'].endswith(tuple(stops))


def test_a_sample_is_shown_token_by_token(ask, monkeypatch):
    shown = []
    monkeypatch.setattr(printing, 'print', lambda *parts, end='\n', flush=False: shown.append(''.join(parts) + end),
                        raising=False)
    ask(INTERACTIVE, '', '--prompt', 'the', '--length', 20, '--seed', 2, '--nostop_at_eot')
    assert shown[0].startswith('======== SAMPLE 1 ========\n')
    assert len(shown) == 21


def test_unconditional_samples(ask):
    screen = ask(UNCONDITIONAL, '', '--nsamples', 3, '--batch_size', 2, '--seed', 1, '--top_p', 0.9)
    assert HEADER.findall(screen.out) == ['1', '2', '3']
    assert '=' * 80 not in screen.out       # a line between prompts
    assert screen.out == ask(UNCONDITIONAL, '', '--nsamples', 3, '--seed', 1, '--top_p', 0.9).out


def test_python_writes_the_same_unconditional_samples(ask, home):
    from generator import Generator
    samples = samples_in(ask(UNCONDITIONAL, '', '--nsamples', 2, '--seed', 5, '--length', 20, '--jsonl').out)
    assert [sample['text'] for sample in samples] == Generator(str(home / 'models/toy')).generate(
        '', n=2, seed=5, length=20, stop_at_eot=False)


def test_sampling_from_a_run(ask, train, home):
    train('--max_steps', 1, *SMALL_RUN, '--run_name', '2019')
    screen = ask(UNCONDITIONAL, '', '--nsamples', 1, '--length', 5, '--run_name', '2019')
    assert HEADER.findall(screen.out) == ['1']


def test_a_pipe_and_ctrl_c_in_a_real_process(home):
    """Ctrl-C while a sample is made returns to the prompt; the end of input leaves with status 0."""
    command = [sys.executable, os.path.join(ROOT, INTERACTIVE), '--model_name', 'toy', '--nsamples', '0', '--length', '5']
    with subprocess.Popen(command, cwd=home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as process:
        process.stdin.write('the fox\n')
        process.stdin.flush()
        for line in process.stdout:
            if 'SAMPLE 3 ' in line:     # --nsamples 0: until it is stopped
                break
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert errors == '\nstopped\n'
    assert 'Model prompt' not in output


TYPED = """
import interactive_conditional_samples as script
class Flags:
    def read_prompt(self, where, line):
        return line
for line in script.typed_prompts(Flags()):
    print(repr(line))
"""


@pytest.fixture
def at_terminal():
    """Runs typed_prompts at a terminal and types these lines, each after its question, and Ctrl-D.

    printed: whether standard output is the terminal too; else it is a pipe. Returns what the terminal shows, and the other one
    of standard output and standard error.
    """
    def run(*lines, printed=True):
        ours, theirs = pty.openpty()
        stdout, stderr = (theirs, subprocess.PIPE) if printed else (subprocess.PIPE, theirs)
        with subprocess.Popen([sys.executable, '-c', TYPED], stdin=theirs, stdout=stdout, stderr=stderr,
                              env=os.environ | {'PYTHONPATH': os.path.join(ROOT, 'src'), 'TERM': 'xterm'}) as process:
            os.close(theirs)
            screen = b''
            for number, line in enumerate([*lines, '\x04'], start=1):
                while screen.count(b'>>> ') < number:
                    screen += os.read(ours, 1000)
                os.write(ours, line.encode())
            with contextlib.suppress(OSError):      # which is how a terminal ends
                while more := os.read(ours, 1000):
                    screen += more
            other = process.communicate(timeout=60)[0 if not printed else 1]
        os.close(ours)
        assert process.returncode == 0
        return screen.decode(), other.decode()
    return run


def test_a_line_can_be_edited_and_brought_back(at_terminal):
    pytest.importorskip('readline')
    left, up = '\x1b[D', '\x1b[A'
    screen, errors = at_terminal(f'the café{left * 8}of \n', f'{up}\n')
    assert screen.count("'of the café'") == 2
    assert errors == '\n'       # after Ctrl-D: the shell's prompt begins a new line


def test_the_question_is_not_written_into_a_pipe(at_terminal):
    screen, printed = at_terminal('the king\n', printed=False)
    assert printed == "'the king'\n"
    assert screen.startswith('Model prompt >>> ') and screen.count('>>>') == 2 and screen.endswith('\r\n')


@pytest.mark.parametrize(('width', 'expected'), [(200, 80), (60, 60), (None, 80)])
def test_the_line_below_samples_fits_the_terminal(monkeypatch, width, expected):
    """None: there is no terminal."""
    monkeypatch.setattr(printing.shutil, 'get_terminal_size', lambda: os.terminal_size((width or 60, 24)))
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: width is not None, raising=False)
    text, flags = types.SimpleNamespace(seed=[0, 0, 1]), types.SimpleNamespace(nsamples=2)
    assert printing.footer(text, flags, line=True) == '\n' + '=' * expected
    for other in ({'nsamples': 3}, {'nsamples': 1}, {'nsamples': 0}):
        assert printing.footer(text, types.SimpleNamespace(**other), line=True) == ''
    assert printing.footer(text, flags, line=False) == ''


def test_the_bar_knows_how_many_samples_there_will_be(monkeypatch):
    totals = []
    monkeypatch.setattr(printing, 'tqdm', lambda texts, *, total, **_: totals.append(total) or contextlib.nullcontext([]))
    generator = types.SimpleNamespace(finish=lambda texts, batch_size: texts)
    for nsamples in (3, 0):     # 0: without end
        printing.write_samples(generator, types.SimpleNamespace(nsamples=nsamples, batch_size=2, jsonl=False), ['the', 'a'])
    assert totals == [6, None]


@pytest.fixture
def parse(home, monkeypatch):
    """Parses the flags of a script in this process: parse(script, flags) -> flags. Raises UserError for bad ones."""
    from generate_unconditional_samples import UnconditionalFlags
    from sampling.flags import PromptFlags
    from sampling.flags import parse as parse_flags

    def run(script_name, *arguments):
        monkeypatch.chdir(home)
        monkeypatch.setattr(sys, 'argv', [script_name, '--model_name', 'toy', *arguments])
        return parse_flags(PromptFlags if script_name == INTERACTIVE else UnconditionalFlags, 'A summary.')
    return run


BAD_FLAGS = [
    (['--model_name', 'missing'], "no model 'missing' in models; models here: "),
    (['--run_name', 'missing'], "no run 'missing' in checkpoint; runs here: empty"),
    (['--run_name', 'empty'], 'holds no checkpoints'),
    (['--length', '0'], '--length must be a whole number, 1 or more, not 0'),
    (['--length', 'long'], "--length must be a whole number, 1 or more, not 'long'"),
    (['--temperature', '-1'], '--temperature must be a number, 0 or more, not -1'),
    (['--top_p', '1.5'], '--top_p must be a number, 0 to 1, not 1.5'),
    (['--top_k', '1.5'], '--top_k must be a whole number, 0 or more, not 1.5'),
    (['--batch_size', '0'], '--batch_size must be a whole number, 1 or more, not 0'),
    (['--nsamples', '-1'], '--nsamples must be a whole number, 0 or more, not -1'),
    (['--seed', 'x'], "--seed must be a whole number, 0 or more, not 'x'"),
    (['--repetition_penalty', '0'], '--repetition_penalty must be more than 0'),
    (['--stop'], '--stop needs a value'),
    (['--nostop'], '--stop needs a value'),
    (['--norun_name'], '--run_name needs a value'),
    (['--model_name'], '--model_name needs a value'),
    (['--stop', ''], '--stop must be a string, and not an empty one'),
    (['--stop', 'a', '--stop='], '--stop must be a string, and not an empty one'),
    (['--top_k', '2147483648'], '--top_k must be at most 2147483647'),
    (['--length', '9' * 30], '--length must be at most 2147483647'),
    (['--nsamples', '2147483648'], '--nsamples must be at most 2147483647'),
    (['--batch_size', '2147483648'], '--batch_size must be at most 2147483647'),
    (['--temperature', '1e-40'], '--temperature must not be so close to 0, or so large: 1e-12 to 1e+12'),
    (['--no_repeat_ngram', '-1'], '--no_repeat_ngram must be a whole number, 0 or more, not -1'),
    (['--no_repeat_ngram'], '--no_repeat_ngram must be a whole number, 0 or more, not True'),
    (['--banned_words', ''], '--banned_words must be a string, and not an empty one'),
    (['--banned_words'], '--banned_words needs a value'),
    (['--stop', 'caf\udce9'], '--stop is not UTF-8'),
    (['--stop', 'a\\b', '--escapes'], r'--stop: \b is none of the escapes'),
    (['--escapes', '5'], '--escapes takes no value, not 5'),
    (['--truncate', '5'], '--truncate must be True or False, not 5'),
    (['--jsonl', '5'], '--jsonl takes no value, not 5'),
    (['--lenght', '5'], 'unknown flag --lenght: did you mean --length?'),
    (['--model_name', 'missing', '--temprature=1'], 'unknown flag --temprature: did you mean --temperature?'),
    (['--model_name', 'tay'], "no model 'tay' in models: did you mean toy? models here: "),
    (['--run_name', 'emty'], "no run 'emty' in checkpoint: did you mean empty? runs here: empty"),
]


@pytest.mark.parametrize('script_name', [INTERACTIVE, UNCONDITIONAL])
@pytest.mark.parametrize(('flags', 'words'), BAD_FLAGS, ids=lambda value: ' '.join(value) if isinstance(value, list) else '')
def test_bad_flags_are_named(parse, home, capsys, script_name, flags, words):
    (home / 'checkpoint' / 'empty').mkdir(parents=True)
    for name in ('hparams.json', 'encoder.json', 'vocab.bpe'):
        (home / 'checkpoint' / 'empty' / name).write_bytes((home / 'models' / 'toy' / name).read_bytes())
    with pytest.raises(UserError) as error:
        parse(script_name, *flags)
    assert words in str(error.value)
    assert capsys.readouterr() == ('', '')


@pytest.mark.parametrize(('flags', 'words'), [
    (['--prompt'], '--prompt needs a value'),
    (['--prompt', ''], '--prompt is empty: give the beginning of the text'),
    (['--prompt', 'z' * 40], "--prompt has 40 tokens, the model's window holds 32"),
    (['--prompt', 'a', '--prompt_file', 'gap.txt'], 'give --prompt or --prompt_file, not both'),
    (['--prompt_file', 'missing.txt'], 'cannot read missing.txt: No such file or directory'),
    (['--prompt_file', '.'], 'cannot read .: Is a directory'),
    (['--prompt_file', 'gap.txt', '--prompt_separator', 'the'], 'gap.txt prompt 1 is empty'),
    (['--prompt', 'a', '--prompt_separator', '--'], '--prompt_separator works only with --prompt_file'),
    (['--prompt_file', 'long.txt', '--prompt_separator', ''], '--prompt_separator works only with --prompt_file, and must not'),
    (['--prompt', ' \t '], '--prompt is empty: give the beginning of the text'),
    (['--prompt', 'caf\udce9'], '--prompt is not UTF-8'),
    (['--prompt', 'a\\n\\q', '--escapes'], r'--prompt: \q is none of the escapes \n \t \r \\; write \\ for a backslash'),
    (['--prompt', 'a\\', '--escapes'], '--prompt: \\ is none of the escapes'),
    (['--prompt_file', 'empty.txt'], 'empty.txt is empty'),
    (['--prompt_file', 'gap.txt'], 'gap.txt line 2 is empty'),
    (['--prompt_file', 'latin.txt'], 'latin.txt line 2 is not UTF-8'),
    (['--prompt_file', 'long.txt'], 'long.txt line 2 has 40 tokens'),
], ids=lambda value: ' '.join(value) if isinstance(value, list) else '')
def test_bad_prompts_are_named(parse, home, flags, words):
    (home / 'empty.txt').write_text('')
    (home / 'gap.txt').write_text('the\n\nfox\n')
    (home / 'latin.txt').write_bytes('the\ncaf\xe9\n'.encode('latin-1'))
    (home / 'long.txt').write_text('the\n' + 'z' * 40)
    with pytest.raises(UserError) as error:
        parse(INTERACTIVE, *flags)
    assert words in str(error.value)


def test_paths_begin_in_the_home_directory(parse, home, monkeypatch):
    monkeypatch.setenv('HOME', str(home))
    (home / 'p.txt').write_text('the fox\n')
    flags = parse(INTERACTIVE, '--models_dir', '~/models', '--prompt_file', '~/p.txt')
    assert flags.prompts == ['the fox'] and flags.model.directory == str(home / 'models/toy')


@pytest.mark.parametrize('script_name', [INTERACTIVE, UNCONDITIONAL])
def test_a_bad_flag_is_one_line_before_tensorflow(without_tensorflow, script_name):
    result = without_tensorflow(script_name, '--model_name', 'toy', '--lenght', '5')
    assert one_line_error(result) == f'{os.path.basename(script_name)}: unknown flag --lenght: did you mean --length?'
    assert result.stdout == ''


@pytest.mark.parametrize('text', ['3.5', '[1, 2]', 'a,b', 'True', "it's", 'a=b', '-', '--', '--length', '-x', '{a: b}', '# a',
                                  '\\n'])
def test_texts_stay_as_they_are_given(parse, text):
    flags = parse(INTERACTIVE, '--prompt', text, '--stop', text, f'--stop={text}!', '--stop', 'c')
    assert (flags.prompt, flags.settings.stop) == (text, (text, f'{text}!', 'c'))
    assert parse(INTERACTIVE, f'--prompt={text}').prompts == [text]


def test_escapes_are_read_on_request(parse, home):
    (home / 'prompts.txt').write_text('one\\n\ntwo\n')
    flags = ('--stop', r'a\nb', '--banned_words', r'\t', '--prompt', r'c:\\n\n')
    given = parse(INTERACTIVE, *flags)
    assert (given.prompts, given.settings.stop, given.settings.banned_words) == ([r'c:\\n\n'], (r'a\nb',), (r'\t',))
    given = parse(INTERACTIVE, *flags, '--escapes')
    assert (given.prompts, given.settings.stop, given.settings.banned_words) == (['c:\\n\n'], ('a\nb',), ('\t',))
    assert given.read_prompt('The prompt', r'a\tb') == 'a\tb'
    flags = ('--prompt_file', 'prompts.txt', '--prompt_separator', r'\n')
    assert parse(INTERACTIVE, *flags, '--escapes').prompts == ['one\\n', 'two']      # nothing changes in the file


def test_a_prompt_may_be_a_line_break(parse, home):
    assert parse(INTERACTIVE, '--prompt', '\n').prompts == ['\n']
    assert parse(INTERACTIVE, '--prompt', r'\n', '--escapes').prompts == ['\n']


def test_bytes_of_utf_8_are_utf_8_whatever_the_locale(parse):
    """In the C locale Python makes surrogates of them."""
    text = 'é’'.encode().decode('ascii', 'surrogateescape')
    flags = parse(INTERACTIVE, '--prompt', text, '--stop', text)
    assert (flags.prompts, flags.settings.stop) == (['é’'], ('é’',))


def test_a_space_at_the_end_of_a_prompt_is_noted_once(ask):
    screen = ask(INTERACTIVE, 'the\nfox \n\ufeffdog  \n', '--length', 2, '--jsonl')
    assert [sample['prompt'] for sample in samples_in(screen.out)] == ['the', 'fox ', 'dog  ']
    [line] = screen.err.splitlines()
    assert line.startswith('note: The prompt ends in a space: ')
    assert ask(INTERACTIVE, '', '--prompt', 'the ', '--length', 2).err.startswith('note: --prompt ends in a space: ')


ROW = 2 * 2 * 24 * 32 * 4       # bytes: keys and values, n_layer, n_embd, n_ctx


@pytest.mark.parametrize('arguments', [['--batch_size', '9'], ['--batch_size', '9999', '--nsamples', '9']], ids=' '.join)
@pytest.mark.parametrize(('gpus', 'available', 'fits'), [(['0'], 1, True), ([], None, True), ([], 9 * ROW, True),
                                                         ([], 9 * ROW - 1, False)])
def test_a_batch_that_cannot_fit_is_refused(tf, parse, monkeypatch, arguments, gpus, available, fits):
    from sampling import flags
    monkeypatch.setattr(flags, 'visible_gpus', lambda: gpus)
    monkeypatch.setattr(flags, 'available_memory', lambda: available)
    message = '^--batch_size 9 needs at least 0.0 GB, 0.0 GB are available: give a smaller one$'
    with contextlib.nullcontext() if fits else pytest.raises(UserError, match=message):
        parse(UNCONDITIONAL, *arguments)
    assert flags.SHORT_TEXT == importlib.import_module('generator').CAPACITY_STEP


def test_short_flags_of_2019(parse):
    flags = parse(UNCONDITIONAL, '-n', '3', '-b=2', '-s', '7', '-l', '5')
    assert (flags.nsamples, flags.batch_size, flags.seed, flags.length) == (3, 2, 7, 5)


def test_json_is_valid_in_every_encoding(monkeypatch):
    text = types.SimpleNamespace(prompt='é😀’', text='', ids=[], seed=[1, 0, 0], stop_reason='eot',
                                 log_probability=-1.23456)
    lines = {}
    for encoding in ('utf-8', 'latin-1'):
        monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(io.BytesIO(), encoding=encoding))
        lines[encoding] = printing.as_json(text)
        sample = json.loads(lines[encoding])
        assert sample['prompt'] == 'é😀’' and sample['log_probability'] == -1.2346
    assert 'é😀’' in lines['utf-8'] and lines['latin-1'].isascii()


class Lost(io.RawIOBase):
    """A terminal that is gone."""

    def readable(self):
        return True

    def readinto(self, _):
        raise OSError(errno.EIO, 'Input/output error')


@pytest.mark.parametrize('typed', [True, False])
@pytest.mark.parametrize(('stdin', 'words'), [(lambda: None, 'standard input is closed: give --prompt or --prompt_file FILE'),
                                              (lambda: io.TextIOWrapper(io.BufferedReader(Lost())),
                                               'cannot read standard input: Input/output error')], ids=['closed', 'lost'])
def test_standard_input_that_cannot_be_read(parse, monkeypatch, stdin, words, typed):
    from interactive_conditional_samples import typed_prompts
    flags = parse(INTERACTIVE)
    monkeypatch.setattr(sys, 'stdin', stdin())
    with pytest.raises(UserError, match=words):
        next(typed_prompts(flags)) if typed else parse(INTERACTIVE, '--prompt_file', '-')


def test_the_model_can_be_given_without_its_flag(parse, home):
    (home / 'models' / '2019').symlink_to(home / 'models' / 'toy')
    assert parse(UNCONDITIONAL, '--model-name', '2019').model_name == '2019'
    for arguments in (['2019'], ['2019', '7']):
        sys.argv[1:] = arguments
        from sampling.flags import Flags
        from sampling.flags import parse as parse_flags
        flags = parse_flags(Flags, 'A summary.')
        assert (flags.model.directory, flags.seed == 7) == (os.path.join('models', '2019'), len(arguments) == 2)


def test_defaults(parse):
    flags = parse(INTERACTIVE)
    assert (flags.nsamples, flags.batch_size, flags.prompts, flags.jsonl) == (1, 1, None, False)
    assert (flags.settings.length, flags.settings.stop_at_eot) == (None, True)
    assert flags.seed != parse(INTERACTIVE).seed
    flags = parse(UNCONDITIONAL)
    assert (flags.nsamples, flags.settings.length, flags.settings.stop_at_eot) == (0, 32, False)
    assert parse(UNCONDITIONAL, '--length', '5', '--stop_at_eot').settings.length == 5


@pytest.mark.parametrize('script_name', [INTERACTIVE, UNCONDITIONAL])
def test_help_names_every_flag(parse, capsys, script_name):
    with pytest.raises(SystemExit) as stop:
        parse(script_name, '--help')
    assert not stop.value.code
    flags = ['model_name', 'run_name', 'models_dir', 'seed', 'nsamples', 'batch_size', 'length', 'temperature', 'top_k', 'top_p',
             'weights', 'repetition_penalty', 'no_repeat_ngram', 'banned_words', 'stop', 'stop_at_eot', 'truncate', 'escapes',
             'jsonl']
    if script_name == INTERACTIVE:
        flags += ['prompt', 'prompt_file', 'prompt_separator', 'include_prompt']
    screen = capsys.readouterr()
    for flag in flags:
        assert f'--{flag}=' in screen.out
    assert 'A summary.' in screen.out and 'a text that ends a sample' in screen.out
    assert screen.err == '' and not re.search('GROUP|Optional|Type:|None', screen.out)
