"""From a file of others to a repository of the Hub, compared with the source's arithmetic on the way."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError

from rnn_hf.conversion import (
    awd_lstm,
    fastai,
    flair,
    g2p_en,
    g2p_fa,
    keras,
    mikolov,
    seq2seq,
    state_dict,
    tf1,
    word_language_model,
)
from rnn_hf.conversion.arithmetic import outputs_of
from rnn_hf.conversion.card import Conversion, render_card
from rnn_hf.conversion.encoder_decoder import EncoderDecoder
from rnn_hf.conversion.formats import Choices, Format
from rnn_hf.conversion.reading import Checkpoint, read_checkpoint
from rnn_hf.conversion.source import Source
from rnn_hf.conversion.vocabulary import Vocabulary, read_vocabulary, vocabulary_of_corpus
from rnn_hf.errors import InputError
from rnn_hf.evaluation import evaluate, stream_for
from rnn_hf.files import sha256_of, write_into, write_json, write_text
from rnn_hf.hub.cards import name_of
from rnn_hf.models import RNNConfig, RNNForCausalLM, RNNForConditionalGeneration, RNNModel, RNNSeq2SeqConfig


# From the most particular to the most general: the first that a file is of counts.
FORMATS: dict[str, Format] = {
    kind.FORMAT.name: kind.FORMAT
    for kind in (
        flair, fastai, awd_lstm, word_language_model, keras, tf1, mikolov, g2p_en, g2p_fa, seq2seq, state_dict,
    )
}  # fmt: skip
MODELS: dict[str, Any] = {made.__name__: made for made in (RNNModel, RNNForCausalLM, RNNForConditionalGeneration)}
ROWS, STEPS = 2, 24  # of the comparison
LIMIT = 1e-6  # of the difference in float64
Network = Source | EncoderDecoder
Config = RNNConfig | RNNSeq2SeqConfig


def convert(
    file: str | Path,
    out: str | Path,
    format: str | None = None,
    vocab: str | Path | None = None,
    corpus: str | Path | None = None,
    license: str | None = None,
    check: str | None = None,
    approximate: bool = False,
    backbone: bool = False,
    reads_backward: bool = False,
    hidden_act: str | None = None,
    recurrent_activation: str | None = None,
    forget_bias: float | None = None,
    embedding: str | None = None,
    head: str | None = None,
    target_vocab: str | Path | None = None,
    source_length: int | None = None,
) -> Conversion:
    """Convert a checkpoint of another project into a folder that is a repository of the Hub.

    Nothing that the file holds is run. The model is saved, loaded and compared with the source's arithmetic in float64
    NumPy; the difference stands in the card and in conversion.json.

    Args:
        file: The checkpoint.
        out: Folder to write to, new or empty; the card calls the model by its path.
        format: One of `FORMATS`; `None` finds it by what the file holds.
        vocab: File of the vocabulary: a token a line, JSON, a pickled list, or a corpus that awd-lstm-lm saved.
        corpus: Folder with train.txt, valid.txt and test.txt, whose words in order of appearance are the vocabulary.
        license: Of the weights, as the Hub spells it.
        check: A text, to measure its perplexity or show what is written of it: a matrix in the wrong order shows.
        approximate: Whether to convert what cannot be expressed exactly; the difference is then in the card.
        backbone: Whether to leave out all but embedding and recurrent layers.
        reads_backward: Whether the network was given texts from their end, which only flair's files say.
        hidden_act: Activation of Elman layers, where the file does not say it.
        recurrent_activation: Of Keras's gates, `sigmoid` or `hard_sigmoid`, where its file has no configuration.
        forget_bias: What TensorFlow 1 adds to the forget gates of an LSTM when it runs.
        embedding, head: Names of the tensors, where several would do; of an encoder-decoder those of its decoder.
        target_vocab: As `vocab`, of what an encoder-decoder writes, where that is not what it reads.
        source_length: How many tokens an encoder-decoder reads, where it was trained to read padding as well.

    Returns:
        What was done.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: The file is not one that can be converted, or only with another argument; the message says why.
    """
    path, target, checkpoint = Path(file), check_target(out), read_checkpoint(Path(file))
    kind = format_of(checkpoint, format)
    choices = Choices(
        hidden_act, recurrent_activation, forget_bias, embedding, head, backbone, reads_backward, vocab, target_vocab,
        source_length,
    )  # fmt: skip
    source, config = read_source(kind, checkpoint, choices, approximate)
    tokenizer = tokenizer_of(source, choices, corpus)
    done = record_of(path, kind, source, tokenizer, license, check)
    write_repository(target, source, config, tokenizer, done, approximate)
    return done


def record_of(
    path: Path, kind: Format, source: Network, tokenizer: Any, license: str | None, check: str | None
) -> Conversion:
    """What is known of a conversion before it is done.

    Raises:
        InputError: There is nothing to check a text with, no text, or one with words that are not known.
    """
    if check is not None and (tokenizer is None or source.architecture == "RNNModel"):
        raise InputError("`check` needs a network that writes, with a vocabulary")
    if check is not None:
        if not check.strip():
            raise InputError("`check` must be a text")
        try:
            tokenizer(check)
        except Exception as error:  # tokenizers has no class of its own for it
            raise InputError(f"`check` is not read by this vocabulary: {error}") from error
    done = Conversion(
        path.name, sha256_of(path), kind.name, kind.title, kind.credit, license, source.architecture, check=check,
        vocabulary=None if tokenizer is None else len(tokenizer),
        dropped=source.dropped, inexact=source.inexact, notes=source.notes,
    )  # fmt: skip
    if isinstance(source, EncoderDecoder) and tokenizer is not None:
        done.source_ids = source.source_ids
    return done


def write_repository(
    target: Path, source: Network, config: Config, tokenizer: Any, done: Conversion, approximate: bool
) -> None:
    """Save the model here, load it, compare it with the source, and write what was found with it.

    Raises:
        InputError: As `compare`; then nothing is left in `target`.
    """
    if tokenizer is not None and isinstance(source, Source):
        config.eos_token_id = config.bos_token_id = config.pad_token_id = tokenizer.eos_token_id
    model = model_of(source, config)
    done.parameters = sum(parameter.numel() for parameter in model.parameters())

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        compare(type(model).from_pretrained(folder).eval(), source, done, approximate)
        if done.check is not None:
            check_text(type(model).from_pretrained(folder), tokenizer, done)
        write_json(folder / "conversion.json", done.to_dict())
        write_text(folder / "README.md", render_card(done, name_of(target), config))

    write_into(target, write)


def format_of(checkpoint: Checkpoint, name: str | None) -> Format:
    """The format by its name, or by what a file holds.

    Raises:
        InputError: There is no format of that name, or the file is of none.
    """
    if name is not None:
        if name not in FORMATS:
            raise InputError(f"`format` must be one of {', '.join(FORMATS)}, got {name!r}")
        return FORMATS[name]
    found = [kind for kind in FORMATS.values() if kind.matches(checkpoint)]
    if not found:
        raise InputError(
            f"{checkpoint.path} has no recurrent layers under names that are known here: the formats are "
            f"{', '.join(FORMATS)}"
        )
    return found[0]


def check_target(out: str | Path) -> Path:
    """Refuse a folder that is in use.

    Raises:
        InputError: There is something in it, or a file in its place.
    """
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"`out` {out} is there already: name a new folder")
    return target


def read_source(kind: Format, checkpoint: Checkpoint, choices: Choices, approximate: bool) -> tuple[Network, Config]:
    """The network in a file, and what it is called here.

    Raises:
        InputError: It cannot be expressed, or not exactly; the message names file, format and reason.
    """
    what = f"{checkpoint.path.name} ({kind.name}) is not converted"
    try:
        source = kind.read(checkpoint, choices)
        if isinstance(source, Source):
            source.reads_backward = source.reads_backward or choices.reads_backward
        config = source.config()
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
    except KeyError as error:
        raise InputError(f"{what}: it lacks {error}") from error
    except StrictDataclassError as error:
        raise InputError(f"{what}: its sizes make no network ({' '.join(str(error).split())})") from error
    if source.inexact and not approximate:
        raise InputError(
            f"{what}: {'; '.join(source.inexact)}; `approximate=True` converts it all the same and measures the "
            "difference"
        )
    return source, config


def tokenizer_of(source: Network, choices: Choices, corpus: str | Path | None) -> Any:
    """The tokenizer of a network; `None` without one.

    Raises:
        InputError: As `find_vocabulary`; or an argument is for another kind of network.
    """
    if isinstance(source, EncoderDecoder):
        if corpus is not None:
            raise InputError("`corpus` is for language models: give `vocab` and `target_vocab`")
        return source.tokenizer()
    for name in ("target_vocab", "source_length"):
        if getattr(choices, name) is not None:
            raise InputError(f"`{name}` is for an encoder and a decoder, and this file has none")
    vocabulary = find_vocabulary(source, choices.vocab, corpus)
    return None if vocabulary is None else vocabulary.tokenizer()


def find_vocabulary(source: Source, vocab: str | Path | None, corpus: str | Path | None) -> Vocabulary | None:
    """What each id of a network stands for, if that is known.

    Raises:
        InputError: It is needed and not there, or has another size than the network.
    """
    found = source.vocabulary
    if vocab is not None and corpus is not None:
        raise InputError("give `vocab` or `corpus`, not both")
    if source.embedding is None:
        if vocab is not None or corpus is not None:
            raise InputError("`vocab` and `corpus` are for networks that read tokens, and this one reads features")
        return None
    if vocab is not None:
        found = read_vocabulary(Path(vocab), source.wants)
    elif corpus is not None:
        found = vocabulary_of_corpus(Path(corpus), source.wants)
    rows = len(source.embedding)
    if found is None and source.needs_vocabulary:
        raise InputError(
            "there is no vocabulary in this file: give `vocab` or `corpus`, in the order that it was trained with "
            f"(it has {rows} words)"
        )
    if found is not None and len(found.tokens) != rows:
        raise InputError(
            f"the vocabulary has {len(found.tokens)} words, and the network {rows}: give the list, or the corpus, "
            "that it was trained with"
        )
    return found


def model_of(source: Network, config: Config) -> Any:
    """The model here, with the weights of a source.

    Raises:
        InputError: Their shapes do not fit each other.
    """
    weights = dict(source.weights())
    is_double = any(tensor.dtype == torch.float64 for tensor in weights.values())
    model = MODELS[source.architecture](config).to(torch.float64 if is_double else torch.float32)  # holds all others
    state = model.state_dict()
    shapes = [{name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (state, weights)]
    if shapes[0] != shapes[1]:
        wrong = [f"{name} {shape}" for name, shape in shapes[1].items() if shapes[0].get(name) != shape]
        raise InputError(f"its tensors do not fit each other: here they would be {', '.join(wrong)}")
    with torch.no_grad():
        for name in state.keys() - source.tied:
            state[name].copy_(weights[name])
    if isinstance(source, EncoderDecoder):
        model.generation_config.max_length = source.longest
    return model


def compare(model: Any, source: Network, done: Conversion, approximate: bool) -> None:
    """Run the source's arithmetic and the model here over the same inputs, and note the differences.

    Raises:
        InputError: They are too large for rounding.
    """
    generator = np.random.default_rng(0)
    inputs: Any
    run: Callable[[Any, Any], np.ndarray] = outputs_here
    if isinstance(source, EncoderDecoder):
        inputs, run = source.sample(generator, ROWS, STEPS), source.run
        expected = source.expected(inputs)
    else:
        if source.embedding is None:
            inputs = generator.standard_normal((ROWS, STEPS, source.layers[0].of_input.shape[1]))
        else:
            inputs = generator.integers(len(source.embedding), size=(ROWS, STEPS))
        expected = np.stack([outputs_of(source, row) for row in inputs])
    stored = run(model, inputs)
    exact = run(model.double(), inputs)
    done.compared = expected.size
    done.difference = float(np.abs(exact - expected).max())
    done.difference_float32 = float(np.abs(stored - expected).max())
    scale = max(1.0, float(np.abs(expected).max()))
    if not done.difference <= LIMIT * scale and not approximate:  # also of what is not a number
        raise InputError(
            f"{done.file} ({done.format}) is not converted: the model here differs from the source by "
            f"{done.difference:.2g}"
        )


@torch.no_grad()
def outputs_here(model: Any, inputs: np.ndarray) -> np.ndarray:
    """Logits, or the last layer's outputs, `(rows, T, width)` in float64."""
    is_tokens = inputs.ndim == 2
    given = torch.from_numpy(inputs)
    outputs = model(input_ids=given) if is_tokens else model(inputs_embeds=given.to(model.dtype))
    return (outputs.last_hidden_state if isinstance(model, RNNModel) else outputs.logits).double().numpy()


def check_text(model: Any, tokenizer: Any, done: Conversion) -> None:
    """Note what a model says of the text that its owner gave: the perplexity, or what it writes of it."""
    if isinstance(model, RNNForConditionalGeneration):
        written = model.eval().generate(**tokenizer(done.check, return_tensors="pt"), num_beams=1, do_sample=False)
        done.written = tokenizer.decode(written[0], skip_special_tokens=True)
    else:
        done.perplexity = perplexity_of(model, tokenizer, done.check or "")


def perplexity_of(model: Any, tokenizer: Any, text: str) -> float:
    """Perplexity a token of a text, each line closed by the end token if there is one; without one, from the second
    token on."""
    if tokenizer.eos_token_id is None:
        ids = np.array(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)
        if len(ids) < 2:
            raise InputError("`check` must be a text of two tokens or more")
        start, ids = int(ids[0]), ids[1:]
    else:
        start, ids = tokenizer.eos_token_id, stream_for(model, text.splitlines(), tokenizer)
    return evaluate(model, ids, start).perplexity


__all__ = ["FORMATS", "convert"]
