"""From arguments to what a run works on: token streams, tokenizer and a fresh model, all checked before long work."""

import ctypes
import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedTokenizerBase, set_seed

from rnn_hf.data.corpora import Texts, lines_of, load_corpus, split_off_validation
from rnn_hf.data.streams import TokenStream, reversed_stream
from rnn_hf.data.tokenization import (
    END,
    KINDS,
    UNKNOWN,
    build_tokenizer,
    encode_stream,
    load_tokenizer,
    start_id,
    unknown_id,
    vocab_size_of,
)
from rnn_hf.errors import InputError, MissingPackageError
from rnn_hf.evaluation import unigram_loss
from rnn_hf.loading import load_model
from rnn_hf.models import RNNConfig, RNNForCausalLM
from rnn_hf.models.kernels_rnn import CHOICES
from rnn_hf.runs import read_run
from rnn_hf.training.arguments import Arguments, DataArguments, TrainingArguments
from rnn_hf.training.checkpoint import checkpoints, is_checkpoint, named_as_checkpoints
from rnn_hf.training.model_arguments import SIZES_BY_VOCABULARY
from rnn_hf.training.objective import Objective


# Arguments that may change when a run goes on; all others must be the same, or the run would be another one.
FREE = {
    "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "max_steps", "save_steps", "save_total_limit",
    "logging_steps", "report_to", "disable_tqdm", "use_cpu", "measure_kernels", "cuda_graphs",
    "early_stopping_patience", "per_device_eval_batch_size", "push_to_hub", "hub_model_id", "hub_private_repo",
    "hub_strategy", "sample_tokens",
}  # fmt: skip


@dataclass
class Corpus:
    """Token streams by split, and the tokenizer that made them."""

    tokenizer: PreTrainedTokenizerBase
    streams: dict[str, np.ndarray]

    def frequencies(self) -> torch.Tensor:
        """How often each token stands in the training text, `(V,)`."""
        return torch.from_numpy(np.bincount(self.streams["train"], minlength=vocab_size_of(self.tokenizer)))

    def counts(self) -> dict[str, Any]:
        """What run.json says of the data: what a token is, sizes, share of unknown words, the unigram's perplexity."""
        unknown = unknown_id(self.tokenizer)
        train, validation = self.streams["train"], self.streams["validation"]
        vocab_size = vocab_size_of(self.tokenizer)
        unigram = unigram_loss(train, validation, vocab_size)
        words = set(self.tokenizer.get_vocab()) - {UNKNOWN, END}
        return {
            "unit": "character" if all(len(word) == 1 for word in words) else "token",
            "tokens": {split: len(stream) for split, stream in self.streams.items()},
            "vocab_size": vocab_size,
            "unknown": {
                split: round(float((stream == unknown).mean()), 5)
                for split, stream in self.streams.items()
                if unknown is not None
            },
            "unigram_validation_perplexity": round(float(np.exp(unigram)), 2),
            "train_sha1": hashlib.sha1(train.tobytes()).hexdigest(),
        }


def read_corpus(arguments: DataArguments) -> Texts:
    """The corpus that the arguments name; errors as `rnn_hf.data.corpora.load_corpus`."""
    not_corpus = {"tokenizer", "vocab_size", "min_frequency", "lowercase", "max_train_tokens"}
    not_corpus |= {"validation_split_percentage"}
    return load_corpus(**{name: value for name, value in asdict(arguments).items() if name not in not_corpus})


def prepare_corpus(arguments: DataArguments, reads_backward: bool = False) -> Corpus:
    """Load the training and validation text, build or load the tokenizer and encode the two streams.

    Args:
        arguments: Of the data.
        reads_backward: Whether the streams are in the order of a model that reads backward.

    Raises:
        InputError: As `load_corpus` and `build_tokenizer`.
    """
    corpus = read_corpus(arguments)
    if "train" not in corpus:
        raise InputError("training needs a training text: `train_file`, or a `dataset_name` with such a split")
    if "validation" not in corpus:
        corpus = split_off_validation(corpus["train"], arguments.validation_split_percentage)
    lines = {split: list(lines_of(corpus[split])) for split in ("train", "validation")}
    if arguments.tokenizer in KINDS:
        tokenizer: PreTrainedTokenizerBase = build_tokenizer(
            lines["train"], arguments.tokenizer, arguments.vocab_size, arguments.min_frequency, arguments.lowercase
        )
    else:
        tokenizer = load_tokenizer(arguments.tokenizer)
    streams = {split: encode_stream(text, tokenizer) for split, text in lines.items()}
    streams["train"] = streams["train"][: arguments.max_train_tokens]
    if reads_backward:
        streams = {split: reversed_stream(stream, tokenizer.eos_token_id) for split, stream in streams.items()}
    return Corpus(tokenizer, streams)


