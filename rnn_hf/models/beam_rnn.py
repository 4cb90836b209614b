"""Prefix beam search over the labels of CTC, alone or with a recurrent language model fused in.

Shapes in comments: B batch, T steps, V kinds of labels with the blank, N hypotheses.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .cache_rnn import RNNCache
from .tokenization_rnn_ctc import DELIMITER, RNNCTCTokenizer


# A label that is less likely than this at a step, in nats, does not begin there.
LEAST_LOG_PROB = -8.0
# Hypotheses of a search for which no number is given.
NUM_BEAMS = 16
NEVER = -math.inf
Labels = tuple[int, ...]


class LabelLanguageModel:
    """A language model that says how likely the labels of a recognizer are, for [`RNNForCTC.generate`].

    Each label is one token of it: a word, or a character, with the space for `"|"`. A text begins after the token that
    stands before texts in training, and ends with the end token.

    Args:
        model: An [`RNNForCausalLM`] in evaluation mode.
        tokenizer: Its own.
        label_tokenizer: That of the recognizer.

    Attributes:
        token_ids: The token of each label; at the blank's place, which is no label, the end token.

    Raises:
        ValueError: The model is in training mode or reads backward; the tokenizer has no end token, is not that of the
            model, or lacks labels.
    """

    def __init__(self, model: Any, tokenizer: Any, label_tokenizer: RNNCTCTokenizer):
        if model.training:
            raise ValueError("the language model is in training mode: call model.eval() first")
        if getattr(model.config, "reads_backward", False):
            raise ValueError("the language model has `reads_backward=True`, and labels are heard forward")
        end, start = tokenizer.eos_token_id, tokenizer.bos_token_id
        if end is None:
            raise ValueError("the tokenizer of the language model has no `eos_token`, which ends a text")
        tokens = tokens_of_labels(tokenizer, label_tokenizer) | {label_tokenizer.pad_token_id: end}
        if max(tokens.values()) >= model.config.vocab_size:
            raise ValueError(
                f"the tokenizer has the token {max(tokens.values())} and is not that of the language model, whose "
                f"`vocab_size` is {model.config.vocab_size}"
            )
        self.model, self.start, self.blank = model, end if start is None else start, label_tokenizer.pad_token_id
        self.token_ids = [tokens[label] for label in range(len(tokens))]

    @torch.no_grad()
    def step(self, token_ids: list[int], cache: RNNCache) -> Any:
        """Log-probabilities of the next label, `(N, V)` in NumPy, after N tokens; at the blank's place of the end.

        The state in `cache` goes on with the tokens.
        """
        input_ids = torch.tensor(token_ids, device=self.model.device)[:, None]
        logits = self.model(input_ids, cache=cache, use_cache=True).logits[:, -1]
        return logits.cpu().double().log_softmax(dim=-1)[:, self.token_ids].numpy()


def tokens_of_labels(tokenizer: Any, label_tokenizer: RNNCTCTokenizer) -> dict[int, int]:
    """The token of a language model's tokenizer for each label but the blank, by their ids.

    Raises:
        ValueError: Labels that are not one known token, alone or next to each other.
    """
    is_word, tokens, missing = label_tokenizer.unit == "words", {}, []
    vocabulary = tokenizer.get_vocab()
    unknown = vocabulary.get(label_tokenizer.unk_token, tokenizer.unk_token_id)
    texts = dict(enumerate(label_tokenizer.convert_ids_to_tokens(list(range(len(label_tokenizer))))))
    for label in (label_tokenizer.pad_token_id, label_tokenizer.unk_token_id):
        del texts[label]
    if not is_word:
        texts = {label: " " if text == DELIMITER else text for label, text in texts.items()}
    for label, text in texts.items():
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens[label] = ids[0] if len(ids) == 1 else unknown
        missing += [text] * (tokens[label] == unknown)
    if unknown is None:
        missing.append(label_tokenizer.unk_token)
    if missing:
        raise ValueError(
            f"the language model has no token for {len(missing)} labels of the recognizer: "
            f"{', '.join(map(repr, missing[:8]))}{', ...' * (len(missing) > 8)}"
        )
    in_a_row = tokenizer((" " if is_word else "").join(texts.values()), add_special_tokens=False)["input_ids"]
    if in_a_row != list(tokens.values()):
        raise ValueError("the tokenizer of the language model takes labels together that stand next to each other")
    return tokens | {label_tokenizer.unk_token_id: unknown}


class Fusion:
    """What is added to the log-probabilities of hypotheses: `weight` times a language model's, `bonus` a label.

    Of each hypothesis that is kept there is a row of the language model's state, so that it goes on from there.
    """

    def __init__(self, language_model: LabelLanguageModel | None, weight: float, bonus: float):
        self.weight, self.bonus = weight, bonus
        self.model = language_model if weight else None  # 0 times minus infinity is not a number
        self.known: dict[Labels, tuple[int, float, Any]] = {}  # row, log-probability, those of what comes next, (V,)
        if self.model is not None:
            self.cache = RNNCache(self.model.model.config)
            self.known[()] = 0, 0.0, self.model.step([self.model.start], self.cache)[0]

    def score(self, labels: Labels, is_whole: bool = False) -> float:
        """What is added for a hypothesis: one that is kept, or such a one and a label; a kept one may be the whole."""
        if self.model is None:
            return self.bonus * len(labels)
        log_prob = self.log_prob(labels)
        if is_whole:
            log_prob += float(self.known[labels][2][self.model.blank])
        return self.weight * log_prob + self.bonus * len(labels)

    def log_prob(self, labels: Labels) -> float:
        """That of the language model, without the end."""
        if labels in self.known:
            return self.known[labels][1]
        _, before, following = self.known[labels[:-1]]
        return before + float(following[labels[-1]])

    def keep(self, kept: list[Labels]) -> None:
        """Go on with these hypotheses alone: one step of the language model for all that are new."""
        new = [labels for labels in kept if labels not in self.known]
        if self.model is None or not new:
            return
        old = [labels for labels in kept if labels in self.known]
        state = self.cache.rows([self.known[labels[:-1]][0] for labels in new])
        following = list(self.model.step([self.model.token_ids[labels[-1]] for labels in new], state))
        if old:
            state = RNNCache.cat([self.cache.rows([self.known[labels][0] for labels in old]), state])
            following = [self.known[labels][2] for labels in old] + following
        self.known = {labels: (row, self.log_prob(labels), following[row]) for row, labels in enumerate(old + new)}
        self.cache = state


def find_path(
    logits: Tensor,
    lengths: Tensor,
    blank: int,
    num_beams: int | None = None,
    language_model: LabelLanguageModel | None = None,
    language_model_weight: float = 0.5,
    length_bonus: float = 0.0,
) -> Tensor:
    """The label or blank of each step, `(B, T)`, of logits that are those of a certain blank at padding.

    Arguments as of `beam_search`, which finds them, with 16 beams if no number is given. With one beam or none, no
    language model and no bonus it is the likeliest at each step: the best path (Graves et al., 2006, section 3.2).
    """
    if num_beams in (None, 1) and language_model is None and not length_bonus:
        return logits.argmax(dim=-1)
    beams = NUM_BEAMS if num_beams is None else num_beams
    return beam_search(logits, lengths, blank, beams, language_model, language_model_weight, length_bonus)


@torch.no_grad()
def beam_search(
    logits: Tensor,
    lengths: Tensor,
    blank: int,
    num_beams: int,
    language_model: LabelLanguageModel | None = None,
    language_model_weight: float = 0.5,
    length_bonus: float = 0.0,
    least_log_prob: float = LEAST_LOG_PROB,
) -> Tensor:
    """Of each row the likeliest labels found, each hypothesis summed over all of its paths (Graves and Jaitly, 2014).

    A hypothesis counts as log p of CTC, plus `language_model_weight` times log p of the language model, its end
    included, plus `length_bonus` a label (Hannun et al., 2014). Rows are searched one by one, in float64.

    Args:
        logits: `(B, T, V)`.
        lengths: `(B,)`, how many steps each row has.
        blank: Id of the blank.
        num_beams: Hypotheses that are kept from step to step.
        language_model: Over the same labels.
        language_model_weight: 0 is without it.
        length_bonus: In nats; above 0 it asks for more labels.
        least_log_prob: At a step no label begins that is less likely than this, in nats, unless all are. With minus
            infinity, and as many beams as there are hypotheses, the search is exact.

    Returns:
        `(B, T)`, the likeliest path of these labels, with the blank at padding.

    Raises:
        ValueError: No whole number of beams above 0, a weight below 0, a bonus that is no number, or a language model
            over other labels.
    """
    check_search(logits.shape[2], blank, num_beams, language_model, language_model_weight, length_bonus)
    paths = torch.full(logits.shape[:2], blank)
    for path, row, length in zip(paths, logits, lengths.tolist(), strict=True):
        log_probs = row[:length].cpu().double().log_softmax(dim=-1)
        fusion = Fusion(language_model, language_model_weight, length_bonus)
        path[:length] = likeliest_path(log_probs, search(log_probs, blank, num_beams, fusion, least_log_prob), blank)
    return paths.to(logits.device)


def search(log_probs: Tensor, blank: int, num_beams: int, fusion: Fusion, least_log_prob: float) -> Labels:
    """The best labels of a row by `(T, V)`; arguments as of `beam_search`."""
    # Of each hypothesis log p of its paths that end in the blank, and of those that end in its last label.
    beams: dict[Labels, list[float]] = {(): [0.0, NEVER]}
    for step in log_probs:
        frame = step.tolist()
        least = min(least_log_prob, max(frame))
        begin = [label for label, log_prob in enumerate(frame) if log_prob >= least and label != blank]
        grown: dict[Labels, list[float]] = {}
        for labels, (in_blank, in_label) in beams.items():
            both = log_add(in_blank, in_label)
            entry = grown.setdefault(labels, [NEVER, NEVER])
            entry[0] = both + frame[blank]
            if labels:
                entry[1] = log_add(entry[1], in_label + frame[labels[-1]])
            for label in begin:
                # A label begins after another one, or again after the blank; next to itself it goes on.
                before = in_blank if labels and labels[-1] == label else both
                entry = grown.setdefault((*labels, label), [NEVER, NEVER])
                entry[1] = log_add(entry[1], before + frame[label])
        # Equals in the order of their labels, so that the answer does not hang on how they were found.
        ranked = sorted((-log_add(*ends) - fusion.score(labels), labels) for labels, ends in grown.items())
        beams = {labels: grown[labels] for _, labels in ranked[:num_beams]}
        fusion.keep(list(beams))
    return min((-log_add(*ends) - fusion.score(labels, is_whole=True), labels) for labels, ends in beams.items())[1]


def log_add(first: float, second: float) -> float:
    """log(exp(first) + exp(second))."""
    if first < second:
        first, second = second, first
    return first if second == NEVER else first + math.log1p(math.exp(second - first))


def likeliest_path(log_probs: Tensor, labels: Labels, blank: int) -> Tensor:
    """The label or blank of each step, `(T,)`: of all paths that give the labels the likeliest one by `(T, V)`."""
    states = torch.full((2 * len(labels) + 1,), blank)  # a blank before each label, and one behind the last
    states[1::2] = torch.tensor(labels, dtype=torch.long)
    leaps = torch.full(states.shape, NEVER, dtype=log_probs.dtype)  # over a blank, to another label
    leaps[2:][(states[2:] != blank) & (states[2:] != states[:-2])] = 0
    scores, came_from = torch.full_like(leaps, NEVER), []
    scores[0] = 0
    for step in log_probs[:, states]:
        ways = torch.stack([F.pad(scores, (back, 0), value=NEVER)[: len(states)] for back in range(3)])
        ways[2] += leaps
        best, back = ways.max(dim=0)
        scores = best + step
        came_from.append(back)
    state = len(states) - 1 if len(states) == 1 or scores[-1] > scores[-2] else len(states) - 2
    path = []
    for back in reversed(came_from):
        path.append(int(states[state]))
        state -= int(back[state])
    return torch.tensor(path[::-1], dtype=torch.long)


def check_search(
    vocab_size: int,
    blank: int,
    num_beams: int,
    language_model: LabelLanguageModel | None,
    language_model_weight: float,
    length_bonus: float,
) -> None:
    """Refuse what is no search; errors as of `beam_search`."""
    if not isinstance(num_beams, int) or num_beams < 1:
        raise ValueError(f"`num_beams` must be a whole number, at least 1, got {num_beams!r}")
    if not 0 <= language_model_weight < math.inf:
        raise ValueError(f"`language_model_weight` must be a number, at least 0, got {language_model_weight}")
    if not math.isfinite(length_bonus):
        raise ValueError(f"`length_bonus` must be a number, got {length_bonus}")
    if language_model is not None and (len(language_model.token_ids), language_model.blank) != (vocab_size, blank):
        raise ValueError(
            f"`language_model` is over {len(language_model.token_ids)} labels with the blank {language_model.blank}, "
            f"those of the recognizer are {vocab_size} with the blank {blank}"
        )


__all__ = ["LabelLanguageModel", "beam_search", "find_path"]
