"""A line of text that the model writes while it is trained."""

from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from rnn_hf.data.tokenization import unknown_id
from rnn_hf.evaluation import evaluating


TEMPERATURE = 0.8  # as of `rnn-hf generate`
PROMPT_TOKENS = 20  # of the validation text; training hardly ever sees the empty state


@torch.no_grad()
def write_sample(model: Any, tokenizer: PreTrainedTokenizerBase, prompt: list[int], tokens: int, seed: int) -> str:
    """What a model writes after a prompt, past ends of sentences, without the token for unknown words.

    One that reads backward writes what stands before its prompt; it is returned in the order of a text.

    It does not use `generate()`, which draws from torch's global random numbers: dropout would then differ between a
    run with samples and the same run without.

    Args:
        model: A causal language model of this package; its training mode is restored afterwards.
        tokenizer: Of the model.
        prompt: Ids of the text to go on from, at least one.
        tokens: How many to write.
        seed: Of sampling.
    """
    generator = torch.Generator().manual_seed(seed)
    unknown = unknown_id(tokenizer)
    ids, cache, inputs = [], None, prompt
    with evaluating(model):
        for _ in range(tokens):
            outputs = model(torch.tensor([inputs], device=model.device), cache=cache, use_cache=True, logits_to_keep=1)
            cache = outputs.cache
            logits = (outputs.logits[0, -1].float().cpu() / TEMPERATURE).nan_to_num()  # of a run that diverges
            if unknown not in (None, tokenizer.eos_token_id):  # some have one token for both
                logits[unknown] = -torch.inf
            inputs = torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).tolist()
            ids += inputs
    if model.config.reads_backward:
        ids.reverse()
    return " ".join(str(tokenizer.decode(ids)).split())
