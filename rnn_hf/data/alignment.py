"""Labels of words on the pieces of a tokenizer, and back; rows as transformers' Trainer takes them."""

import warnings
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from rnn_hf.errors import InputError


IGNORED = -100  # a label that transformers' losses and metrics leave out


def first_pieces(word_ids: Sequence[int | None]) -> dict[int, int]:
    """Of each word of a text the position of its first piece; `word_ids` is as of a transformers encoding.

    A word that was cut off, or of which the tokenizer leaves nothing, has none.

    >>> first_pieces([None, 0, 1, 1, 3, None])
    {0: 1, 1: 2, 3: 4}
    """
    positions: dict[int, int] = {}
    for position, word in enumerate(word_ids):
        if word is not None:
            positions.setdefault(word, position)
    return positions


def labels_of_pieces(word_ids: Sequence[int | None], labels: Sequence[int]) -> list[int]:
    """Labels of words as labels of pieces: at the first piece of each word, -100 elsewhere.

    >>> labels_of_pieces([0, 1, 1, 2], [7, 8, 9])
    [7, 8, -100, 9]
    """
    aligned = [IGNORED] * len(word_ids)
    for word, position in first_pieces(word_ids).items():
        aligned[position] = labels[word]
    return aligned


def labels_of_words(word_ids: Sequence[int | None], predictions: Sequence[int], num_words: int) -> list[int | None]:
    """The inverse: of predictions for pieces those at first pieces, one a word; `None` for a word without a piece.

    >>> labels_of_words([0, 1, 1, 2], [7, 8, 5, 9], num_words=4)
    [7, 8, 9, None]
    """
    positions = first_pieces(word_ids)
    return [predictions[positions[word]] if word in positions else None for word in range(num_words)]


def encode_rows(
    rows: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
) -> list[dict[str, Any]]:
    """Rows of `LabelledData` as `input_ids` and `labels`, which `Trainer` and the collators of transformers take.

    Rows of texts go with `DataCollatorWithPadding`, rows of words with `DataCollatorForTokenClassification`; these
    pad, and make the attention mask.

    Args:
        rows: `text` or `words`, and `labels` if there are any.
        tokenizer: A tokenizer of the `tokenizers` library.
        max_length: Longer texts are cut to this number of tokens. A warning counts them, and the words whose labels
            are lost, by this or because the tokenizer leaves nothing of a word.

    Raises:
        InputError: The tokenizer is a slow one, which does not say which piece is of which word, or `max_length` is
            below 1.
    """
    if not tokenizer.is_fast:
        raise InputError("`tokenizer` must be a fast one (of the `tokenizers` library)")
    if max_length is not None and max_length < 1:
        raise InputError(f"`max_length` must be at least 1, got {max_length}")
    if not rows:
        return []
    is_words = "words" in rows[0]
    texts = [row["words" if is_words else "text"] for row in rows]
    encodings = tokenizer(texts, is_split_into_words=is_words)
    num_long = sum(len(ids) > max_length for ids in encodings["input_ids"]) if max_length else 0
    if num_long:
        encodings = tokenizer(texts, is_split_into_words=is_words, truncation=True, max_length=max_length)
        # The tokenizer would keep the limit for the file that it is saved to.
        tokenizer.backend_tokenizer.no_truncation()
    encoded = []
    num_lost = 0
    for index, row in enumerate(rows):
        features = {"input_ids": encodings["input_ids"][index]}
        if "labels" in row:
            features["labels"] = row["labels"]
        if "labels" in row and is_words:
            word_ids = encodings.word_ids(index)
            features["labels"] = labels_of_pieces(word_ids, row["labels"])
            num_lost += len(row["words"]) - len(first_pieces(word_ids))
        encoded.append(features)
    if num_long or num_lost:
        cut = (
            f"{num_long:,} of {len(rows):,} texts have more than {max_length} tokens and were cut" if num_long else ""
        )
        lost = f"{num_lost:,} words have no token, so their labels do not count" if num_lost else ""
        warnings.warn("; ".join(filter(None, [cut, lost])), stacklevel=2)
    return encoded
