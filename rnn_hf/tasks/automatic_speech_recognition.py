"""Speech recognition with connectionist temporal classification: recordings to words."""

from collections.abc import Iterator, Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch.nn import functional as F

from rnn_hf.data.audio import AudioFile
from rnn_hf.data.speech import Splits, choose_splits, load_speech
from rnn_hf.errors import InputError
from rnn_hf.loading import config_of, load_model
from rnn_hf.models.ctc_rnn import steps_needed
from rnn_hf.models.feature_extraction_rnn import RNNFeatureExtractor
from rnn_hf.runs import data_arguments
from rnn_hf.tasks import METRICS, best_validation, task_of_model
from rnn_hf.tasks.speech_rows import Row, features_of, rows_to_score, run_batches
from rnn_hf.tasks.speech_runs import SpeechWork
from rnn_hf.tasks.speech_scores import (
    Heard,
    SpeechScores,
    by_speaker,
    describe,
    floor_of,
    jiwer,
    most_frequent_word,
    speech_values,
)
from rnn_hf.tasks.speech_search import BEST_PATH, Search, load_search


NAME, AUTO_CLASS = "automatic-speech-recognition", "AutoModelForCTC"
EVALUATION_BATCH = 32
describe_score, WORK = describe, SpeechWork


def load_data(**arguments: Any) -> Splits:
    """Recordings by the arguments of a run.

    Args:
        arguments: Those of `rnn_hf.training.arguments.SpeechDataArguments` that say what to load and how to split it,
            and `seed`, which draws the recordings for validation where there is no such split.

    Raises:
        InputError: As `load_speech` and `choose_splits`.
    """
    names = signature(load_speech).parameters.keys()
    splits = load_speech(**{name: value for name, value in arguments.items() if name in names and value is not None})
    return choose_splits(
        splits, arguments.get("validation_split_percentage") or 10, arguments.get("seed") or 0,
        arguments.get("held_out_speaker"), arguments.get("max_train_samples"),
    )  # fmt: skip


def arguments_of_data(name: str, given: Mapping[str, Any], revision: str | None = None) -> dict[str, Any]:
    """As `rnn_hf.runs.data_arguments`, for `load_data`: a speaker is held out of the run's own recordings only."""
    return data_arguments(name, given, revision, of_source="held_out_speaker")


def joined_for_scores(arguments: Mapping[str, Any]) -> int:
    """How many recordings there are in a string to score, by the arguments of a run; 1 where none are joined."""
    return arguments.get("validation_join") or 1 if (arguments.get("join_recordings") or 1) > 1 else 1


def score(
    model: Any, tokenizer: Any, rows: Sequence[Row], word: str | None = None, batch_size: int = EVALUATION_BATCH,
    progress: bool = False, search: Search = BEST_PATH,
) -> SpeechScores:  # fmt: skip
    """The scores of a model on rows.

    Args:
        model: An `RNNForCTC`.
        tokenizer: Its own.
        rows: As of `rows_to_score`.
        word: The most frequent one of the training data, for the floor.
        batch_size: Rows a batch.
        progress: Whether to show a progress bar.
        search: How labels are found; the loss is that of CTC in any case.
    """
    return scores_of(logits_of(model, rows, batch_size, progress), rows, tokenizer, word, search)


def logits_of(model: Any, rows: Sequence[Row], batch_size: int, progress: bool = False) -> list[torch.Tensor]:
    """The logits of each row, `(T', labels)`; arguments as of `score`."""
    by_index = dict(run_batches(model, [row.features for row in rows], batch_size, progress))
    return [by_index[index] for index in range(len(rows))]


def scores_of(
    outputs: Sequence[torch.Tensor], rows: Sequence[Row], tokenizer: Any, word: str | None = None,
    search: Search = BEST_PATH,
) -> SpeechScores:  # fmt: skip
    """The scores of logits, `(T', labels)` each; arguments as of `score`."""
    losses, labels, too_short = 0.0, 0, 0
    for logits, row in zip(outputs, rows, strict=True):
        ids = torch.tensor([tokenizer(row.text).input_ids], dtype=torch.long)
        if len(logits) < int(steps_needed(ids)):
            too_short += 1
        elif len(logits):
            losses += _loss(logits, ids, tokenizer.pad_token_id)
            labels += ids.shape[1]
    heard = [
        Heard(row.text, tokenizer.decode(search(logits, tokenizer.pad_token_id)), row.speaker, row.recordings)
        for logits, row in zip(outputs, rows, strict=True)
    ]
    texts = [row.text for row in rows]
    count = sum(len(text.split()) for text in texts)
    speakers, floor = by_speaker(heard), floor_of(texts, word)
    return SpeechScores(speech_values(heard), losses / max(1, labels), count, len(rows), speakers, floor, too_short)


def _loss(logits: torch.Tensor, labels: torch.Tensor, blank: int) -> float:
    """The loss of CTC of a row, `(T', labels)` and `(1, U)`, in nats."""
    log_probs = logits.double().log_softmax(dim=-1)[:, None]
    steps, size = torch.tensor([len(logits)]), torch.tensor([labels.shape[1]])
    return float(F.ctc_loss(log_probs, labels, steps, size, blank, reduction="sum"))


