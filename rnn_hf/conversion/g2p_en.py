"""The pronunciation of English words by g2p-en (Park and Kim): GRUs in an archive of NumPy."""

from rnn_hf.conversion.encoder_decoder import EncoderDecoder
from rnn_hf.conversion.formats import Choices, Format
from rnn_hf.conversion.reading import Checkpoint
from rnn_hf.conversion.seq2seq import notes_of, source_of, vocabulary_of
from rnn_hf.conversion.two_vocabularies import TwoVocabularies
from rnn_hf.errors import InputError


# Names in the file, and those of torch's modules. Gates are in torch's order.
NAMES = {
    f"{side[:3]}_{own}": f"{side}.{torchs}"
    for side in ("encoder", "decoder")
    for own, torchs in (
        ("emb", "embedding.weight"), ("w_ih", "rnn.weight_ih_l0"), ("w_hh", "rnn.weight_hh_l0"),
        ("b_ih", "rnn.bias_ih_l0"), ("b_hh", "rnn.bias_hh_l0"),
    )
} | {"fc_w": "decoder.fc_out.weight", "fc_b": "decoder.fc_out.bias"}  # fmt: skip
LETTERS = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
# The phonemes of the CMU dictionary; vowels bear a stress, none, first or second. It has one UW without.
VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
CONSONANTS = (
    "B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T", "TH", "V", "W",
    "Y", "Z", "ZH",
)  # fmt: skip
PHONEMES = ["<pad>", "<unk>", "<s>", "</s>"] + sorted(
    [*(f"{vowel}{stress}" for vowel in VOWELS for stress in (0, 1, 2)), *CONSONANTS, "UW"]
)
LONGEST = 21  # the package writes 20 phonemes at most, behind the one that starts them


def matches(checkpoint: Checkpoint) -> bool:
    return checkpoint.container == "npz" and {"enc_emb", "enc_w_hh", "dec_emb", "fc_w"} <= checkpoint.content.keys()


def read(checkpoint: Checkpoint, choices: Choices) -> EncoderDecoder:
    left = dict(checkpoint.content)
    tensors = {name: left.pop(own) for own, name in NAMES.items()}
    source = source_of(tensors | left, choices)
    if any(layer.cell != "gru" for layer in (*source.encoder, *source.decoder)):
        raise InputError("its layers are no GRUs")
    source.vocabulary = vocabulary_of(source, choices)
    if source.vocabulary is None and (len(source.read), len(source.written)) == (len(LETTERS), len(PHONEMES)):
        source.vocabulary = TwoVocabularies(LETTERS, PHONEMES, folds=True)
        source.longest = LONGEST
        source.notes.append(
            "It writes the phonemes of one word, and the package looks words up in a dictionary before it asks the "
            "network. As the package does, the tokenizer takes accents off and makes letters small."
        )
    source.notes += notes_of(source.vocabulary)
    return source


FORMAT = Format(
    "g2p-en", "the network of g2p-en", "Kyubyong Park and Jongseok Kim, Kyubyong/g2p (Apache-2.0)", matches, read,
)  # fmt: skip
