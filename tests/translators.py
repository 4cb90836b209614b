"""Random translators of the toy language, in directories."""

from pathlib import Path

import torch
from parallel_files import some_pairs
from seq2seq_models import make_writer

from rnn_hf.data.bpe import build_bpe


def make_directory(folder: Path, seed: int = 0, vocab_size: int = 60, **fields) -> str:
    """A random model with its tokenizer; the seed is of the weights."""
    tokenizer = build_bpe([text for pair in some_pairs(50) for text in pair], vocab_size)
    model = make_writer(seed=seed, vocab_size=len(tokenizer), **fields).float()
    with torch.no_grad():
        model.lm_head.bias[tokenizer.eos_token_id] += 3  # so that translations end, at times
    model.generation_config.max_length = 20
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
