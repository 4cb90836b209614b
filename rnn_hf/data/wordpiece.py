"""Tokenizers for labelled text: frequent words are whole, others are spelled by pieces that begin with `##`."""

from collections import Counter
from collections.abc import Iterable, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rnn_hf.data.tokenization import WORD
from rnn_hf.errors import InputError


PAD, UNKNOWN = "[PAD]", "[UNK]"
CONTINUED = "##"
# Stands for each character that the vocabulary lacks, so that such a character does not hide the rest of its word.
UNKNOWN_CHARACTER = "\N{REPLACEMENT CHARACTER}"

# What is in the vocabulary but cannot come from the text, as a word is cut in it: the mark of a continued piece, and
# special tokens. A pattern of words (`WORD`) does the same, as it splits punctuation off.
RESERVED = r"#(?=#)|\[(?=PAD\]|UNK\])"

PIECES = ("learned", "characters", "none")
LEARNED_PIECES = 1_000
# The time to find pieces grows with the cube of the length. The longest word of the English Web Treebank has 140.
LONGEST_WORD = 256


def build_wordpiece(
    texts: Iterable[str] | Iterable[Sequence[str]],
    vocab_size: int | None = None,
    min_frequency: int = 2,
    lowercase: bool = False,
    pieces: str = "learned",
    case_variants: bool = False,
) -> PreTrainedTokenizerFast:
    """Build a WordPiece tokenizer whose vocabulary has the frequent words of `texts` as a whole.

    Text is split into words as by the `word` tokenizer (`build_tokenizer`). Where `texts` are lists of words, the
    tokenizer splits at whitespace only, so that a word given with `is_split_into_words=True` stays one word: its first
    piece is the only one without `##`.

    Args:
        texts: Text to train on, or for tasks that label words, lists of words.
        vocab_size: Number of types in all; `None` keeps every word that is frequent enough.
        min_frequency: A word is whole if it occurs this often.
        lowercase: Lower-case the text, in the tokenizer too.
        pieces: What spells other words: `"characters"`; `"learned"`, which are characters and up to 1,000 longer
            pieces, learned from the words that are not whole; or `"none"`, where such a word is `[UNK]`.
        case_variants: A word is whole in lower case, capitalized and in capitals, if it occurs often enough in all
            forms together. For networks where such forms share a row (`rnn_hf.models.words_rnn`).

    Returns:
        A tokenizer with `[PAD]` (id 0) and `[UNK]` (id 1) that pads on the right and puts nothing around a text. No
        text has the id of a special token: `[PAD]` in a text is spelled as any other word. A character that `texts`
        lack becomes U+FFFD, inside a word too. A word longer than 256 characters is `[UNK]`.

    Raises:
        InputError: A wrong argument, no text, or a `vocab_size` that does not hold all characters.

    Example:

    >>> tokenizer = build_wordpiece(["the cats sat", "the cats sit"], pieces="characters")
    >>> tokenizer.tokenize("the cat sat")
    ['the', 'c', '##a', '##t', 's', '##a', '##t']
    """
    if pieces not in PIECES:
        raise InputError(f"`pieces` must be one of {', '.join(PIECES)}, got {pieces!r}")
    tokenizer = Tokenizer(models.WordPiece())
    tokenizer.normalizer = normalizers.Lowercase() if lowercase else None
    counts = _count_and_set_splitter(tokenizer, texts)
    characters = sorted({character for word in counts for character in word} | {UNKNOWN_CHARACTER})
    spelling = [] if pieces == "none" else [*characters, *(CONTINUED + character for character in characters)]
    num_learned = LEARNED_PIECES if pieces == "learned" else 0
    if case_variants:
        counts = _count_case_variants(counts, set(characters))
    vocabulary = _vocabulary(counts, [PAD, UNKNOWN, *spelling], vocab_size, min_frequency, num_learned)
    tokenizer.model = models.WordPiece(vocabulary, unk_token=UNKNOWN, max_input_chars_per_word=LONGEST_WORD)
    if spelling:
        tokenizer.normalizer = _normalizer(characters, lowercase)
    tokenizer.decoder = decoders.WordPiece(prefix=CONTINUED, cleanup=False)
    return _wrapped(tokenizer)


