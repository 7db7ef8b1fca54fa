"""evaluate.py: its loss against the oracle's, its figures against a hand-computed example, its mistakes."""

import io
import json
import math
import shutil
import sys

import numpy as np
import pytest

import reference
from checkpoint_files import read_checkpoint, write_checkpoint
from command.errors import UserError
from conftest import one_line_error
from encoder import load_encoder
from network.hparams import load_hparams
from vocabulary.spelling import END_OF_TEXT


@pytest.fixture
def evaluate(tf, home, monkeypatch, capsys):
    """Runs evaluate.py in this process: evaluate(*flags) -> what it prints; evaluate.err: on standard error."""
    def run(*flags):
        import evaluate
        monkeypatch.chdir(home)
        which = [] if {'--model_name', '--run_name'} & set(flags) else ['--model_name', 'toy']
        monkeypatch.setattr(sys, 'argv', ['evaluate.py', *which, *map(str, flags)])
        capsys.readouterr()
        evaluate.main()
        out, run.err = capsys.readouterr()
        return out
    return run


@pytest.fixture
def each(evaluate, built_once):
    """Runs evaluate.py --each: each('line', *flags) -> the objects that it prints, and the figures of all."""
    def run(what, *flags):
        lines = evaluate('--each', what, '--json', *flags).split('\n')
        assert lines.pop() == ''
        [total] = evaluate.err.splitlines()
        return [json.loads(line) for line in lines], json.loads(total)
    return run


@pytest.fixture(scope='module')
def params(tf, model_directory):
    return read_checkpoint(model_directory, 'model/')


