"""Labels of CTC and text: characters or whole words."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from transformers import PreTrainedTokenizer
from transformers.utils import ModelOutput


BLANK, UNKNOWN, DELIMITER = "<pad>", "<unk>", "|"
Offset = dict[str, str | int]


@dataclass
class RNNCTCTokenizerOutput(ModelOutput):
    """A text, and where its labels and words were heard, `start_offset` to before `end_offset` in output steps.

    Attributes:
        text: The text.
        char_offsets: `{"char", "start_offset", "end_offset"}` of each label.
        word_offsets: `{"word", "start_offset", "end_offset"}` of each word.
    """

    text: str | None = None
    char_offsets: list[Offset] | None = None
    word_offsets: list[Offset] | None = None


class RNNCTCTokenizer(PreTrainedTokenizer):
    r"""A tokenizer for [`RNNForCTC`]: `decode` merges repeated labels and then drops the blank (Graves et al., 2006).

    The blank is the padding token. Text to encode is taken word by word, so white space at its ends or in a row does
    not count, and what is not in the vocabulary is `<unk>`. Labels of a transcript, whose double letters are no
    repeats, are decoded with `group_tokens=False`.

    Args:
        vocab_file: Path of a `vocab.json`, token to id without gaps, or its content; `<pad>` is 0.
        unit: `"characters"`, with `"|"` between words, or `"words"`.
        unk_token, pad_token: Names of the unknown token and the blank.

    Raises:
        ValueError: Another unit, ids with gaps, a blank that is not 0, no unknown token.

    Example:

    >>> from rnn_hf import RNNCTCTokenizer
    >>> tokenizer = RNNCTCTokenizer.build(["three six", "six"], unit="characters")
    >>> tokenizer("three").input_ids
    [8, 4, 6, 3, 3]
    >>> tokenizer.decode([8, 8, 4, 0, 6, 3, 0, 3, 3])
    'three'
    """

    vocab_files_names = {"vocab_file": "vocab.json"}
    model_input_names = ["input_ids", "attention_mask"]
    replace_word_delimiter_char = " "  # what the speech pipeline takes for the end of a word

    def __init__(
        self,
        vocab_file: str | os.PathLike | dict[str, int],
        unit: Literal["characters", "words"] = "characters",
        unk_token: str = UNKNOWN,
        pad_token: str = BLANK,
        **kwargs: Any,
    ):
        if unit not in ("characters", "words"):
            raise ValueError(f"`unit` must be 'characters' or 'words', got {unit!r}")
        if isinstance(vocab_file, dict):
            self.vocab = dict(vocab_file)
        else:
            with open(vocab_file, encoding="utf-8") as file:
                self.vocab = json.load(file)
        if sorted(self.vocab.values()) != list(range(len(self.vocab))):
            raise ValueError("`vocab_file` must number its tokens from 0 without gaps")
        if self.vocab.get(str(pad_token)) != 0 or str(unk_token) not in self.vocab:
            raise ValueError(f"`vocab_file` must have {str(pad_token)!r} as 0, the blank, and {str(unk_token)!r}")
        self.unit = unit
        self.tokens = {index: token for token, index in self.vocab.items()}
        super().__init__(unit=unit, unk_token=unk_token, pad_token=pad_token, special_tokens_pattern="none", **kwargs)

    @classmethod
    def build(cls, texts: Iterable[str], unit: Literal["characters", "words"] = "characters") -> "RNNCTCTokenizer":
        """A tokenizer whose vocabulary is what occurs in transcripts, in alphabetical order.

        Raises:
            ValueError: There is nothing in the texts; another unit.
        """
        words = {word for text in texts for word in split_words(text, unit)}
        found = words if unit == "words" else set("".join(words))
        if not found:
            raise ValueError("`texts` must have at least one word")
        tokens = [BLANK, UNKNOWN] + [DELIMITER] * (unit != "words") + sorted(found - {BLANK, UNKNOWN})
        return cls({token: index for index, token in enumerate(tokens)}, unit=unit)

    @property
    def vocab_size(self) -> int:
        """Number of labels with the blank, without tokens that were added."""
        return len(self.vocab)

    def get_vocab(self) -> dict[str, int]:
        """Ids by token."""
        return self.vocab | self._added_tokens_encoder

    def tokenize(self, text: str, **kwargs: Any) -> list[str]:
        """Characters, with `"|"` between words, or words; a text cannot contain a blank."""
        words = split_words(text, self.unit)
        pieces = words if self.unit == "words" else list(DELIMITER.join(words))
        known = self.vocab.keys() - {self.pad_token}
        return [piece if piece in known else self.unk_token for piece in pieces]

    def _convert_token_to_id(self, token: str) -> int:
        return self.vocab.get(token, self.vocab[self.unk_token])

    def _convert_id_to_token(self, index: int) -> str:
        return self.tokens.get(index, self.unk_token)

    def collapse(self, ids: Sequence[int], last: int | None = None, group_tokens: bool = True) -> list[tuple]:
        """Labels of a path: repeats merged, then the blank dropped.

        Args:
            ids: The label of each step.
            last: That of the step before, if the path goes on from there.
            group_tokens: Whether repeats are merged.

        Returns:
            `(id, first step, step after the last)` of each label; a repeat of `last` is none.
        """
        if not group_tokens:
            return [(index, step, step + 1) for step, index in enumerate(ids) if index != self.pad_token_id]
        labels, start = [], 0
        for index, run in groupby(ids):
            end = start + sum(1 for _ in run)
            if index != self.pad_token_id and not (start == 0 and index == last):
                labels.append((index, start, end))
            start = end
        return labels

    def join(self, ids: Iterable[int], gap: str | None = None) -> tuple[str, str | None]:
        """The text of labels, without white space at its ends or in a row.

        Args:
            ids: Labels, collapsed.
            gap: What the call for the labels before returned; `None` at the start.

        Returns:
            The text that is added, and what stands before the next character or word.
        """
        text = ""
        for token in self.convert_ids_to_tokens(list(ids)):
            if token == DELIMITER and self.unit == "characters":
                gap = None if gap is None else " "
            else:
                text += (gap or "") + token
                gap = " " if self.unit == "words" else ""
        return text, gap

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of the tokens of a path, as `decode` of their ids."""
        return self._decode(self.convert_tokens_to_ids(tokens))

    def _decode(
        self,
        token_ids: int | list[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        group_tokens: bool = True,
        output_char_offsets: bool = False,
        output_word_offsets: bool = False,
        **kwargs: Any,
    ) -> Any:
        ids = [token_ids] if isinstance(token_ids, int) else [int(index) for index in token_ids]
        labels = self.collapse(ids, group_tokens=group_tokens)
        if skip_special_tokens:  # after repeats are merged, which the blank keeps apart
            labels = [label for label in labels if label[0] != self.unk_token_id]
        text, _ = self.join(index for index, _, _ in labels)
        if not output_char_offsets and not output_word_offsets:
            return text
        chars = [
            {"char": self._spoken(index), "start_offset": start, "end_offset": end} for index, start, end in labels
        ]
        words = self._get_word_offsets(chars) if output_word_offsets else None
        return RNNCTCTokenizerOutput(text, chars if output_char_offsets else None, words)

    def _spoken(self, index: int) -> str:
        token = self.convert_ids_to_tokens(index)
        return " " if token == DELIMITER and self.unit == "characters" else token

    def _get_word_offsets(self, offsets: list[Offset], word_delimiter_char: str = " ") -> list[Offset]:
        """Those of words, from those of labels; the speech pipeline calls it by this name."""
        if self.unit == "words":
            groups = [[offset] for offset in offsets]
        else:
            runs = groupby(offsets, key=lambda offset: offset["char"] == word_delimiter_char)
            groups = [list(run) for is_gap, run in runs if not is_gap]
        return [
            {
                "word": "".join(str(offset["char"]) for offset in group),
                "start_offset": group[0]["start_offset"],
                "end_offset": group[-1]["end_offset"],
            }
            for group in groups
        ]

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Write `vocab.json` into a folder; returns its path."""
        path = os.path.join(save_directory, (f"{filename_prefix}-" if filename_prefix else "") + "vocab.json")
        with open(path, "w", encoding="utf-8") as file:
            file.write(json.dumps(self.vocab, indent=2, ensure_ascii=False) + "\n")
        return (path,)


def split_words(text: str, unit: str) -> list[str]:
    """The words of a text; the mark between words is white space where labels are characters."""
    return (text if unit == "words" else text.replace(DELIMITER, " ")).split()


__all__ = ["RNNCTCTokenizer"]