def _wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN,
        pad_token=PAD,
        padding_side="right",
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def _count_case_variants(counts: Counter[str], characters: set[str]) -> Counter[str]:
    """Forms of each word that differ in case alone, with the occurrences of all; none that needs other characters."""
    totals: Counter[str] = Counter()
    for word, count in counts.items():
        totals[word.lower()] += count
    forms = {
        form for word in totals for form in (word, word.capitalize(), word.upper()) if characters.issuperset(form)
    }
    return Counter({form: totals[form.lower()] for form in forms | counts.keys() if form.lower() in totals})


def _count_and_set_splitter(tokenizer: Tokenizer, texts: Iterable[str] | Iterable[Sequence[str]]) -> Counter[str]:
    """Occurrences of each word, and the tokenizer's way to split text into words, which the type of `texts` says."""
    units: Counter[str] = Counter()
    types = set()
    for text in texts:
        types.add(isinstance(text, str))
        units.update([text] if isinstance(text, str) else text)
    if len(types) > 1:
        raise InputError("`texts` must be either all strings or all lists of words")
    splitter = pre_tokenizers.Split(Regex(WORD if types == {True} else RESERVED), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), splitter])
    normalize = tokenizer.normalizer.normalize_str if tokenizer.normalizer else str
    counts: Counter[str] = Counter()
    for unit, count in units.items():
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normalize(unit)):
            counts[word] += count
    if not counts:
        raise InputError("`texts` has no word to build a vocabulary from")
    return counts


def _vocabulary(
    counts: Counter[str], fixed: list[str], vocab_size: int | None, min_frequency: int, num_learned: int
) -> dict[str, int]:
    """Ids of what every vocabulary has, of learned pieces, which get half of the room at most, and of frequent words.

    Frequent words come most frequent first, and equally frequent ones by alphabet, whatever the order of the texts.
    """
    room = len(counts) + num_learned if vocab_size is None else vocab_size - len(fixed)
    if room < 1:
        raise InputError(
            f"`vocab_size` must be at least {len(fixed) + 1}: {PAD}, {UNKNOWN}, what spells words, and one word; "
            f"got {vocab_size}"
        )
    num_learned = min(num_learned, room // 2)
    known = set(fixed)
    frequent = [word for word, count in counts.items() if count >= min_frequency and word not in known]
    whole = sorted(frequent, key=lambda word: (-counts[word], word))[: room - num_learned]
    learned = _learn(sorted(counts.keys() - set(whole)), fixed, num_learned) if num_learned else []
    return {token: index for index, token in enumerate(dict.fromkeys([*fixed, *learned, *whole]))}


def _learn(words: list[str], fixed: list[str], number: int) -> list[str]:
    """The pieces that WordPiece training puts together from characters within `words`."""
    tokenizer = Tokenizer(models.WordPiece())
    trainer = trainers.WordPieceTrainer(
        vocab_size=len(fixed) + number,
        min_frequency=2,
        continuing_subword_prefix=CONTINUED,
        show_progress=False,
        # As special tokens they have their ids in this order. Otherwise the order is random, and with it what is
        # learned where two pieces are equally frequent.
        special_tokens=fixed,
    )
    tokenizer.train_from_iterator(words, trainer)
    return sorted(tokenizer.get_vocab().keys() - set(fixed))


def _normalizer(characters: list[str], lowercase: bool) -> normalizers.Normalizer:
    codes = "".join(rf"\x{{{ord(character):x}}}" for character in characters)
    unknown = normalizers.Replace(Regex(rf"[^\s{codes}]"), UNKNOWN_CHARACTER)
    return normalizers.Sequence([normalizers.Lowercase(), unknown]) if lowercase else unknown
