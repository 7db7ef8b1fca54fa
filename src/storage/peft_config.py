"""peft's adapter_config.json: the settings of an adapter, both ways."""

import json
import math
import os
import re

from command import models
from command.errors import UserError
from command.flags import shown
from command.read_files import read_json
from network.hparams import HParams, default_hparams
from network.lora import MATRICES, Lora

CONFIG = 'adapter_config.json'
MODULES = [matrix.replace('/', '.') for matrix in MATRICES]
DEFAULT = 8         # of r and of lora_alpha, in peft
LARGEST = 1e30      # alpha, far above what float32 can multiply with
# Settings with which the model computes more, or something else, than w + scale A B. Those named use_... count too.
OTHER_METHODS = ('modules_to_save', 'trainable_token_indices', 'target_parameters', 'layer_replication', 'lora_bias',
                 'alora_invocation_tokens', 'arrow_config', 'kasa_config', 'monteclora_config')
# The ways to start that leave the base as it is; others subtract the first A B from it.
STARTS = (True, False, None, 'gaussian', 'eva', 'orthogonal', 'mica')
# What to do about an adapter that changes more than is read here.
MERGE_THERE = ('merge it with its base in peft (merge_and_unload), save that model (save_pretrained), and convert it without '
               '--base')
CANNOT_MERGE = ('a change of the token embeddings or of the output layer alone cannot be merged, because GPT-2 ties the two: '
                'train an adapter without it')
TIED = re.compile('wte|lm_head')


def write_config(directory: str, lora: Lora, base: str) -> None:
    """Writes adapter_config.json, with the settings that every version of peft knows. base: its name there. Raises OSError."""
    alpha = int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha
    content = {'base_model_name_or_path': base, 'bias': 'none', 'fan_in_fan_out': True, 'inference_mode': True,
               'lora_alpha': alpha, 'lora_dropout': 0.0, 'peft_type': 'LORA', 'r': lora.rank, 'target_modules': MODULES,
               'task_type': 'CAUSAL_LM'}
    with open(os.path.join(directory, CONFIG), 'w', encoding='utf-8') as file:
        file.write(json.dumps(content, indent=2) + '\n')


def base_name(prefix: str, hparams: HParams) -> str:
    """What a base is called in adapter_config.json, by the prefix of its checkpoint and its sizes.

    A published model: its name on the Hub. Another model: that of its directory; a run: RUN/STEP. No path, which is private.
    """
    directory, checkpoint = os.path.split(os.path.abspath(prefix))
    name = os.path.basename(directory)
    if checkpoint != 'model.ckpt':
        return f'{name}/{checkpoint.removeprefix("model-")}'
    published = models.ALIASES.get(name, name)
    is_published = (models.SIZES.get(published) == (hparams.n_layer, hparams.n_embd)
                    and hparams.n_vocab == default_hparams().n_vocab)
    return models.HUB_NAMES[published] if is_published else name


def named_base(directory: str) -> str:
    """What adapter_config.json says about the base, for a message. Raises UserError if it cannot be read."""
    named = read_json(os.path.join(directory, CONFIG)).get('base_model_name_or_path')
    if not named:
        return f'{CONFIG} does not name its base'
    here = next((name for name, hub in models.HUB_NAMES.items() if named in (hub, hub.partition('/')[2])), None)
    return f'{CONFIG} names its base: {shown(named)}' + (f', here {here} (./download_model.py {here})' if here else '')


class Config:
    """What adapter_config.json says about the factors. Raises UserError if it is damaged, or describes more than factors."""

    def __init__(self, directory: str):
        self._path = os.path.join(directory, CONFIG)
        content = read_json(self._path)
        self._check_method(content)
        self._ranks = self._patterns(content, 'r', 'rank_pattern')
        self._alphas = self._patterns(content, 'lora_alpha', 'alpha_pattern')
        self._by_root = bool(content.get('use_rslora'))

    def lora(self, module: str) -> Lora:
        """Rank and scale of a matrix: transformer.h.0.attn.c_attn. Those that a pattern names have their own."""
        rank, alpha = (self._value_for(module, *patterns) for patterns in (self._ranks, self._alphas))
        return Lora(rank, alpha * math.sqrt(rank) if self._by_root else alpha)      # rsLoRA: alpha / sqrt(rank)

    def _check_method(self, content: dict) -> None:
        if (kind := content.get('peft_type')) != 'LORA':
            raise UserError(f"{self._path}: peft_type is {shown(kind)}; expected 'LORA', the only kind of adapter that is read")
        others = [*OTHER_METHODS, *(name for name in content if name.startswith('use_') and name != 'use_rslora')]
        wrong = next((name for name in others if content.get(name)), None)
        if content.get('bias', 'none') != 'none':
            wrong = 'bias'
        start = content.get('init_lora_weights')
        if not isinstance(start, bool | str | None) or (start.lower() if isinstance(start, str) else start) not in STARTS:
            wrong = 'init_lora_weights'
        if wrong:
            advice = CANNOT_MERGE if TIED.search(str(content[wrong])) else MERGE_THERE
            raise UserError(f'{self._path}: {wrong} is {shown(content[wrong])}, which is more than the two factors of a matrix '
                            f'that are read here: {advice}')

    def _patterns(self, content: dict, name: str, pattern_name: str) -> tuple[float, dict[str, float]]:
        """The value for all matrices, and those by regular expression, checked."""
        value, patterns = content.get(name, DEFAULT), content.get(pattern_name) or {}
        if not isinstance(patterns, dict):
            raise UserError(f'{self._path}: {pattern_name} is {shown(patterns)}; expected an object')
        for where, number in ((name, value), *((f'{pattern_name} of {shown(key)}', own) for key, own in patterns.items())):
            if name == 'r' and (type(number) is not int or number < 1):
                raise UserError(f'{self._path}: {where} is {shown(number)}; expected a whole number above 0')
            if type(number) not in (int, float) or not abs(number) < LARGEST:
                raise UserError(f'{self._path}: {where} is {shown(number)}; expected a number')
        for key in patterns:
            try:
                re.compile(key)
            except re.error:
                raise UserError(f'{self._path}: {pattern_name} has {shown(key)}, which is no regular expression') from None
        return value, patterns

    @staticmethod
    def _value_for(module: str, value: float, patterns: dict[str, float]) -> float:
        """As in peft, the first pattern counts that matches the end of the name, after a dot or all of it."""
        return next((own for key, own in patterns.items() if re.match(rf'(?:.*\.)?(?:{key})$', module)), value)