def check_model(arguments: Arguments, config_class: type[RNNConfig] = RNNConfig) -> None:
    """Refuse model arguments that are out of range or do not fit each other, before any data is read.

    Args:
        arguments: Of the run.
        config_class: Of its model.

    Raises:
        InputError: Naming the argument.
    """
    try:
        fields = asdict(arguments.model)
        if fields.get("character_embedding_size"):
            fields |= dict.fromkeys(SIZES_BY_VOCABULARY, 1)  # which are not known yet
        config_class(**fields)
    except StrictDataclassError as error:
        raise InputError(str(error.__cause__ or error)) from error


def trackers_of(report_to: str) -> list[str]:
    """The names in `report_to`.

    Raises:
        InputError: One that Accelerate does not know.
        MissingPackageError: The package of one is not installed.
    """
    names = [name for name in map(str.strip, report_to.split(",")) if name not in ("", "none")]
    installed = {str(tracker) for tracker in get_available_trackers()}
    for name in names:
        if name not in {"all", *LOGGER_TYPE_TO_CLASS}:
            known = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
            raise InputError(f"`report_to` {name}: there is no such tracker, only {known}, and all that are installed")
        if name not in {"all", *installed}:
            raise MissingPackageError(f"`report_to` {name} needs a package that is not installed: pip install {name}")
    return names


def start_trackers(accelerator: Accelerator, arguments: Arguments, output_dir: Path) -> None:
    """Have each tracker begin a run, with the arguments as far as they can be told."""
    values = {**asdict(arguments.model), **asdict(arguments.data), **asdict(arguments.training)}
    output_dir.mkdir(parents=True, exist_ok=True)
    plain = {key: value if isinstance(value, int | float | str) else str(value) for key, value in values.items()}
    accelerator.init_trackers("rnn_hf", config=plain)


def check_distribution(accelerator: Accelerator) -> None:
    """Refuse ways to distribute that do not fit recurrent networks.

    Raises:
        InputError: FSDP or DeepSpeed.
    """
    kind = accelerator.distributed_type
    if kind in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise InputError(
            f"{kind.value} is not supported: it shards weights, which recurrent layers need whole and in one block. "
            "These networks fit on a single GPU: use plain data parallelism (DDP)"
        )


def set_up_process(options: TrainingArguments) -> None:
    """Set what holds for the whole process: how a GPU rounds the factors of float32 products, which torch does to TF32
    in recurrent layers and nowhere else; that freed memory is kept; and whether kernels are measured.

    Raises:
        InputError: float16 without a GPU.
    """
    if options.fp16 and (options.use_cpu or not torch.cuda.is_available()):
        raise InputError("`fp16` needs a GPU: on a CPU compute in `bf16` or in float32")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.tf32
    keep_freed_memory()
    CHOICES.clear()  # what was measured before may have been by another rule
    CHOICES.measures = options.measure_kernels


