"""Vocabularies and tokenizers: whitespace, word and character level, saved so that AutoTokenizer needs no code."""

import difflib
from collections import Counter
from collections.abc import Iterable
from itertools import chain, repeat

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rnn_hf.errors import InputError
from rnn_hf.files import check_local


UNKNOWN, END = "<unk>", "<eos>"
KINDS = ("whitespace", "word", "char")
SPACE = "▁"

# A number with its points and commas, a word with its inner apostrophes and hyphens, or one other character;
# each with the mark of a space before it, if there is one.
WORD = rf"{SPACE}?\d+(?:[.,]\d+)+|{SPACE}?\w+(?:['’\-]\w+)*|{SPACE}?[^\w{SPACE}]"


def build_tokenizer(
    lines: Iterable[str],
    kind: str = "whitespace",
    vocab_size: int | None = None,
    min_frequency: int = 1,
    lowercase: bool = False,
) -> PreTrainedTokenizerFast:
    """Build a tokenizer whose vocabulary is the most frequent tokens of `lines`.

    Every word-level token but one that follows its neighbour without a space carries the space before it, so that
    `decode(a + b) == decode(a) + decode(b)`: what generate adds reads on from the prompt with the right spaces. A
    whole text therefore decodes with one leading space.

    Args:
        lines: Text, one line (sentence or paragraph) each.
        kind: `"whitespace"` for text that is tokenised already, such as Penn Treebank; `"word"` splits
            punctuation off, reversibly; `"char"` makes every character a token.
        vocab_size: Number of types with `<eos>` and `<unk>`; `None` keeps all.
        min_frequency: Fewer occurrences than this make a type unknown.
        lowercase: Lower-case the text, in the tokenizer too.

    Returns:
        A tokenizer with `<eos>` (id 0) as end, begin and padding token, padding on the left, and the word `<unk>` (id
        1; see `unknown_id`).

    Raises:
        InputError: An unknown `kind`, a `vocab_size` below 3, or no text.

    Example:

    >>> tokenizer = build_tokenizer(["the cat sat", "the dog"], vocab_size=4)
    >>> tokenizer("the cat ran")["input_ids"]
    [2, 3, 1]
    >>> tokenizer.decode([2, 3]) + tokenizer.decode([1, 0])
    ' the cat <unk> <eos>'
    """
    if kind not in KINDS:
        raise InputError(f"`kind` must be one of {', '.join(KINDS)}, got {kind!r}")
    if vocab_size is not None and vocab_size < 3:
        raise InputError(f"`vocab_size` must be at least 3: {END}, {UNKNOWN} and a token; got {vocab_size}")
    tokenizer = Tokenizer(models.WordLevel({UNKNOWN: 0}, unk_token=UNKNOWN))
    tokenizer.normalizer = _normalizer(kind, lowercase)
    tokenizer.pre_tokenizer = _pre_tokenizer(kind)
    counts = _count(lines, tokenizer, kind, lowercase)
    if not counts:
        raise InputError("no text to build a vocabulary from")
    vocabulary = _vocabulary(counts, vocab_size, min_frequency)
    tokenizer.model = models.WordLevel(vocabulary, unk_token=UNKNOWN)
    # Not special, or skip_special_tokens would take a word out of text; an `unk_token` is special once it is loaded.
    tokenizer.add_tokens([AddedToken(UNKNOWN, special=False, normalized=False)])
    tokenizer.decoder = _decoder(kind)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        bos_token=END,
        pad_token=END,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def unknown_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id of `<unk>`, the word for unknown words, or of another tokenizer's own token for them, if it has one."""
    return tokenizer.get_vocab().get(UNKNOWN, tokenizer.unk_token_id)


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    """Any tokenizer by name or path; it needs an end token, which closes each line of a corpus.

    Raises:
        InputError: There is no such tokenizer, or it has no end token.
    """
    if close := difflib.get_close_matches(name_or_path, KINDS, n=1):
        raise InputError(f"there is no tokenizer {name_or_path!r}; did you mean {close[0]!r}?")
    check_local(name_or_path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        kinds = ", ".join(KINDS)
        raise InputError(f"the tokenizer {name_or_path!r} is none of {kinds} and does not load: {reason}") from error
    if tokenizer.eos_token_id is None:
        raise InputError(f"the tokenizer {name_or_path!r} has no eos_token, which must close each line")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    _encode_bare(tokenizer, name_or_path)
    return tokenizer


def _encode_bare(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Have a tokenizer put nothing around a text, and take the end token for the one before it.

    So it is in the stream that a model is trained on: what prompts had besides would be tokens it has never seen.
    """
    tokenizer.bos_token = tokenizer.eos_token
    for flag in ("add_bos_token", "add_eos_token"):
        if getattr(tokenizer, flag, False):
            setattr(tokenizer, flag, False)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and backend.num_special_tokens_to_add(False):
        # None is not taken; an empty sequence does nothing.
        backend.post_processor = processors.Sequence([])
    if tokenizer("a")["input_ids"] != tokenizer("a", add_special_tokens=False)["input_ids"]:
        raise InputError(
            f"the tokenizer {name!r} puts tokens around each text: switch that off, as lines form one stream"
        )


def start_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that stands before a text wherever one is scored or begun: the begin token, or the end token.

    In models that this package trained both are the same: the end of an unseen line before the text.
    """
    return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id


def vocab_size_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """Rows that an embedding needs: one more than the highest id, as ids may have holes."""
    return max(tokenizer.get_vocab().values()) + 1


def encode_stream(lines: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Encode lines into one stream of ids, int64 `(tokens,)`, each line closed by the end token.

    The ids are those of `tokenizer(line)`; for a whitespace tokenizer of this package, whose lines need only a
    look-up, they are made in Python at several million tokens a second.

    >>> lines = ["the cat", "the dog"]
    >>> encode_stream(lines, build_tokenizer(lines)).tolist()
    [2, 3, 0, 2, 4, 0]
    """
    end = tokenizer.eos_token_id
    if _is_plain_whitespace(tokenizer):
        ids = {token.removeprefix(SPACE): index for token, index in tokenizer.get_vocab().items()}
        words = (_words(line) + [END] for line in lines)
        stream = map(ids.get, chain.from_iterable(words), repeat(unknown_id(tokenizer)))
        return np.fromiter(stream, dtype=np.int64)
    encoded = tokenizer(list(lines), add_special_tokens=False, return_attention_mask=False)["input_ids"]
    return np.fromiter(chain.from_iterable(line + [end] for line in encoded), dtype=np.int64)


def _words(line: str) -> list[str]:
    # The mark is the tokenizer's own space, so in a text it is one; the named tokens are found inside words too.
    for text, spaced in ((SPACE, " "), (UNKNOWN, f" {UNKNOWN} "), (END, f" {END} ")):
        line = line.replace(text, spaced)
    return line.split()


def _normalizer(kind: str, lowercase: bool) -> normalizers.Normalizer | None:
    # str.split takes the control characters for spaces too; as a space the mark would join the token it stands in.
    steps: list[normalizers.Normalizer] = []
    if kind != "char":
        steps.append(normalizers.Replace(Regex(rf"[\x1c-\x1f{SPACE}]"), " "))
    if lowercase:
        steps.append(normalizers.Lowercase())
    return normalizers.Sequence(steps) if steps else None


def _pre_tokenizer(kind: str) -> pre_tokenizers.PreTokenizer:
    if kind == "char":
        return pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    steps = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(SPACE, prepend_scheme="always", split=False)]
    if kind == "word":
        steps.append(pre_tokenizers.Split(Regex(WORD), "isolated"))
    return pre_tokenizers.Sequence(steps)


def _decoder(kind: str) -> decoders.Decoder:
    space = "" if kind == "char" else " "
    named = [decoders.Replace(token, space + token) for token in (UNKNOWN, END)]
    return decoders.Sequence([decoders.Replace(SPACE, " "), *named, decoders.Fuse()])


def _count(lines: Iterable[str], tokenizer: Tokenizer, kind: str, lowercase: bool) -> Counter:
    if kind == "whitespace" and not lowercase:
        return Counter(SPACE + word for line in lines for word in _words(line))
    normalize = tokenizer.normalizer.normalize_str if tokenizer.normalizer else str
    split = tokenizer.pre_tokenizer.pre_tokenize_str
    return Counter(token for line in lines for token, _ in split(normalize(line)))


def _vocabulary(counts: Counter, size: int | None, min_frequency: int) -> dict[str, int]:
    for named in (UNKNOWN, END, SPACE + UNKNOWN, SPACE + END):
        counts.pop(named, None)
    frequent = counts.most_common(None if size is None else size - 2)
    types = [token for token, count in frequent if count >= min_frequency]
    return {token: index for index, token in enumerate([END, UNKNOWN, *types])}


def _is_plain_whitespace(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether ids are a look-up of whitespace-separated words: this package's own kind, nothing added."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not isinstance(backend.model, models.WordLevel):
        return False
    plain = (_normalizer("whitespace", False), _pre_tokenizer("whitespace"))
    return [repr(backend.normalizer), repr(backend.pre_tokenizer)] == [repr(part) for part in plain] and set(
        tokenizer.get_added_vocab()
    ) == {UNKNOWN, END}
