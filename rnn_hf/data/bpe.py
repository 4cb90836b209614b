"""A tokenizer of both languages of a translator: pieces of words by byte-pair encoding, saved for AutoTokenizer."""

import json
from collections.abc import Callable, Iterable
from random import Random

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rnn_hf.errors import InputError


PAD, START, END, UNKNOWN = SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
MOST_DRAWN = 8  # ways to split a word that are drawn at a time
SPACE = "▁"  # stands before each word, and is a space where a text has it


def build_bpe(
    lines: Iterable[str], vocab_size: int = 4000, min_frequency: int = 2, lowercase: bool = False
) -> PreTrainedTokenizerFast:
    """Build a tokenizer by byte-pair encoding (Sennrich et al., 2016) of characters.

    Words are what stands between spaces. `</s>` ends each text, of either language, and padding is on the right.

    Args:
        lines: Text of both languages.
        vocab_size: Most types, with the four special tokens `<pad>` (0), `<s>` (1), `</s>` (2) and `<unk>` (3).
        min_frequency: Rarer pairs are not joined.
        lowercase: Lower-case the text, in the tokenizer too.

    Raises:
        InputError: No text, or a `vocab_size` that cannot hold its characters.

    Example:

    >>> tokenizer = build_bpe(["the cat", "the dog", "die katze"], vocab_size=24)
    >>> tokenizer.decode(tokenizer("the  cat").input_ids, skip_special_tokens=True)
    'the cat'
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN, fuse_unk=True))
    steps: list[normalizers.Normalizer] = [normalizers.Replace(Regex(rf"[\s{SPACE}]+"), " "), normalizers.Strip()]
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Lowercase()] if lowercase else steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Metaspace(SPACE, prepend_scheme="always", split=True)
    texts = [line for line in lines if line.strip()]
    if not texts:
        raise InputError("no text to build a vocabulary from")
    characters = {SPACE} | {character for text in texts for character in tokenizer.normalizer.normalize_str(text)}
    least = len(SPECIALS) + len(characters - {" "})
    if vocab_size < least:
        raise InputError(
            f"`tokenizer_vocab_size` {vocab_size} is too small: the text has {least - len(SPECIALS)} characters, and "
            f"there are {len(SPECIALS)} special tokens"
        )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=list(SPECIALS), show_progress=False
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    end = (END, tokenizer.token_to_id(END))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[end]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=START, eos_token=END, unk_token=UNKNOWN,
        padding_side="right", clean_up_tokenization_spaces=False, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


class PieceDropout:
    """Words in other pieces each time: joins of byte-pair encoding are left out at random (Provilkov et al., 2020).

    A draw depends on nothing but its generator, so that a run that is resumed sees what it would have seen.

    Args:
        tokenizer: By `build_bpe`.
        texts: That will be split.
        probability: Of a join, each time it is next, to be left out.

    Raises:
        InputError: A tokenizer of another kind.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], probability: float):
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None or not isinstance(backend.model, models.BPE) or backend.normalizer is None:
            raise InputError("`bpe_dropout` needs a tokenizer that is built here: leave `tokenizer_name` out")
        merges = json.loads(backend.to_str())["model"]["merges"]
        self.ranks = {tuple(pair): rank for rank, pair in enumerate(merges)}
        self.ids, self.unknown, self.end = tokenizer.get_vocab(), tokenizer.unk_token_id, tokenizer.eos_token_id
        self.probability = probability
        numbers: dict[str, int] = {}
        normalize, split = backend.normalizer.normalize_str, backend.pre_tokenizer.pre_tokenize_str
        self.texts = [
            [numbers.setdefault(word, len(numbers)) for word, _ in split(normalize(text))] for text in texts
        ]  # fmt: skip
        self.words, self.counts = list(numbers), [0] * len(numbers)
        for text in self.texts:
            for number in text:
                self.counts[number] += 1

    def draw(self, generator: Random) -> list[list[int]]:
        """Ids of all texts, with the end token. A frequent word is split in a few ways, in others at each draw."""
        ways = [
            [self.split(word, generator.random) for _ in range(min(count, MOST_DRAWN))]
            for word, count in zip(self.words, self.counts, strict=True)
        ]
        random, rows = generator.random, []
        for text in self.texts:
            row: list[int] = []
            for number in text:
                own = ways[number]
                row += own[int(random() * len(own))]
            rows.append([*row, self.end])
        return rows

    def split(self, word: str, random: Callable[[], float]) -> list[int]:
        """Ids of the pieces of a word."""
        pieces, ranks = list(word), self.ranks
        while len(pieces) > 1:
            joins = [
                (rank, place)
                for place, pair in enumerate(zip(pieces, pieces[1:], strict=False))
                if (rank := ranks.get(pair)) is not None and random() >= self.probability
            ]
            if not joins:
                break
            _, place = min(joins)
            pieces[place : place + 2] = ["".join(pieces[place : place + 2])]
        ids = [self.ids.get(piece, self.unknown) for piece in pieces]
        # Several unknown characters in a row are one.
        return [own for own, before in zip(ids, [None, *ids], strict=False) if not own == before == self.unknown]