def oracle(chunk, params, hparams, length, stride):
    """Sum of the losses of chunk[1:], each token by itself from the context that the definition gives it."""
    total = 0.0
    for i in range(1, len(chunk)):
        # The window's end: that of the first, or a multiple of the stride further, but not beyond the chunk.
        end = min(length + -(-max(i - length, 0) // stride) * stride, len(chunk) - 1)
        context = chunk[max(end - length, 0):i]
        total -= reference.log_softmax(reference.gpt2(np.array([context]), params, hparams)[0, -1])[chunk[i]]
    return total


@pytest.mark.parametrize(('length', 'stride'), [(8, 8), (8, 1), (8, 3), (32, 16), (1, 1)])
def test_the_loss_is_the_oracle_s(evaluate, home, params, model_directory, length, stride):
    hparams = load_hparams(str(model_directory))
    rng = np.random.default_rng(length)
    chunks = [rng.integers(hparams.n_vocab, size=size) for size in (30, 1, 5, 9, 8, 17)]
    np.savez(home / 'tokens.npz', *chunks)
    result = json.loads(evaluate('--dataset', 'tokens.npz', '--seq_length', length, '--stride', stride, '--batch_size', 3,
                                 '--json'))
    expected = sum(oracle(chunk, params, hparams, length, stride) for chunk in chunks)
    assert result['tokens'] == 29 + 4 + 8 + 7 + 16
    assert result['loss'] * result['tokens'] == pytest.approx(expected, rel=1e-5)


def test_the_batch_size_makes_no_difference_and_half_the_window_is_the_stride(evaluate):
    results = [json.loads(evaluate('--dataset', 'corpus.txt', '--json', '--batch_size', n)) for n in (1, 7, 800)]
    again = json.loads(evaluate('--dataset', 'corpus.txt', '--json', '--batch_size', 7, '--stride', 16))
    assert [result['loss'] for result in results] == pytest.approx([results[0]['loss']] * 3, rel=1e-6)
    assert again | {'seconds': 0} == results[1] | {'seconds': 0}
    assert (again['seq_length'], again['stride'], again['chunks']) == (32, 16, 1)


def test_rounded_weights_are_those_of_sampling(evaluate, each, home):
    (home / 'lines.txt').write_text('the dog jumps\nover the lazy fox\n')
    exact, rounded = (json.loads(evaluate('--dataset', 'corpus.txt', '--json', '--weights', weights))
                      for weights in ('float32', 'int8'))
    assert 1e-6 < abs(rounded['loss'] / exact['loss'] - 1) < 0.01
    assert rounded['tokens'] == exact['tokens']
    lines, _ = each('line', '--dataset', 'lines.txt', '--weights', 'int8')
    others, _ = each('line', '--dataset', 'lines.txt')
    assert all(0 < abs(line['loss'] / other['loss'] - 1) < 0.05 for line, other in zip(lines, others, strict=True))


def unigram_params(hparams, probabilities):
    """Weights of a model that predicts these probabilities at every position."""
    params = {name: np.zeros_like(array) for name, array in reference.random_params(hparams, seed=0).items()}
    params['wte'][:, 0] = np.log(probabilities)
    params['ln_f/b'][0] = 1
    return params


def test_a_hand_computed_example(evaluate, home, model_directory):
    hparams, encoder = load_hparams(str(model_directory)), load_encoder(str(model_directory))
    # One token in two is a space, one in four an x; the others share the last quarter.
    [x], [space] = encoder.encode('x'), encoder.encode(' ')
    probabilities = np.full(hparams.n_vocab, 0.25 / (hparams.n_vocab - 2))
    probabilities[[space, x]] = 0.5, 0.25
    shutil.copytree(model_directory, home / 'models/unigram')
    write_checkpoint(home / 'models/unigram/model.ckpt', unigram_params(hparams, probabilities), 'model/')
    chunk = [space, x, space, space, x, x, space, x]       # ' x  xx x': scored are 'x  xx x', 3 words, 7 bytes
    np.savez(home / 'tokens.npz', chunk)
    result = json.loads(evaluate('--model_name', 'unigram', '--dataset', 'tokens.npz', '--json', '--seq_length', 4))
    bits = 4 * 2 + 3 * 1        # 4 x of a quarter, 3 spaces of a half
    assert (result['tokens'], result['words'], result['bytes']) == (7, 3, 7)
    assert result['loss'] == pytest.approx(bits * math.log(2) / 7, rel=1e-6)
    assert result['perplexity'] == pytest.approx(2 ** (bits / 7), rel=1e-6)
    assert result['word_perplexity'] == pytest.approx(2 ** (bits / 3), rel=1e-6)
    assert result['bits_per_byte'] == pytest.approx(bits / 7, rel=1e-6)
    text = evaluate('--model_name', 'unigram', '--dataset', 'tokens.npz', '--seq_length', 4)
    assert 'bits per byte         1.57143' in text


ODD = ['the fox', '', 'x', 'a "quote", \\\\, \t, \x01 and \u2028', 'é☃𝄞 ' * 20, ' ', f'fox{END_OF_TEXT}dog',
       'the dog sleeps ' * 9]


@pytest.mark.parametrize('sizes', [(32, 16, 8), (8, 3, 1), (8, 8, 2), (1, 1, 100)], ids=str)
def test_each_line_is_what_the_oracle_and_the_whole_say(evaluate, each, home, params, model_directory, sizes):
    length, stride, batch_size = sizes
    hparams, encoder = load_hparams(str(model_directory)), load_encoder(str(model_directory))
    (home / 'lines.txt').write_bytes('\n'.join([*ODD, '']).encode())
    flags = ['--seq_length', length, '--stride', stride, '--batch_size', batch_size]
    records, total = each('line', '--dataset', 'lines.txt', *flags)
    assert [record['text'] for record in records] == ODD
    assert [record['line'] for record in records] == list(range(1, len(ODD) + 1))
    chunks = [[encoder.end_of_text, *encoder.encode_with_special(text)] for text in ODD]
    for record, chunk, text in zip(records, chunks, ODD):
        assert record['file'] == 'lines.txt'
        assert (record['tokens'], record['bytes']) == (len(chunk) - 1, len(text.replace(END_OF_TEXT, '').encode()))
        if not text:
            assert (record['loss'], record['perplexity'], record['bits_per_byte']) == (None, None, None)
            continue
        expected = oracle(chunk, params, hparams, length, stride)
        assert record['loss'] * record['tokens'] == pytest.approx(expected, abs=1e-4 * record['tokens'])
        assert record['perplexity'] == pytest.approx(math.exp(record['loss']))
        assert record['bits_per_byte'] * record['bytes'] * math.log(2) == pytest.approx(expected, rel=1e-4)
    # The same contexts, as chunks of tokens.
    np.savez(home / 'lines.npz', *chunks)
    whole = json.loads(evaluate('--dataset', 'lines.npz', '--json', *flags))
    assert sum(record['loss'] * record['tokens'] for record in records if record['tokens']) == pytest.approx(
        whole['loss'] * whole['tokens'], rel=1e-5)
    for name in ('tokens', 'words', 'bytes', 'seq_length', 'stride'):
        assert total[name] == whole[name], name
    for name in ('loss', 'perplexity', 'word_perplexity', 'bits_per_byte'):
        assert total[name] == pytest.approx(whole[name], rel=1e-5), name


def test_each_file_and_document_have_their_names(evaluate, each, home):
    (home / 'corpus').mkdir()
    (home / 'corpus/a.txt').write_text('the fox\nthe dog\n')
    (home / 'corpus/b.jsonl').write_text('{"t": "the quick"}\n{"t": "brown\\nfox"}\n')
    flags = ['--dataset', 'corpus', '--text_column', 't']
    documents, _ = each('document', *flags)
    assert [(text['file'], text['document'], text['text']) for text in documents] == [
        ('corpus/a.txt', 1, 'the fox\nthe dog\n'), ('corpus/b.jsonl', 1, 'the quick'), ('corpus/b.jsonl', 2, 'brown\nfox')]
    files, total = each('file', *flags)
    assert [text['file'] for text in files] == ['corpus/a.txt', 'corpus/b.jsonl']
    assert all('text' not in text for text in files)
    assert files[0] == {name: pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
                        for name, value in documents[0].items() if name in files[0]}
    assert files[1]['tokens'] == documents[1]['tokens'] + 1 + documents[2]['tokens']     # and the token between them
    assert files[1]['bytes'] == documents[1]['bytes'] + documents[2]['bytes']
    assert total['tokens'] == files[0]['tokens'] + files[1]['tokens']
    evaluate('--each', 'file', *flags)
    assert 'bits per byte ' in evaluate.err


def test_each_line_is_what_generator_score_gives(each, generators, home):
    (home / 'lines.txt').write_bytes('\n'.join(ODD).encode())
    records, _ = each('line', '--dataset', 'lines.txt')
    [generator] = [built for (path, weights), built in generators.items() if 'toy' in path and weights == 'float32']
    for record, score in zip(records, generator.score(ODD), strict=True):
        assert record['tokens'] == len(score.tokens)
        for name in ('loss', 'perplexity', 'bits_per_byte'):
            expected = getattr(score, name)
            assert record[name] == (expected if expected is None else pytest.approx(expected, rel=1e-4)), name


def test_each_line_is_ascii_where_standard_output_is_not_utf_8(evaluate, each, home, monkeypatch):
    (home / 'lines.txt').write_bytes('é\u2028☃'.encode())
    assert '"é\u2028☃"' in evaluate('--each', 'line', '--dataset', 'lines.txt')
    for encoding in ('latin-1', 'ascii'):
        with io.TextIOWrapper(io.BytesIO(), encoding=encoding) as out:
            monkeypatch.setattr(sys, 'stdout', out)
            evaluate('--each', 'line', '--dataset', 'lines.txt')
            out.flush()
            line = out.buffer.getvalue().decode('ascii')
        assert json.loads(line)['text'] == 'é\u2028☃'


def test_a_hand_computed_line(each, home, model_directory):
    hparams, encoder = load_hparams(str(model_directory)), load_encoder(str(model_directory))
    [x], [space] = encoder.encode('x'), encoder.encode(' ')
    probabilities = np.full(hparams.n_vocab, 0.25 / (hparams.n_vocab - 2))
    probabilities[[space, x]] = 0.5, 0.25
    shutil.copytree(model_directory, home / 'models/unigram')
    write_checkpoint(home / 'models/unigram/model.ckpt', unigram_params(hparams, probabilities), 'model/')
    (home / 'lines.txt').write_text('x\n\n x\n')
    records, total = each('line', '--model_name', 'unigram', '--dataset', 'lines.txt')
    assert [record['bits_per_byte'] for record in records] == [pytest.approx(2), None, pytest.approx(1.5)]
    assert [record['perplexity'] for record in records] == [pytest.approx(4), None, pytest.approx(2 ** 1.5)]
    assert [record['loss'] for record in records] == [pytest.approx(math.log(4)), None, pytest.approx(math.log(2) * 1.5)]
    assert total['bits_per_byte'] == pytest.approx(5 / 3)


def test_a_run_is_evaluated_and_a_damaged_one_refused(evaluate, train, home):
    train('--max_steps', 2, '--sample_every', 0, '--learning_rate', 0.01, '--run_name', 'r')
    before, after = (json.loads(evaluate(*which, '--dataset', 'corpus.txt', '--json'))
                     for which in (['--model_name', 'toy'], ['--run_name', 'r']))
    assert after['loss'] < before['loss'] - 0.01
    assert after['checkpoint'] == 'checkpoint/r/model-2'
    data = home / 'checkpoint/r/model-2.data-00000-of-00001'
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    with pytest.raises(UserError, match='model-2.data-00000-of-00001 is damaged'):
        evaluate('--run_name', 'r', '--dataset', 'corpus.txt')


def test_a_damaged_model_and_one_whose_loss_is_nan_are_refused(evaluate, home, model_directory, params):
    for name in ('cut', 'nan'):
        shutil.copytree(model_directory, home / 'models' / name)
    data = home / 'models/cut/model.ckpt.data-00000-of-00001'
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(UserError, match='cannot read the checkpoint models/cut/model.ckpt'):
        evaluate('--model_name', 'cut', '--dataset', 'corpus.txt')
    write_checkpoint(home / 'models/nan/model.ckpt', params | {'ln_f/g': np.full(24, 3e38, np.float32)}, 'model/')
    with pytest.raises(UserError, match='the loss is nan'):
        evaluate('--model_name', 'nan', '--dataset', 'corpus.txt')


@pytest.mark.parametrize(('flags', 'words'), [
    (['--stride', '40', '--seq_length', '20'], ['--stride 40', '20 tokens']),
    (['--stride', '0'], ['--stride', 'above 0']),
    (['--seq_length', '33'], ['--seq_length 33', '32 tokens']),
    (['--dataset', 'one.txt'], ['one.txt', 'no chunk']),
    (['--dataset', 'empty.txt'], ['empty.txt', '0 tokens']),
    (['--dataset', 'nothing.txt'], ['nothing.txt']),
    (['--each', 'line', '--dataset', 'lines.npz'], ['lines.npz', 'holds tokens', '--each']),
    (['--each', 'word'], ['--each', "'word'", 'line']),
    (['--each', 'line', '--dataset', 'empty.txt'], ['empty.txt', 'no text']),
    (['--each', 'document', '--dataset', 'records.jsonl'], ['records.jsonl', '--text_column']),
    (['--each', 'line', '--dataset', 'bad.txt'], ['bad.txt', 'offset 4']),
    (['--each', 'line', '--seq_length', '33'], ['--seq_length 33', '32 tokens']),
    (['--dataset', 'one.txt', 'corpus.txt=2'], ['corpus.txt=2: weights are for training']),
    (['--dataset', 'one.txt', 'one.txt'], ['one.txt is in the data set one.txt and in one.txt']),
    (['--text_column', 'x'], ['--text_column x has no effect']),
    (['--model_name', 'other'], ['other', 'toy']),
    (['--run_name', 'other'], ['other', 'no runs are here']),
    (['--run_name', 'r', '--model_name', 'toy'], ['--run_name', 'not allowed with', '--model_name']),
    (['--weights', 'int4'], ['--weights', "'int4'", 'int8']),
    (['--batch_size', 'x'], ['--batch_size', "'x'"]),
    (['--strde', '3'], ['--strde'])])
def test_a_mistake_is_one_line_before_tensorflow(mistake, home, flags, words):
    (home / 'one.txt').write_text('x')
    (home / 'empty.txt').write_text('')
    (home / 'records.jsonl').write_text('{"t": "x"}\n')
    (home / 'bad.txt').write_bytes(b'one\n\xff\n')
    np.savez(home / 'lines.npz', [1, 2])
    which = [] if {'--model_name', '--run_name'} & set(flags) else ['--model_name', 'toy']
    error = mistake('evaluate.py', '--dataset', 'corpus.txt', *which, *flags)
    assert all(word in error for word in words), error


def test_a_process_with_a_mistake_ends_so(without_tensorflow):
    line = one_line_error(without_tensorflow('evaluate.py', '--dataset', 'corpus.txt', '--run_name', 'none'))
    assert line == "evaluate.py: no run 'none' in checkpoint; no runs are here; ./train.py makes one"


def test_an_encoder_that_does_not_fit_is_refused_before_tensorflow(mistake, home, model_directory):
    directory = home / 'models' / 'small'
    shutil.copytree(model_directory, directory)
    sizes = json.loads((directory / 'hparams.json').read_text())
    (directory / 'hparams.json').write_text(json.dumps(sizes | {'n_vocab': 260}))
    line = mistake('evaluate.py', '--dataset', 'corpus.txt', '--model_name', 'small')
    assert line.startswith('models/small: encoder.json has ')
