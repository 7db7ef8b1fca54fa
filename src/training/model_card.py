"""The README.md of a model that is converted to Hugging Face's format."""

import os

from command import models
from storage import checkpoints, run_directory
from training import metrics
from training.record import read_record

HUB_NAMES = {'124M': 'openai-community/gpt2', '355M': 'openai-community/gpt2-medium',
             '774M': 'openai-community/gpt2-large', '1558M': 'openai-community/gpt2-xl'}


def model_card(directory: str, prefix: str) -> str:
    """The README.md of a model or run directory: base model, corpus, steps and validation loss, as far as they are known.

    prefix: of the checkpoint that was converted.
    """
    step = checkpoints.checkpoint_step(prefix)
    settings = read_record(directory)
    name = os.path.basename(os.path.normpath(directory))
    base, facts = name, []
    if settings:
        base = str(settings['flags'].get('model_name'))
        # The last part of the path: the rest is nobody's concern.
        corpus = os.path.basename(os.path.normpath(str(settings['corpus'].get('name'))))
        facts = [f'base model: {base}', f'corpus: `{corpus}`, {settings["corpus"].get("tokens")} tokens', f'steps: {step}']
        losses = [row for row in metrics.read_metrics(os.path.join(directory, run_directory.METRICS))
                  if 'val_loss' in row and row['step'] <= step]
        if losses:
            facts.append(f'validation loss: {losses[-1]["val_loss"]:.4f} nats per token, at step {losses[-1]["step"]}')
    published = HUB_NAMES.get(models.ALIASES.get(base, base))
    head = ['library_name: transformers', 'pipeline_tag: text-generation', 'tags: [gpt2]']
    if published:
        head.append(f'base_model: {published}')
    title = f'{name}, a GPT-2' + (' fine-tuned on a text' if settings else '')
    return '\n'.join(['---', *head, '---', '', f'# {title}', '', *(f'- {fact}' for fact in facts),
                      *([''] if facts else []), 'Converted from a TensorFlow checkpoint. Load it with:', '', '```python',
                      'from transformers import AutoModelForCausalLM, AutoTokenizer',
                      "model, tokenizer = (kind.from_pretrained('.') for kind in (AutoModelForCausalLM, AutoTokenizer))",
                      '```', ''])