def keep_freed_memory() -> None:
    """Have glibc keep what a step frees for the next one; nothing with another C library.

    It gives large blocks back to the system, which hands them out again page by page, zeroed: a quarter of the time of
    a step at two layers of 200, a tenth at 650.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    # Blocks of up to a gigabyte come from the heap, or of 32 MiB, which is the most that glibc before 2.35 takes; and
    # the heap does not shrink.
    if mallopt(mmap_threshold, 1 << 30) or mallopt(mmap_threshold, 1 << 25):
        mallopt(trim_threshold, (1 << 31) - 1)


def choose_kernels(
    accelerator: Accelerator, objective: Objective, stream: TokenStream, validate: Callable[[], object]
) -> None:
    """Have the kernels of training and validation chosen before the first step: checkpoints keep the choice, since
    another kernel rounds differently. Runs a window forward and backward, which changes nothing.

    Args:
        accelerator: Of the run.
        objective: Unwrapped.
        stream: Of training; its first window is run.
        validate: Scores some of the validation text.
    """
    device = accelerator.device
    if device.type not in ("cpu", "cuda"):
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        objective.train()
        with accelerator.autocast():
            total, _, _ = objective(*stream[0], None)
        total.backward()
        objective.zero_grad()
        validate()


def build_model(arguments: Arguments, tokenizer: PreTrainedTokenizerBase) -> RNNForCausalLM:
    """A fresh model for the tokenizer, initialised from the run's seed, or with the weights of `init_from`.

    Raises:
        InputError: The weights do not load, or do not fit in vocabulary, direction or shape.
    """
    set_seed(arguments.training.seed)
    config = RNNConfig(
        vocab_size=vocab_size_of(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=start_id(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        **asdict(arguments.model),
    )
    model = RNNForCausalLM(config)
    if arguments.training.init_from:
        _take_weights(model, tokenizer, arguments.training.init_from)
    return model


def _take_weights(model: RNNForCausalLM, tokenizer: PreTrainedTokenizerBase, source: str) -> None:
    """Give a model the weights of another one, which must have the same words in the same rows."""
    other, its_tokenizer = load_model(source)
    direction = getattr(other.config, "reads_backward", False)
    if direction != model.config.reads_backward:
        raise InputError(f"`init_from` {source} has `reads_backward={direction}`, and this run has not: set the same")
    ids = tokenizer.get_vocab()
    theirs = its_tokenizer.get_vocab()
    if ids != theirs:
        word = min((set(ids.items()) ^ set(theirs.items())), key=lambda item: item[1])[0]
        was, needed = (known.get(word, "missing") for known in (theirs, ids))
        raise InputError(
            f"`init_from` {source}: its vocabulary is another one, as the id of {word!r} is {was} there and {needed} "
            f"here: train with `tokenizer` {source}"
        )
    weights = other.float().state_dict()
    for name, tensor in model.state_dict().items():
        was = tuple(weights[name].shape) if name in weights else "missing"
        needed = tuple(tensor.shape)
        if was != needed:
            advice = "give the model arguments and the data of the run that made it"
            raise InputError(f"`init_from` {source}: {name} is {was} there and must be {needed}; {advice}")
    model.load_state_dict(weights)


def identity_of(arguments: Arguments) -> dict[str, Any]:
    """The model and training arguments that make a run this one and no other."""
    training = {name: value for name, value in asdict(arguments.training).items() if name not in FREE}
    return {**asdict(arguments.model), **training}


def check_output_dir(arguments: Arguments) -> Path:
    """The output directory, not made yet; refused if it holds a run that this one would overwrite.

    Raises:
        FileExistsError: It holds another run and neither resuming nor overwriting was asked for.
        NotADirectoryError: It is a file.
        InputError: Its run.json is broken.
    """
    training = arguments.training
    output_dir = Path(training.output_dir)
    resumed = training.resume_from_checkpoint
    if output_dir.exists() and not output_dir.is_dir():
        raise NotADirectoryError(f"`output_dir` {output_dir} is a file")
    for path in named_as_checkpoints(output_dir):
        if not is_checkpoint(path):
            raise FileExistsError(f"{path} stands where checkpoints go and is none of this package: move it away")
    if training.overwrite_output_dir or not ((output_dir / "run.json").exists() or checkpoints(output_dir)):
        return output_dir
    if not resumed:
        raise FileExistsError(
            f'`output_dir` {output_dir} holds a run: go on with `resume_from_checkpoint="last"`, '
            "replace it with `overwrite_output_dir=True`, or choose another directory"
        )
    is_own = Path(resumed).parent.resolve() == output_dir.resolve()
    if resumed == "last":
        is_own = bool(checkpoints(output_dir)) or _is_of_these_arguments(output_dir, arguments)
    if not is_own:
        raise FileExistsError(
            f"`output_dir` {output_dir} holds another run than `resume_from_checkpoint` {resumed} goes on with: "
            "choose another directory, or replace what it holds with `overwrite_output_dir=True`"
        )
    return output_dir


def _is_of_these_arguments(output_dir: Path, arguments: Arguments) -> bool:
    """Whether the run in a directory is the one of these arguments, so that it may start again from nothing."""
    before = (read_run(output_dir / "run.json") or {}).get("arguments")
    if before is None:
        return False
    was = {**before["model"], **before["data"], **before["training"]}
    wanted = identity_of(arguments) | asdict(arguments.data)
    return all(was.get(name, value) == value for name, value in wanted.items())
