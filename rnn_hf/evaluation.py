"""Loss and perplexity of a language model over a whole stream, with the state carried."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from safetensors import safe_open
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from rnn_hf.data.corpora import Texts, lines_of, load_corpus, split_off_validation
from rnn_hf.data.streams import TokenStream
from rnn_hf.data.tokenization import encode_stream, start_id
from rnn_hf.files import read_json, read_run, sha256_of, write_json


DEVICES = ("auto", "cpu", "cuda", "mps")
WINDOWS_TO_READ = 100  # whose losses stay on the device of a model before they are read
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # safetensors' names and torch's


@dataclass(frozen=True)
class Score:
    """Result of an evaluation: mean negative log-likelihood in nats a token, and the number of tokens."""

    loss: float
    num_tokens: int

    @property
    def perplexity(self) -> float:
        """exp(loss), infinite where that overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    def to_dict(self) -> dict[str, float]:
        """What evaluation.json says of a split."""
        loss = {"loss_nats": self.loss, "bits_per_token": self.loss / math.log(2)}
        return {"perplexity": self.perplexity, **loss, "tokens": self.num_tokens}


def device_of(name: str) -> torch.device:
    """The device by one of the names in `DEVICES`; `auto` is a GPU where there is one, else the CPU.

    Raises:
        ValueError: Another name, or a device that is not there.
    """
    if name not in DEVICES:
        raise ValueError(f"`device` must be one of {', '.join(DEVICES)}, got {name!r}")
    is_there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    found = [kind for kind in is_there if is_there[kind]]
    if name != "auto" and name not in found:
        raise ValueError(f"device {name} is not there: PyTorch {torch.__version__} finds {', '.join(found)}")
    return torch.device(found[0] if name == "auto" else name)


def input_device(model: PreTrainedModel) -> torch.device:
    """Where the inputs of a model go: weights on a disk are on no device and are fetched to the CPU."""
    return torch.device("cpu") if model.device.type == "meta" else model.device


def load_model(name: str, revision: str | None = None, device: str = "cpu") -> tuple[PreTrainedModel, Any]:
    """A causal language model and its tokenizer, by directory or name on the Hub.

    Args:
        name: Of the model.
        revision: Branch, tag or commit on the Hub.
        device: One of `DEVICES`, where the model goes.

    Raises:
        ValueError: There is neither, what is there does not load, or the device is not there.
    """
    target = device_of(device)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(name, revision=revision)
        return model.to(target), AutoTokenizer.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        cause = error.__cause__
        # A repository that is not there is answered with 401 as well.
        if (
            isinstance(cause, HfHubHTTPError)
            and not isinstance(cause, RepositoryNotFoundError)
            and cause.response.status_code == 401
        ):
            reason = "the Hub does not accept the access token: log in anew by `hf auth login`, or unset HF_TOKEN"
        raise ValueError(f"cannot load the model {name}: {reason}") from error


def load_corpus_of(name: str, revision: str | None = None, **given: str) -> Texts:
    """The corpus that the run behind a model was trained on, by its run.json; or the one that `given` names.

    Args:
        name: Directory of the model, or its name on the Hub.
        revision: Branch, tag or commit on the Hub.
        given: Arguments of `rnn_hf.data.corpora.load_corpus`, which then count alone.

    Raises:
        ValueError: Nothing is given and there is no run.json of a run, or a broken one; or as `load_corpus`.
    """
    if given:
        return load_corpus(**given)
    path = Path(name) / "run.json"
    if not Path(name).is_dir():
        with suppress(OSError, ValueError):  # not there, not reachable, not a name: the corpus must be given
            path = Path(hf_hub_download(name, "run.json", revision=revision))
    run = read_run(path)
    if run is None:
        raise ValueError(
            f"{name} has no run.json of a training run: name a corpus by --dataset_name, --ptb_dir or --test_file"
        )
    data = run["arguments"]["data"]
    try:
        corpus = load_corpus(**{key: data[key] for key in signature(load_corpus).parameters if key in data})
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}, as {path} calls it: give the files of the corpus by flags") from error
    if "train" in corpus and "validation" not in corpus:
        corpus |= split_off_validation(corpus["train"], data.get("validation_split_percentage", 5))
    return corpus


def evaluate_splits(
    name: str, splits: Iterable[str], corpus: Texts, revision: str | None = None, progress: bool = False,
    columns: int = 1, window: int = 256, device: str = "cpu",
) -> dict[str, Score]:  # fmt: skip
    """The scores of a checkpoint on splits of a corpus; arguments as in `load_model` and `evaluate`.

    Raises:
        ValueError: The corpus lacks a split, before the model is loaded; or as `load_model` and `evaluate`.
    """
    for split in splits:
        if split not in corpus:
            raise ValueError(f"the corpus has no split {split!r}, only {', '.join(corpus)}")
    model, tokenizer = load_model(name, revision, device)
    scores = {}
    for split in splits:
        tokens = encode_stream(lines_of(corpus[split]), tokenizer)
        scores[split] = evaluate(model, tokens, start_id(tokenizer), columns, window, progress)
    return scores


