"""Writes the README.md of what was converted to Hugging Face's format."""

import os

from command import models
from command.errors import UserError
from corpus.data_sets import in_words
from storage import checkpoints, run_state
from training.record import read_record
from training.rows import rows_until

USAGE = """Converted from a TensorFlow checkpoint. Load it with:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = (kind.from_pretrained('.') for kind in (AutoModelForCausalLM, AutoTokenizer))
```
"""
ADAPTER_USAGE = """A LoRA adapter, converted from a TensorFlow checkpoint. Load it with its base model:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base = {base!r}{comment}
model, tokenizer = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), '.'), AutoTokenizer.from_pretrained(base)
```
"""
COMMENT = '     # as a Hugging Face directory'


def model_card(directory: str, prefix: str, adapter_of: str | None = None) -> str:
    """The README.md for a model or run directory: base model, corpus, checkpoint and validation loss, where they are known.

    prefix: of the checkpoint that was converted. adapter_of: if only its adapters were, the name of their base.
    """
    settings = read_record(directory)
    name = os.path.basename(os.path.normpath(directory))
    # Not the path, if it was named by one, which is private.
    base = os.path.basename(models.directory_of(str(settings['flags'].get('model_name')))) if settings else name
    published = models.HUB_NAMES.get(models.ALIASES.get(base, base))
    library, tags, kind = 'transformers', 'gpt2', 'a GPT-2'
    if adapter_of:
        base, published = adapter_of, adapter_of if adapter_of in models.HUB_NAMES.values() else None
        library, tags, kind = 'peft', 'gpt2, lora', 'a LoRA adapter for GPT-2'
    lines = ['---', f'library_name: {library}', 'pipeline_tag: text-generation', f'tags: [{tags}]',
             *([f'base_model: {published}'] if published else []), '---', '',
             f'# {name}, {kind}' + (' fine-tuned on a text' if settings else ''), '']
    if settings:
        lines += [*(f'- {fact}' for fact in _facts(directory, base, settings, prefix)), '']
    usage = ADAPTER_USAGE.format(base=base, comment='' if published else COMMENT) if adapter_of else USAGE
    return '\n'.join([*lines, usage])


def _facts(directory: str, base: str, settings: dict, prefix: str) -> list[str]:
    """What is known of a run's checkpoint."""
    corpus, validation = settings['corpus'], settings.get('validation')
    facts = [f'base model: {base}', f'corpus: {_names(corpus.get("name"))}, {corpus.get("tokens")} tokens',
             f'weights: checkpoint `{os.path.basename(prefix)}`, after {checkpoints.checkpoint_step(prefix)} steps']
    losses = _validation_losses(directory, prefix)
    if losses:
        on = f' on {_validation_text(validation)}' if validation else ''
        facts.append(f'validation loss{on}: {_in_words(losses, checkpoints.checkpoint_step(prefix))}')
    return facts


def _names(paths: str | list[str] | None) -> str:
    """The names of a corpus, without their paths, which are private."""
    names = [os.path.basename(os.path.normpath(str(path))) for path in (paths if isinstance(paths, list) else [paths])]
    return f'`{in_words(names)}`'


def _validation_text(validation: dict) -> str:
    """'`b.txt`, 90 tokens', '10 % of the corpus, 123 tokens, not trained on', 'the corpus itself, 1234 tokens'."""
    if validation['name']:
        return f'{_names(validation["name"])}, {validation["tokens"]} tokens'
    if validation['split']:
        return f'{100 * validation["split"]:g} % of the corpus, {validation["tokens"]} tokens, not trained on'
    return f'the corpus itself, {validation["tokens"]} tokens, which it was trained on'


def _validation_losses(directory: str, prefix: str) -> dict[int, float]:
    """Step -> validation loss, up to a checkpoint of a run, on its branch."""
    try:
        state = run_state.read_alone(prefix)
    except UserError:       # damaged; the weights are checked elsewhere
        state = None
    if state is None:
        step = checkpoints.checkpoint_step(prefix)
        state = run_state.RunState(step=step, validated=step)
    return {row['step']: row['val_loss'] for row in rows_until(directory, state) if 'val_loss' in row}


def _in_words(losses: dict[int, float], step: int) -> str:
    """The lowest loss, and that of the weights at `step`, if another one was measured."""
    best = min(losses, key=losses.get)
    text = f'{losses[best]:.4f} nats per token'
    if best == step:
        return f'{text}, the lowest of the run up to these weights'
    own = f'; {losses[step]:.4f} with these weights' if step in losses else ', not measured with these weights'
    return f'{text} at step {best}, the lowest of the run up to these weights{own}'
