"""training/events.py: what TensorBoard reads from a run, by its own classes; one branch after --restore_from."""

import types

import numpy as np
import pytest

from conftest import SMALL_RUN
from training.metrics import Log

pytest.importorskip('tensorboard')
NUMBERS = {'loss': 2.5, 'learning_rate': 0.25, 'gradient_norm': 1.5, 'tokens_per_second': 100.0, 'epoch': 0.125}
FLAGS = {'dataset': ['a.txt', 'b.txt=2'], 'batch_size': 2, 'learning_rate': 0.25, 'val_split': 0.0, 'optimizer': 'adam',
         'only_train_transformer_layers': True, 'seed': None, 'val_every': 1, 'plot': False}
SMALL = (*SMALL_RUN, '--val_every', 2, '--val_batch_count', 1, '--sample_every', 2, '--sample_length', 4, '--save_every', 2,
         '--seed', 1)


@pytest.fixture
def log(tf, tmp_path):
    return lambda step=0, flags=FLAGS: Log(str(tmp_path), types.SimpleNamespace(step=step, validated=step, average=[0.0, 0.0]),
                                           flags=flags)


def read(directory):
    """TensorBoard's reader of one directory, without a limit of how many points it keeps."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    return EventAccumulator(str(directory), size_guidance={'scalars': 0, 'tensors': 0}).Reload()


def points(directory, tag='loss'):
    """The steps and values that TensorBoard draws for a tag."""
    return [(point.step, point.value) for point in read(directory).Scalars(tag)]


def hparams(directory):
    """The flags that TensorBoard shows for a run, and the status at its end; None if it is still running."""
    from tensorboard.plugins.hparams import metadata
    content = read(directory).summary_metadata
    start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG].plugin_data.content)
    end = content.get(metadata.SESSION_END_INFO_TAG)
    return ({name: getattr(value, value.WhichOneof('kind')) for name, value in start.hparams.items()},
            end and metadata.parse_session_end_info_plugin_data(end.plugin_data.content).status)


def test_scalars(log, tmp_path):
    writer = log()
    writer.train(1, **NUMBERS)
    writer.validation(1, 3.5, best=3.5)
    assert points(tmp_path) == [(1, 2.5)]       # while the run goes on
    writer.close()
    assert sorted(read(tmp_path).Tags()['scalars']) == [
        'loss', 'optimizer/gradient_norm', 'optimizer/learning_rate', 'progress/epoch', 'progress/tokens_per_second', 'val_loss']
    assert points(tmp_path, 'optimizer/learning_rate') == [(1, 0.25)]
    # In one card: the same tag in two directories.
    assert points(tmp_path / 'validation') == points(tmp_path, 'val_loss') == [(1, 3.5)]


@pytest.mark.parametrize('text', [
    '# no heading\n* no list\n\n<b>&amp; no bold</b>\n    indented `code` ```\n```\nsee [no](link)',
    'one\rtwo\r\n\n\nthree', '| a | b |'])
def test_samples_are_shown_as_they_are(log, tmp_path, text):
    import html

    from tensorboard import plugin_util
    writer = log()
    writer.samples(3, text)
    writer.close()
    [event] = read(tmp_path).Tensors('samples/text_summary')
    assert event.step == 3
    shown = plugin_util.markdown_to_safe_html(event.tensor_proto.string_val[0])
    assert shown.startswith('<pre><code>') and shown.count('<') == 4
    inside = html.unescape(shown.removeprefix('<pre><code>').removesuffix('</code></pre>'))
    assert inside.rstrip('\n') == text.replace('\r\n', '\n').replace('\r', '\n')


def test_flags_are_those_of_the_last_start(log, tmp_path):
    writer = log()
    shown = {name: FLAGS[name] for name in ('batch_size', 'learning_rate', 'val_split', 'only_train_transformer_layers',
                                            'optimizer')} | {'dataset': 'a.txt b.txt=2'}
    assert hparams(tmp_path) == (shown, None)
    writer.close(failed=True)
    assert hparams(tmp_path)[1] == 2        # STATUS_FAILURE
    log(flags=FLAGS | {'batch_size': 3, 'dataset': ['caf\udce9']}).close()
    assert hparams(tmp_path) == (shown | {'batch_size': 3, 'dataset': r'caf\udce9'}, 1)      # STATUS_SUCCESS


def test_a_file_that_was_cut_off_is_kept_as_far_as_it_goes(log, tmp_path):
    from training import events
    writer = log()
    for step in (1, 2, 3):
        writer.train(step, **NUMBERS)
    writer.close()
    [path] = (path for path in tmp_path.glob('events.*') if path.name != events.FLAGS_FILE)
    path.write_bytes(path.read_bytes()[:-3])
    events.remove_after(str(tmp_path), 9)       # nothing to remove
    assert points(tmp_path) == [(1, 2.5), (2, 2.5)]
    events.remove_after(str(tmp_path), 1)
    assert points(tmp_path) == [(1, 2.5)]
    (tmp_path / 'events.out.tfevents.1').write_bytes(b'\xff' * 99)
    events.remove_after(str(tmp_path), 1)
    assert points(tmp_path) == [(1, 2.5)]


def test_a_return_to_an_earlier_step_and_to_the_branch_that_was_given_up(train, home):
    directory = home / 'checkpoint/run1'
    train('--max_steps', 6, *SMALL)
    [first, validated] = points(directory), points(directory / 'validation')
    assert [step for step, _ in first] == [1, 2, 3, 4, 5, 6]
    train('--restore_from', 2, '--max_steps', 3, '--learning_rate', 0.5, *SMALL)
    second = points(directory)
    assert second[:2] == first[:2] and [step for step, _ in second] == [1, 2, 3]
    assert points(directory / 'validation') == validated[:2]
    assert [event.step for event in read(directory).Tensors('samples/text_summary')] == [2]
    assert hparams(directory)[0]['learning_rate'] == 0.5
    train('--restore_from', 6, '--max_steps', 7, *SMALL)
    assert points(directory)[:6] == first and len(points(directory)) == 7
    assert points(directory / 'validation') == validated


def test_what_the_hparams_page_shows(train, home):
    """By the server's own code: the flags, and the last loss and validation loss of each run."""
    from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups
    train('--max_steps', 2, '--run_name', 'a', *SMALL)
    train('--max_steps', 2, '--run_name', 'b', *SMALL, '--batch_size', 2)
    multiplexer = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(home / 'checkpoint'))
    multiplexer.Reload()
    context = base_plugin.TBContext(data_provider=data_provider.MultiplexerDataProvider(multiplexer, str(home)))
    backend, request = backend_context.Context(context), RequestContext()
    asked = api_pb2.ListSessionGroupsRequest(allowed_statuses=[api_pb2.STATUS_SUCCESS], slice_size=9)
    for metric in ({'tag': 'loss'}, {'group': 'validation', 'tag': 'loss'}):
        asked.col_params.add(metric=api_pb2.MetricName(**metric))
    found = list_session_groups.Handler(request, backend, '', asked).run().session_groups
    assert [group.hparams['batch_size'].number_value for group in found] == [1, 2]
    for name, group in zip('ab', found):
        losses = {(value.name.group, value.name.tag): value.value for value in group.metric_values}
        assert losses['', 'loss'] == points(home / 'checkpoint' / name)[-1][1]
        assert losses['validation', 'loss'] == points(home / 'checkpoint' / name / 'validation')[-1][1]


def test_a_directory_that_is_another_one_now_is_left_alone(log, tmp_path):
    writer = log()
    (tmp_path / 'old').mkdir()
    for path in [path for path in tmp_path.iterdir() if path.is_file()]:
        path.rename(tmp_path / 'old' / path.name)
    writer.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['old', 'validation']


def test_a_run_without_validation_has_no_second_directory(train, home):
    train('--max_steps', 1, *SMALL_RUN)
    assert not (home / 'checkpoint/run1/validation').exists()


def test_the_values_are_those_of_metrics(train, home):
    from training.rows import read_metrics
    train('--max_steps', 2, *SMALL_RUN)
    rows = read_metrics(str(home / 'checkpoint/run1/metrics.jsonl'))
    for name, tag in (('loss', 'loss'), ('gradient_norm', 'optimizer/gradient_norm'), ('epoch', 'progress/epoch')):
        assert points(home / 'checkpoint/run1', tag) == [(row['step'], np.float32(row[name])) for row in rows]
