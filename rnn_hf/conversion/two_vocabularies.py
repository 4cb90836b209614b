"""The tokens that a network reads and those that it writes, as one tokenizer."""

import re
from dataclasses import dataclass

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rnn_hf.errors import InputError


# What tokens other than those of texts are called.
PADS = ("<pad>", "<PAD>", "[PAD]", "PAD", "<blank>")
STARTS = ("<s>", "<sos>", "<bos>", "<SOS>", "<BOS>", "<start>", "[START]", "SOS", "BOS")
ENDS = ("</s>", "<eos>", "<EOS>", "<end>", "[END]", "EOS")
UNKNOWNS = ("<unk>", "<UNK>", "[UNK]", "UNK")
LONGEST = 10_000  # tokens of a source with its padding
FILLER = "<filler>"  # padding of a source that the network reads
MARKS = "\ue000\ue001"  # for the end and for padding, one character each, while they are counted


@dataclass
class TwoVocabularies:
    """What the ids of a network that reads one thing and writes another stand for.

    Here both sides have one table of tokens: first those that are written, with the ids of the source, then those that
    are only read. A token that is in both has one id, whatever its ids were.

    Attributes:
        read, written: Tokens by id of the source.
        folds: Whether accents are taken off and letters are made small before they are looked up.
        length: How many tokens the network reads, those of padding among them; `None` for those of the text alone.
        unknown: Token that is read for one that is not there; by default one of `UNKNOWNS`, if there is one.
    """

    read: list[str]
    written: list[str]
    folds: bool = False
    length: int | None = None
    unknown: str | None = None

    def __post_init__(self) -> None:
        for tokens in (self.read, self.written):
            if "" in tokens:
                raise InputError(f"the vocabulary has an empty token, {tokens.index('')} from 0")
            if len(set(tokens)) < len(tokens):
                twice = next(token for index, token in enumerate(tokens) if token in tokens[:index])
                raise InputError(f"the vocabulary has {twice!r} twice")
        for names in (PADS, STARTS, ENDS):
            if not any(name in self.written for name in names):
                raise InputError(
                    f"what is written needs a token to pad, one to start and one to end: there is none of "
                    f"{', '.join(names)}"
                )
        self.unknown = self.unknown or first(UNKNOWNS, self.read)
        if self.length is None:
            return
        start, end, pad = (first(names, self.read) for names in (STARTS, ENDS, PADS))
        if end is None or pad is None or not is_of_characters(self.read):
            raise InputError("`source_length` needs tokens of single characters, one that ends and one that pads")
        if self.length < 2 + (start is not None):
            raise InputError(f"`source_length` ({self.length}) leaves no room for a text")
        if self.length > LONGEST:
            raise InputError(f"`source_length` ({self.length}) is more than {LONGEST}")
        self.read = [FILLER if token == pad else token for token in self.read]

    @property
    def tokens(self) -> list[str]:
        """By id here."""
        return list(dict.fromkeys([*self.written, *self.read]))

    @property
    def ids(self) -> dict[str, int]:
        """Here, by token."""
        return {token: index for index, token in enumerate(self.tokens)}

    @property
    def source_ids(self) -> list[int]:
        """Of each id that the source reads, the id here."""
        ids = self.ids
        return [ids[token] for token in self.read]

    @property
    def pad(self) -> str:
        """The token that pads what is written."""
        return first(PADS, self.written) or ""

    @property
    def start(self) -> str:
        """The token that starts it."""
        return first(STARTS, self.written) or ""

    @property
    def end(self) -> str:
        """The token that ends it."""
        return first(ENDS, self.written) or ""

    @property
    def form(self) -> list[str]:
        """What is read of a text `$A`, with the tokens that the vocabulary of what is read has to start and to end."""
        start, end = first(STARTS, self.read), first(ENDS, self.read)
        if self.length is not None:  # then the end and the padding come with the characters
            end = None
        return [part for part in (start, "$A", end) if part is not None]

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A tokenizer whose texts are what is read, and that decodes what is written."""
        ids = self.ids
        tokenizer = Tokenizer(models.WordLevel(ids, unk_token=self.unknown or ""))
        steps: list[normalizers.Normalizer] = []
        if self.folds:
            steps += [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
        if self.length is not None:
            steps += self._fill(self.length)
        if steps:
            tokenizer.normalizer = normalizers.Sequence(steps)
        if self.length is not None:
            one = Regex(rf"{re.escape(first(ENDS, self.read) or '')}|{FILLER}|[\s\S]")
            tokenizer.pre_tokenizer = pre_tokenizers.Split(one, "isolated")
        elif is_of_characters(self.read):
            tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        else:
            tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        named = [(part, ids[part]) for part in self.form if part != "$A"]
        tokenizer.post_processor = processors.TemplateProcessing(single=self.form, special_tokens=named)
        if is_of_characters(self.written):
            tokenizer.decoder = decoders.Fuse()  # without one, tokens are joined by spaces
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token=self.pad, bos_token=self.start, eos_token=self.end,
            padding_side="right", clean_up_tokenization_spaces=False,
            split_special_tokens=True,  # within words they are letters, as they were to the source
            model_input_names=["input_ids", "attention_mask"],
        )  # fmt: skip

    def _fill(self, length: int) -> list[normalizers.Normalizer]:
        """Steps that put the end and padding behind a text, and cut it to the length.

        A tokenizer's own padding is masked, and this one is read.
        """
        room = length - (first(STARTS, self.read) is not None)
        end = first(ENDS, self.read)
        return [
            normalizers.Replace(Regex(f"[{MARKS}]"), "\ufffd"),  # in a text they are unknown
            normalizers.Replace(behind(room - 1), ""),
            normalizers.Replace(Regex(r"\z"), MARKS[0] + MARKS[1] * room),
            normalizers.Replace(behind(room), ""),
            normalizers.Replace(MARKS[0], end or ""),
            normalizers.Replace(MARKS[1], FILLER),
        ]


def behind(count: int) -> Regex:
    """What stands behind so many characters."""
    return Regex(rf"(?<=\A[\s\S]{{{count}}})[\s\S]+")


def first(names: tuple[str, ...], tokens: list[str]) -> str | None:
    """The first of the names that is a token."""
    return next((name for name in names if name in tokens), None)


def is_of_characters(tokens: list[str]) -> bool:
    """Whether all tokens of texts are one character."""
    named = {*PADS, *STARTS, *ENDS, *UNKNOWNS}
    return all(len(token) == 1 or token in named or re.fullmatch("<.+>", token) for token in tokens)
