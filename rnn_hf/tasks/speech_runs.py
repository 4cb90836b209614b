"""What a training run of speech recognition works on: log-mels computed once, strings of them drawn each epoch."""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha1
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import set_seed

from rnn_hf.data.augmentation import (
    Augmentation,
    Plan,
    StringPlans,
    distorted,
    joined,
    masked,
    noise_log_mels,
    warped,
)
from rnn_hf.data.speech import Recording, Splits, sampling_rate_of
from rnn_hf.errors import InputError
from rnn_hf.loading import config_of
from rnn_hf.models import RNNForCTC, RNNSpeechConfig
from rnn_hf.models.feature_extraction_rnn import RNNFeatureExtractor
from rnn_hf.models.tokenization_rnn_ctc import DELIMITER, RNNCTCTokenizer
from rnn_hf.tasks import TASKS, WER
from rnn_hf.tasks.speech_rows import Row, batch_of, rows_to_score
from rnn_hf.tasks.speech_scores import SpeechScores, floor_of, jiwer, most_frequent_word


LEAST_DEVIATION = 0.1  # of a band, so that one that is always silent is not blown up
MOST_NAMES = 5  # of files in a message
MOST_WORDS = 20  # that a card lists


class SpeechExamples(Dataset):
    """Strings of recordings with their labels, drawn again for each epoch.

    Args:
        log_mels: Of each recording, `(T, bands)`.
        labels: Of each recording.
        plans: Draws the strings.
        extractor: Of the model, with the mean and deviation of the training data.
        frame_stack: Frames a step.
        separator: Labels between two texts.
    """

    def __init__(
        self, log_mels: Sequence[torch.Tensor], labels: Sequence[list[int]], plans: StringPlans,
        extractor: RNNFeatureExtractor, frame_stack: int, separator: list[int],
    ):  # fmt: skip
        self.log_mels, self.labels, self.plans, self.extractor = log_mels, labels, plans, extractor
        self.frame_stack, self.separator = frame_stack, separator
        self.centers = torch.from_numpy(extractor.centers)
        self.end_frames = extractor.end_silence // extractor.hop_length
        self.noises = noise_log_mels(lambda samples: extractor.log_mel(samples)[0], extractor.sampling_rate)
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.log_mels)

    def begin_epoch(self, epoch: int) -> list[int]:
        """Have the examples be those of an epoch; returns how many frames each has."""
        self.epoch = epoch
        return [self._draw(index)[0].length + self.end_frames for index in range(len(self))]

    def _draw(self, index: int) -> tuple[Plan, list[int], random.Random]:
        """The plan of a string, its labels, and the generator for what else is drawn.

        Where speed leaves too few steps for the labels, there is more silence at the end. The extractor's own silence
        is not in the plan, since it has no noise and no gain.
        """
        plan, generator = self.plans.draw(self.epoch, index)
        labels: list[int] = []
        for part, _ in plan.parts if plan.cut is None else ():
            own = self.labels[part]
            labels += [*(self.separator if labels and own else []), *own]
        more = max(0, self.frame_stack * max(1, steps_for(labels)) - plan.length - self.end_frames)
        return replace(plan, silences=[*plan.silences[:-1], plan.silences[-1] + more]), labels, generator

    def __getitem__(self, index: Any) -> dict[str, torch.Tensor]:
        """`input_features` `(T, bands)` and `labels` `(U,)` of a string of the epoch."""
        plan, labels, generator = self._draw(index)
        augmentation, floor = self.plans.augmentation_in(self.epoch), self.extractor.floor
        log_mel = joined(plan, self.log_mels, floor)
        if warp := augmentation.frequency_warp:
            log_mel = warped(log_mel, self.centers, generator.uniform(1 - warp, 1 + warp))
        log_mel = distorted(log_mel, plan, augmentation, self.noises, floor, generator)
        end = log_mel.new_full((self.end_frames, log_mel.shape[1]), floor)
        features, _ = self.extractor.normalize(torch.cat([log_mel, end]))
        features = masked(features, len(plan.parts), augmentation, generator)
        return {"input_features": features, "labels": torch.tensor(labels, dtype=torch.long)}


def steps_for(labels: Sequence[int]) -> int:
    """How many steps labels need at least: one each, and a blank between two that are equal."""
    return len(labels) + sum(one == other for one, other in zip(labels, labels[1:], strict=False))