def evaluate(
    name: str, splits: Sequence[str], given: Mapping[str, Any], revision: str | None = None, progress: bool = False,
    device: str = "cpu", batch_size: int | None = None, search: Mapping[str, Any] | None = None,
) -> dict[str, SpeechScores]:  # fmt: skip
    """The scores of a model on splits of its run's data, or of other data.

    Args:
        name: Directory of the model, or its name on the Hub.
        splits: Among `train`, `validation`, `test`.
        given: As of `arguments_of_data`.
        revision: Branch, tag or commit on the Hub.
        progress: Whether to show a progress bar.
        device: One of `rnn_hf.loading.DEVICES`.
        batch_size: Rows a batch, a matter of memory and speed.
        search: Arguments of `load_search` but the tokenizer and the device; by default the best path.

    Raises:
        InputError: As `load_data` and `load_search`; the model is for another task; or there is no such split.
    """
    own = task_of_model(config_of(name, revision).architectures).name
    if own != NAME:
        raise InputError(f"{name} is a model for {own}, not for {NAME}")
    jiwer()  # is missed now and not behind the last recording
    arguments = arguments_of_data(name, given, revision)
    data = load_data(**arguments)
    for split in splits:
        if split not in data:
            raise InputError(f"the data has no split {split!r}, only {', '.join(data)}")
    model, tokenizer, extractor = load_recognizer(name, revision, device)
    how = load_search(tokenizer, device=device, **(search or {}))
    word, join = most_frequent_word([each.text for each in data.get("train", [])]), joined_for_scores(arguments)
    return {
        split: score(
            model, tokenizer, rows_to_score(data[split], extractor, join), word, batch_size or EVALUATION_BATCH,
            progress, how,
        )
        for split in splits
    }  # fmt: skip


def load_recognizer(
    name: str, revision: str | None = None, device: str = "cpu"
) -> tuple[Any, Any, RNNFeatureExtractor]:
    """A model, its tokenizer and its feature extractor, by directory or name on the Hub; errors as `load_model`."""
    model, tokenizer = load_model(name, revision, device, AUTO_CLASS)
    try:
        return model, tokenizer, RNNFeatureExtractor.from_pretrained(name, revision=revision or "main")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot load the feature extractor of {name}: {' '.join(str(error).split())}") from error


def predict(
    model: Any, tokenizer: Any, extractor: RNNFeatureExtractor, files: Sequence[AudioFile],
    batch_size: int = EVALUATION_BATCH, timestamps: bool = False, search: Search = BEST_PATH,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """What is said in files of audio, in their order.

    Args:
        model: An `RNNForCTC`.
        tokenizer: Its own.
        extractor: Its own.
        files: To hear.
        batch_size: Files a batch.
        timestamps: Whether to say when each word was heard.
        search: How labels are found.

    Yields:
        `file` and `text`; with `timestamps` also `words`, of each its `word`, `start` and `end`, in seconds of when
        the network gave its labels, which is after the sounds began.

    Raises:
        InputError: A file that cannot be read, or has another sampling rate than the extractor's.
    """
    features = [features_of(file.samples(extractor.sampling_rate)[0], extractor) for file in files]
    outputs = dict(run_batches(model, features, batch_size))
    seconds = model.config.inputs_to_logits_ratio / extractor.sampling_rate
    for index, file in enumerate(files):
        answer = tokenizer.decode(search(outputs[index], tokenizer.pad_token_id), output_word_offsets=timestamps)
        if not timestamps:
            yield {"file": file.name, "text": answer}
            continue
        words = [
            {
                "word": word["word"],
                "start": round(word["start_offset"] * seconds, 3),
                "end": round(word["end_offset"] * seconds, 3),
            }
            for word in answer.word_offsets
        ]
        yield {"file": file.name, "text": answer.text, "words": words}


def card_values(run: Mapping[str, Any], scores: Mapping[str, Any]) -> dict[str, Any]:
    """What `automatic_speech_recognition.md` needs besides the values of every card.

    Args:
        run: Content of run.json, which may be empty.
        scores: Of evaluation.json, by split.

    Returns:
        `validation`, the scores of training's own validation, for a model that was not evaluated; `columns`, the
        metrics that were measured; `floors`, what needs no model, in words; `speaker_rows`, the scores of each
        speaker on `speaker_split`; `labels`, the words that are recognized, where there are few.
    """
    data, validation = run.get("data") or {}, best_validation(run)
    if validation is not None:
        validation |= {"floor": data["floor"], "words": data["words"]["validation"]}
    rows = scores or ({"validation": validation} if validation else {})
    floors = {split: score.get("floor") for split, score in rows.items()}
    split = list(scores)[-1] if scores else ""
    return {
        "validation": validation,
        "columns": [metric for metric in METRICS.values() if any(metric.name in score for score in rows.values())],
        "floors": ", ".join(
            f"{METRICS['wer'].label(value)} on {of}" for of, value in floors.items() if value is not None
        ),
        "speaker_split": split,
        "speaker_rows": scores[split].get("speakers", {}) if scores else {},
        "labels": data.get("labels"),
        "speed_unit": "strings",
    }
