"""The pronunciation of Persian words by g2p_fa (Dehghani): two layers of LSTM on each side, in a state dict."""

from rnn_hf.conversion import seq2seq
from rnn_hf.conversion.encoder_decoder import EncoderDecoder
from rnn_hf.conversion.formats import Choices, Format
from rnn_hf.conversion.reading import Checkpoint
from rnn_hf.conversion.seq2seq import UNSEEN, notes_of, tensors_in
from rnn_hf.conversion.two_vocabularies import TwoVocabularies


SPECIALS = ["<pad>", "<s>", "</s>"]
UNUSED = "<unused>"  # both embeddings have a row more than there are tokens
LETTERS = [*SPECIALS, *"ءآئابتثجحخدذرزسشصضطظعغفقلمنهوُِپچژکگی", UNUSED]
PHONEMES = [*SPECIALS, *"bdefhijklmnopqstuvxzæɒɡɾʃʒʔʰː", UNUSED]
NAMES = ("encoder.embedding.weight", "decoder.embedding.weight", "decoder.fc_out.weight")
LENGTH = 30  # tokens of a word and of its phonemes, with what starts, ends and pads them


def matches(checkpoint: Checkpoint) -> bool:
    tensors, _ = tensors_in(checkpoint)
    rows = [len(tensors[name]) for name in NAMES if name in tensors and tensors[name].ndim]
    return rows == [len(LETTERS), len(PHONEMES), len(PHONEMES)] and seq2seq.matches(checkpoint)


def read(checkpoint: Checkpoint, choices: Choices) -> EncoderDecoder:
    source = seq2seq.read(checkpoint, choices)
    if source.vocabulary is None and (len(source.read), len(source.written)) == (len(LETTERS), len(PHONEMES)):
        # Its id of a letter that it does not know is that of the end.
        source.vocabulary = TwoVocabularies(LETTERS, PHONEMES, length=LENGTH, unknown="</s>")
        source.longest = LENGTH
        source.notes = [UNSEEN, "It writes the phonemes of one word.", *notes_of(source.vocabulary)]
    return source


FORMAT = Format(
    "g2p-fa", "the network of g2p_fa", "Mohamadhosein Dehghani, de-mh/g2p_fa (MIT)", matches, read,
)  # fmt: skip
