"""Writes the README.md of a model converted to Hugging Face's format."""

import os

from command import models
from corpus.data_sets import in_words
from storage import checkpoints, run_directory
from training import metrics
from training.record import read_record

HUB_NAMES = {'124M': 'openai-community/gpt2', '355M': 'openai-community/gpt2-medium',
             '774M': 'openai-community/gpt2-large', '1558M': 'openai-community/gpt2-xl'}
USAGE = """Converted from a TensorFlow checkpoint. Load it with:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = (kind.from_pretrained('.') for kind in (AutoModelForCausalLM, AutoTokenizer))
```
"""


def model_card(directory: str, prefix: str) -> str:
    """The README.md for a model or run directory: base model, corpus, steps and validation loss, where they are known.

    prefix: of the checkpoint that was converted.
    """
    settings = read_record(directory)
    name = os.path.basename(os.path.normpath(directory))
    # Not the path, if it was named by one, which is private.
    base = os.path.basename(models.directory_of(str(settings['flags'].get('model_name')))) if settings else name
    lines = ['---', 'library_name: transformers', 'pipeline_tag: text-generation', 'tags: [gpt2]']
    if published := HUB_NAMES.get(models.ALIASES.get(base, base)):
        lines.append(f'base_model: {published}')
    lines += ['---', '', f'# {name}, a GPT-2' + (' fine-tuned on a text' if settings else ''), '']
    if settings:
        lines += [*(f'- {fact}' for fact in _facts(directory, base, settings, checkpoints.checkpoint_step(prefix))), '']
    return '\n'.join([*lines, USAGE])


def _facts(directory: str, base: str, settings: dict, step: int) -> list[str]:
    """What is known of a run's checkpoint at `step`."""
    corpus = settings['corpus']
    paths = corpus.get('name')
    # Not the paths, which are private.
    names = [os.path.basename(os.path.normpath(str(path))) for path in (paths if isinstance(paths, list) else [paths])]
    facts = [f'base model: {base}', f'corpus: `{in_words(names)}`, {corpus.get("tokens")} tokens', f'steps: {step}']
    losses = [row for row in metrics.read_metrics(os.path.join(directory, run_directory.METRICS))
              if 'val_loss' in row and row['step'] <= step]
    if losses:
        facts.append(f'validation loss: {losses[-1]["val_loss"]:.4f} nats per token, at step {losses[-1]["step"]}')
    return facts
