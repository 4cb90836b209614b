"""A tokenizer of both languages of a translator: pieces of words by byte-pair encoding, saved for AutoTokenizer."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from rnn_hf.errors import InputError


PAD, START, END, UNKNOWN = SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
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