def collate(examples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """A batch of examples: padding behind them, -100 behind their labels."""
    labels = pad_sequence([example["labels"] for example in examples], batch_first=True, padding_value=-100)
    return batch_of([example["input_features"] for example in examples]) | {"labels": labels}


@dataclass
class PreparedSpeech:
    """Recordings ready to train on.

    Attributes:
        data: As loaded.
        tokenizer: Built from the training texts, or that of the model to start from.
        extractor: With the mean and deviation of the training recordings, or that of the model to start from.
        examples: `train` as `SpeechExamples`, `validation` as rows to score.
    """

    data: Splits
    tokenizer: RNNCTCTokenizer
    extractor: RNNFeatureExtractor
    examples: dict[str, Any]


class SpeechWork:
    """The data of a run and all that is made of it; the same for texts is `rnn_hf.tasks.text_runs.TextWork`.

    Args:
        arguments: A `rnn_hf.training.arguments.Arguments`.

    Attributes:
        prepared: Recordings, processors and examples.
        metric: That decides which weights are best.

    Raises:
        InputError: There is nothing to train or validate on, a file cannot be read, or recordings are too short for
            their labels, of which the message names some.
        MissingPackageError: jiwer, which scores, is not installed.
    """

    config_class = RNNSpeechConfig
    metric = WER

    def __init__(self, arguments: Any):
        self.arguments, self.module = arguments, TASKS[arguments.task].module
        jiwer()  # is missed now and not after the first epoch
        options, chosen = arguments.data, asdict(arguments.data)
        data = self.module.load_data(**chosen, seed=arguments.training.seed)
        for split in ("train", "validation"):
            if not data.get(split):
                raise InputError(f"there are no recordings for {split}: give `{split}_file`")
        train, source = data["train"], arguments.training.init_from
        if source is not None:
            _, tokenizer, extractor = self.module.load_recognizer(source)
        else:
            extractor = self._new_extractor(sampling_rate_of(train))
            try:
                tokenizer = RNNCTCTokenizer.build([each.text for each in train], options.label_unit)
            except ValueError as error:
                raise InputError("nobody says a word in the recordings to train on") from error
        show = not arguments.training.disable_tqdm
        log_mels, self.seconds = read_log_mels(train, extractor, show)
        if source is None:
            extractor.mean, extractor.std = mean_and_deviation(log_mels, extractor)
        labels = [tokenizer(each.text).input_ids for each in train]
        lengths, end = [len(each) for each in log_mels], extractor.end_silence // extractor.hop_length
        self.too_short = self._count_too_short(train, [each + end for each in lengths], labels)
        plans = StringPlans(
            lengths, [each.speaker for each in train], self._augmentation(),
            options.join_recordings, options.curriculum_epochs, arguments.training.seed,
        )  # fmt: skip
        separator = [] if tokenizer.unit == "words" else [tokenizer.convert_tokens_to_ids(DELIMITER)]
        stack = arguments.model.frame_stack
        validation = rows_to_score(data["validation"], extractor, self.module.joined_for_scores(chosen))
        examples = {
            "train": SpeechExamples(log_mels, labels, plans, extractor, stack, separator),
            "validation": validation,
        }
        self.prepared = PreparedSpeech(data, tokenizer, extractor, examples)
        self.word = most_frequent_word([each.text for each in train])

    def _new_extractor(self, rate: int) -> RNNFeatureExtractor:
        options = self.arguments.data
        window, hop = (max(1, round(rate * ms / 1000)) for ms in (options.window_ms, options.hop_ms))
        points = 1 << (window - 1).bit_length()
        return RNNFeatureExtractor(
            feature_size=self.arguments.model.num_mel_bins, sampling_rate=rate, hop_length=hop, win_length=window,
            n_fft=points, level_decay=options.level_decay, level_floor=options.level_floor,
            end_silence=round(rate * options.end_silence_ms / 1000),
        )  # fmt: skip

    def _augmentation(self) -> Augmentation:
        options = self.arguments.data
        frames = {
            f"{name}_frames": round(getattr(options, f"{name}_ms") / options.hop_ms)
            for name in ("silence", "gap", "time_mask")
        }
        same = (
            "speed", "frequency_warp", "gain_db", "noise_probability", "min_snr_db", "time_masks", "frequency_masks",
            "frequency_mask_bands", "cut_probability",
        )  # fmt: skip
        return Augmentation(**frames, **{name: getattr(options, name) for name in same})

    def _count_too_short(
        self, recordings: Sequence[Recording], frames: Sequence[int], labels: Sequence[list[int]]
    ) -> int:
        """How many recordings have fewer steps than their labels need, which CTC cannot align."""
        model, short = self.arguments.model, []
        for recording, length, ids in zip(recordings, frames, labels, strict=True):
            if length // model.frame_stack < steps_for(ids):
                short.append(recording.file.name)
        if short and not model.ctc_zero_infinity:
            more = f" and {len(short) - MOST_NAMES:,} more" if len(short) > MOST_NAMES else ""
            raise InputError(
                f"{len(short):,} of {len(recordings):,} recordings are too short for their labels, "
                f"{', '.join(short[:MOST_NAMES])}{more}: set a smaller `frame_stack` or `hop_ms`, "
                '`label_unit="words"`, leave them out, or have silence put behind them by `ctc_zero_infinity`'
            )
        return len(short)

    def build_model(self) -> RNNForCTC:
        """A fresh model, or one on the weights of `init_from`.

        Raises:
            InputError: The weights do not load, or the arguments ask for another shape than they have.
        """
        arguments, source = self.arguments.model, self.arguments.training.init_from
        tokenizer, extractor = self.prepared.tokenizer, self.prepared.extractor
        set_seed(self.arguments.training.seed)
        if source is None:
            return RNNForCTC(
                RNNSpeechConfig(
                    vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, hop_length=extractor.hop_length,
                    **asdict(arguments),
                )
            )  # fmt: skip
        config, default = config_of(source), type(arguments)()
        dropouts = {name: value for name, value in asdict(arguments).items() if "dropout" in name}
        for name, value in asdict(arguments).items():
            if name not in dropouts and value not in (getattr(default, name), getattr(config, name)):
                raise InputError(
                    f"`{name}` is {value}, and the model of `init_from` has {getattr(config, name)}: leave it out"
                )
        return RNNForCTC.from_pretrained(source, **dropouts)

    def training_examples(self) -> SpeechExamples:
        """What Trainer takes batches of."""
        return self.prepared.examples["train"]

    def collator(self) -> Any:
        """Makes a batch of examples."""
        return collate

    def score(self, model: Any) -> SpeechScores:
        """The scores of a model on the validation split."""
        rows: list[Row] = self.prepared.examples["validation"]
        size = self.arguments.training.per_device_eval_batch_size
        return self.module.score(model, self.prepared.tokenizer, rows, self.word, size)

    def save_processors(self, directory: Path) -> None:
        """Write what a model needs besides its weights."""
        self.prepared.tokenizer.save_pretrained(directory)
        self.prepared.extractor.save_pretrained(directory)

    def _words(self) -> dict[str, int]:
        data = self.prepared.data
        return {split: sum(len(each.text.split()) for each in data[split]) for split in ("train", "validation")}

    def _floor(self) -> float | None:
        return floor_of([row.text for row in self.prepared.examples["validation"]], self.word)

    def summary(self) -> list[str]:
        """The data in lines, for people."""
        prepared, lines = self.prepared, []
        for split, words in self._words().items():
            recordings = prepared.data[split]
            speakers = {each.speaker for each in recordings} - {None}
            lines.append(f"{split}: {len(recordings):,} recordings, {words:,} words, {len(speakers)} speakers")
        strings = sum(row.recordings > 1 for row in prepared.examples["validation"])
        lines[0] += f", {self.seconds / 3600:.2f} hours"
        lines[1] += f", and {strings:,} strings of them" if strings else ""
        lines.append(f"labels: {len(prepared.tokenizer):,} {prepared.tokenizer.unit}, with the blank and <unk>")
        if self.too_short:
            lines.append(f"{self.too_short:,} recordings are too short for their labels and have silence put behind")
        floor = self._floor()
        if floor is not None:
            lines.append(f"always the most frequent word of train: {WER.label(floor)}")
        return lines

    def counts(self) -> dict[str, Any]:
        """What run.json says of the data: sizes, labels, the floor of the most frequent word, a checksum."""
        prepared, options = self.prepared, replace(self.arguments.data, **dict.fromkeys(PLACES))
        examples: SpeechExamples = prepared.examples["train"]
        checksum = sha1(repr(sorted(asdict(options).items())).encode())
        for log_mel, labels, recording in zip(examples.log_mels, examples.labels, prepared.data["train"], strict=True):
            checksum.update(repr((recording.speaker, labels)).encode() + log_mel.numpy().tobytes())
        speakers = {each.speaker for each in prepared.data["train"]} - {None}
        words = sorted({word for each in prepared.data["train"] for word in each.text.split()})
        is_listed = prepared.tokenizer.unit == "words" and len(words) <= MOST_WORDS
        return {
            "rows": {split: len(prepared.data[split]) for split in prepared.examples},
            "words": self._words(),
            "speakers": len(speakers),
            "hours": round(self.seconds / 3600, 4),
            "floor": self._floor(),
            "vocab_size": len(prepared.tokenizer),
            "too_short": self.too_short,
            "train_sha1": checksum.hexdigest(),
            **({"labels": words} if is_listed else {}),
        }


# Arguments that say where the data is and not what it is.
PLACES = ("dataset_dir", "train_file", "validation_file", "test_file", "audio_dir")


def read_log_mels(
    recordings: Sequence[Recording], extractor: RNNFeatureExtractor, progress: bool = False
) -> tuple[list[torch.Tensor], float]:
    """The log-mels of recordings, `(T, bands)` each, and how many seconds they last in all.

    Raises:
        InputError: A file cannot be read, or has another sampling rate than the extractor's.
    """
    log_mels, samples_read = [], 0
    for recording in tqdm(recordings, desc="reading recordings", leave=False, mininterval=1, disable=not progress):
        samples, _ = recording.file.samples(extractor.sampling_rate)
        samples_read += len(samples)
        log_mels.append(extractor.log_mel(torch.from_numpy(samples))[0])
    return log_mels, samples_read / extractor.sampling_rate


def mean_and_deviation(
    log_mels: Sequence[torch.Tensor], extractor: RNNFeatureExtractor
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each band over log-mels, as the extractor normalises them without these."""
    values = torch.cat([extractor.normalize(log_mel)[0] for log_mel in log_mels]).double()
    deviation = values.std(dim=0, correction=0).clamp(min=LEAST_DEVIATION)
    return values.mean(dim=0).tolist(), deviation.tolist()
