"""The words behind the ids of a checkpoint, from its own file, a list, or the corpus that it was trained on."""

import io
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from rnn_hf.conversion.pickles import NO_NAMES, Inert, load
from rnn_hf.conversion.reading import read_checkpoint, read_json
from rnn_hf.data.tokenization import END, SPACE, UNKNOWN, build_tokenizer
from rnn_hf.errors import InputError


ENDS = (END, "</s>", "<sos/eos>", "<EOS>", "[EOS]")
UNKNOWNS = (UNKNOWN, "<UNK>", "[UNK]")
CORPUS_FILES = ("train.txt", "valid.txt", "test.txt")  # of word_language_model and awd-lstm-lm
PADDING = "<pad>"
FILLER = "xxfake"  # by which fastai fills a vocabulary up to a multiple of 8


@dataclass
class Vocabulary:
    """What each id stands for.

    Attributes:
        tokens: By id.
        kind: Of `build_tokenizer`: `whitespace` or `char`; the empty string takes characters where all tokens are.
        ends: Names that the token between two texts may have.
        unknowns: Names that the token for unknown words may have.
    """

    tokens: list[str] = field(default_factory=list)
    kind: str = "whitespace"
    ends: tuple[str, ...] = ENDS
    unknowns: tuple[str, ...] = UNKNOWNS

    @property
    def end(self) -> str | None:
        """The token between two texts, if there is one."""
        return next((token for token in self.ends if token in self.tokens), None)

    @property
    def unknown(self) -> str | None:
        """The token for unknown words, if there is one."""
        return next((token for token in self.unknowns if token in self.tokens), None)

    @property
    def is_of_characters(self) -> bool:
        """Whether every token but names such as `<pad>` is one character."""
        return all(len(token) == 1 or re.fullmatch("<.+>", token) for token in self.tokens)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A tokenizer of this package with these ids.

        Raises:
            InputError: A token is there twice, or is empty.
        """
        kind, ids = self.kind or ("char" if self.is_of_characters else "whitespace"), dict[str, int]()
        named = {token for token in (self.end, self.unknown) if token is not None}
        for index, token in enumerate(self.tokens):
            if not token:
                raise InputError(f"the vocabulary has an empty token, {index} from 0")
            text = token if kind == "char" or token in named else SPACE + token
            if text in ids and token != FILLER:
                raise InputError(f"the vocabulary has {token!r} twice, as {ids[text]} and {index}")
            ids[text] = index
        state = json.loads(build_tokenizer(["a"], kind).backend_tokenizer.to_str())
        state["model"] |= {"vocab": ids, "unk_token": self.unknown or UNKNOWN}
        # `<unk>` is a word of texts and no special token, as in `build_tokenizer`.
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        state["added_tokens"] = [
            {"id": ids[token], "content": token, "special": token == self.end} | flags for token in sorted(named)
        ]
        for part in state["decoder"]["decoders"]:
            for name, own in ((UNKNOWN, self.unknown or UNKNOWN), (END, self.end or END)):
                if part.get("pattern") == {"String": name}:
                    space = part["content"].removesuffix(name)
                    part |= {"pattern": {"String": own}, "content": space + own}
        return PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(json.dumps(state)),
            eos_token=self.end,
            bos_token=self.end,
            pad_token=self.end,
            padding_side="left",
            clean_up_tokenization_spaces=False,
            model_input_names=["input_ids", "attention_mask"],
        )


def read_vocabulary(path: Path, like: Vocabulary) -> Vocabulary:
    """A vocabulary from a file of its own: a token a line, JSON, a pickled list, or a corpus that torch.save wrote.

    Args:
        path: Of the file.
        like: How texts become tokens.

    Raises:
        FileNotFoundError: There is no file.
        InputError: It is none of these.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    data = path.read_bytes()
    if data[:2] == b"PK" or b"\x6c\xfc\x9c\x46\xf9" in data[:32]:  # of torch.save, either form
        return replace(like, tokens=_tokens_of(read_checkpoint(path).content, path))
    if data[:1] in b"\x80(]}c" and data.endswith(b"."):
        return replace(like, tokens=_tokens_of(load(io.BytesIO(data), NO_NAMES, str(path)), path))
    if data.lstrip()[:1] in (b"[", b"{") and data.rstrip()[-1:] in (b"]", b"}") and b'"' in data:
        return replace(like, tokens=_tokens_of(read_json(data, str(path)), path))
    try:
        lines = data.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error}") from error
    return replace(like, tokens=lines[:-1] if lines[-1] == "" else lines)


def _tokens_of(content: Any, path: Path) -> list[str]:
    """The tokens by id of a list, of a dictionary of ids, or of an object that has one of these."""
    for name in ("dictionary", "idx2word", "itos", "vocab"):
        if isinstance(content, Inert) and name in content.attributes:
            return _tokens_of(content.attributes[name], path)
    if isinstance(content, dict) and content and all(type(value) is int for value in content.values()):
        by_id = {value: key for key, value in content.items()}
        by_id = by_id if 0 in by_id else {0: PADDING} | by_id  # Keras counts from 1 on
        if sorted(by_id) == list(range(len(by_id))):
            content = [by_id[index] for index in range(len(by_id))]
    if not isinstance(content, list) or not content or not all(isinstance(token, str) for token in content):
        raise InputError(f"{path} holds no vocabulary: a list of words, or words with their ids from 0 on")
    return content


def vocabulary_of_corpus(folder: Path, like: Vocabulary) -> Vocabulary:
    """The words of a corpus in the order in which they appear, with `<eos>` after each line.

    Args:
        folder: With train.txt, valid.txt and test.txt.
        like: How texts become tokens.

    Raises:
        FileNotFoundError: A file is missing.
        InputError: A file is not UTF-8.
    """
    words: dict[str, None] = {}
    for name in CORPUS_FILES:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no file {folder / name}: `corpus` is a folder with {', '.join(CORPUS_FILES)}")
        try:
            with (folder / name).open(encoding="utf-8") as file:
                for line in file:
                    words |= dict.fromkeys([*line.split(), END])
        except UnicodeDecodeError as error:
            raise InputError(f"{folder / name} is not UTF-8 text: {error}") from error
    return replace(like, tokens=list(words))