def save_scores(model_dir: Path, scores: dict[str, Score], adapted: str = "", settings: Any = None) -> None:
    """Add scores to `evaluation.json` beside the weights, which it names by checksum: those of others are dropped.

    Args:
        model_dir: Directory of the model.
        scores: By split.
        adapted: Name of a test-time adaptation, whose scores stand apart under `adapted`.
        settings: Of the adaptation.
    """
    path = model_dir / "evaluation.json"
    weights = describe_weights(model_dir)
    before = read_json(path) or {}
    content = before if before.get("weights") == weights else {"weights": weights, "scores": {}}
    new = {split: score.to_dict() for split, score in scores.items()}
    if adapted:
        content.setdefault("adapted", {})[adapted] = {"settings": settings, "scores": new}
    else:
        content["scores"] |= new
    write_json(path, content)


def describe_weights(model_dir: Path) -> dict[str, Any]:
    """Size in bytes, type, number of parameters and checksum of the weights in a directory.

    Raises:
        FileNotFoundError: It has no model.safetensors.
        ValueError: They are in several files.
    """
    path = model_dir / "model.safetensors"
    if path.with_name(f"{path.name}.index.json").is_file():
        raise ValueError(
            f"the weights in {model_dir} stand in several files: save them in one (max_shard_size='50GB')"
        )
    if not path.is_file():
        raise FileNotFoundError(f"no weights {path}")
    parameters, dtypes = 0, set()
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            tensor = file.get_slice(name)
            parameters += math.prod(tensor.get_shape())
            dtypes.add(tensor.get_dtype())
    dtype = "/".join(sorted(DTYPES.get(dtype, dtype) for dtype in dtypes))
    return {"bytes": path.stat().st_size, "dtype": dtype, "parameters": parameters, "sha256": sha256_of(path)}


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """The model is in evaluation mode; afterwards it has its own mode again, also after an error."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def check_token_ids(model: Any, *parts: np.ndarray | Sequence[int]) -> None:
    """Refuse ids that a model has no row for.

    Args:
        model: A causal language model of this package.
        parts: Ids, `(tokens,)` each.

    Raises:
        ValueError: An id outside the vocabulary.
    """
    size = model.config.vocab_size
    for token in (int(limit(part)) for part in parts if len(part) for limit in (np.min, np.max)):
        if not 0 <= token < size:
            raise ValueError(
                f"token id {token} is outside the model's vocabulary of {size}: "
                "the text was encoded with another tokenizer"
            )


@torch.no_grad()
def evaluate(
    model: PreTrainedModel,
    tokens: np.ndarray,
    start: int,
    columns: int = 1,
    window: int = 128,
    progress: bool = False,
) -> Score:
    """Score every token of a stream once, each given all tokens before it.

    With one column the result does not depend on `window`: the state is carried over the whole stream. With more,
    the stream is cut into parallel pieces that each start from an empty state: faster, and higher by a little.

    Args:
        model: A causal language model of this package; its training mode is restored afterwards.
        tokens: Ids, `(tokens,)`; of these `tokens mod columns` at the end are not scored.
        start: Id of the token before the first one, usually the end token.
        columns: Number of pieces scored in parallel.
        window: Steps a forward pass; a matter of memory and speed only.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: An id outside the vocabulary, or as `TokenStream`.

    Example:

    >>> from rnn_hf import RNNConfig, RNNForCausalLM
    >>> model = RNNForCausalLM(RNNConfig(vocab_size=5, hidden_size=4))
    >>> score = evaluate(model, np.array([1, 2, 3, 4, 1, 2]), start=0)
    >>> score.num_tokens
    6
    """
    check_token_ids(model, [start], tokens)
    stream = TokenStream(tokens, start, columns, window).to(input_device(model))
    windows: Iterable = tqdm(stream, desc="evaluating", leave=False, mininterval=1, disable=not progress)
    total, state, losses = 0.0, None, []
    with evaluating(model):
        for index, (inputs, targets) in enumerate(windows, 1):
            outputs = model(inputs, cache=state, shift_labels=targets, use_cache=True, skip_logits=True)
            state = outputs.cache
            losses.append((outputs.loss, targets.numel()))
            if index % WINDOWS_TO_READ == 0 or index == len(stream):
                means = torch.stack([loss for loss, _ in losses]).tolist()  # where a GPU is waited for
                total += sum(mean * count for mean, (_, count) in zip(means, losses, strict=True))
                losses.clear()
    return Score(total / stream.num_tokens, stream.num_tokens)


def unigram_loss(train: np.ndarray, tokens: np.ndarray, vocab_size: int) -> float:
    """Loss in nats a token of the unigram model of `train` with one count added to each type (Laplace).

    The yardstick below which a model has learned nothing from context.
    """
    counts = np.bincount(train, minlength=vocab_size) + 1.0
    return float(-np.log(counts / counts.sum())[tokens].mean())
