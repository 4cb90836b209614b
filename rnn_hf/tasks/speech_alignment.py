"""When a recognizer heard what, as a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rnn_hf.errors import InputError
from rnn_hf.plotting import new_figure, save_figure
from rnn_hf.tasks.automatic_speech_recognition import (
    arguments_of_data,
    joined_for_scores,
    load_data,
    load_recognizer,
    logits_of,
)
from rnn_hf.tasks.speech_rows import Row, rows_to_score


LEAST_SHOWN = 0.05  # probability that a label must reach somewhere to have a line


def draw_alignment(
    name: str, split: str, given: Mapping[str, Any], png: Path, revision: str | None = None, device: str = "cpu"
) -> None:
    """Draw the features of one row of a split, and over the same time the probabilities of labels.

    The row is the first string of several recordings or, where none are joined, the first one with words.

    Args:
        name: Directory of a recognizer, or its name on the Hub.
        split: Among `train`, `validation`, `test`, of the data of the model's run or of other data.
        given: As of `arguments_of_data`.
        png: File to write.
        revision: Branch, tag or commit on the Hub.
        device: One of `rnn_hf.loading.DEVICES`.

    Raises:
        InputError: As `load_data`; or nobody speaks in the split.
        MissingPackageError: matplotlib is not installed.
    """
    arguments = arguments_of_data(name, given, revision)
    model, tokenizer, extractor = load_recognizer(name, revision, device)
    rows = rows_to_score(load_data(**arguments)[split], extractor, joined_for_scores(arguments))
    spoken = [row for row in rows if row.text]
    if not spoken:
        raise InputError(f"nobody speaks in the {split} split")
    row = next((row for row in spoken if row.recordings > 1), spoken[0])
    (logits,) = logits_of(model, [row], 1)
    seconds = extractor.hop_length / extractor.sampling_rate
    plot_alignment(row, logits, tokenizer, seconds, model.config.frame_stack, png)


def plot_alignment(
    row: Row, logits: torch.Tensor, tokenizer: Any, seconds: float, frame_stack: int, png: Path
) -> None:
    """Draw a row and the labels that were emitted over its time.

    Args:
        row: What was heard.
        logits: Of its steps, `(T', labels)`.
        tokenizer: Of the model.
        seconds: Of a frame.
        frame_stack: Frames a step.
        png: File to write.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    figure = new_figure(9, 5)
    above, below = figure.subplots(2, sharex=True)
    length = len(row.features) * seconds
    place = (0, length, 0, row.features.shape[1])
    above.imshow(row.features.T.numpy(), origin="lower", aspect="auto", cmap="magma", extent=place)
    above.set(ylabel="mel band", title=f"{row.text}\nheard: {tokenizer.decode(logits.argmax(dim=-1))}")
    chances = logits.softmax(dim=-1).numpy()
    times = [(step + 1) * frame_stack * seconds for step in range(len(chances))]  # when a step has been heard
    for label in range(chances.shape[1]):
        is_blank = label == tokenizer.pad_token_id
        if is_blank or chances[:, label].max() >= LEAST_SHOWN:
            style = (
                {"color": "0.8", "label": "blank"} if is_blank else {"label": tokenizer.convert_ids_to_tokens(label)}
            )
            below.plot(times, chances[:, label], **style)
    for label, start, _ in tokenizer.collapse(logits.argmax(dim=-1).tolist()):
        above.axvline(times[start], color="white", linewidth=0.8)
        above.annotate(
            tokenizer.convert_ids_to_tokens(label), (times[start], 1), color="white", fontsize=8, rotation=90,
            va="bottom",
        )  # fmt: skip
    below.set(xlabel="seconds", ylabel="probability", ylim=(0, 1.05))
    below.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    save_figure(figure, png)
