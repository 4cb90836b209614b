"""Labels that mark spans, such as names: `B-` begins one, `I-` is inside one, `O` is outside all (the scheme IOB2)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rnn_hf.errors import MissingPackageError


def has_spans(names: Sequence[str]) -> bool:
    """Whether labels mark spans, as `B-PER`, `I-PER` and `O` do."""
    return any(name.startswith("B-") for name in names) and all(
        name == "O" or name[:2] in ("B-", "I-") for name in names
    )


def span_f1(truth: list[list[str]], predicted: list[list[str]]) -> float:
    """F1 of whole spans, by seqeval in its strict mode and the scheme IOB2: an `I-` that no `B-` begins is no span.

    Raises:
        MissingPackageError: As `seqeval`.
    """
    package = seqeval()
    scheme = package.scheme.IOB2
    return float(package.metrics.f1_score(truth, predicted, mode="strict", scheme=scheme, zero_division=0))


def seqeval() -> Any:
    """The package `seqeval`.

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        import seqeval.metrics
        import seqeval.scheme
    except ImportError as error:
        raise MissingPackageError("the scores of spans need seqeval: pip install seqeval") from error
    return seqeval


def may_follow(names: Sequence[str]) -> np.ndarray:
    """Which label may stand behind which: `[i, j]` is whether label j may follow label i, `(classes, classes)`.

    An `I-` follows the `B-` or the `I-` of its own kind only.
    """
    return np.array([[not after.startswith("I-") or before[2:] == after[2:] for after in names] for before in names])


def likeliest_labels(logits: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The likeliest label of each word; of labels that mark spans, the likeliest sequence in which every span begins
    with `B-` (Viterbi, 1967).

    Args:
        logits: Of the words of a sentence, `(words, classes)`.
        names: Of the classes.

    Returns:
        Ids, `(words,)`.

    >>> names = ["O", "B-PER", "I-PER"]
    >>> likeliest_labels(np.log([[0.5, 0.4, 0.1], [0.2, 0.1, 0.7]]), names).tolist()  # not O, I-PER
    [1, 2]
    """
    best = logits.argmax(axis=1)
    if not has_spans(names) or not len(best):
        return best
    follows = may_follow(names)
    begins = np.array([not name.startswith("I-") for name in names])
    if begins[best[0]] and follows[best[:-1], best[1:]].all():
        return best
    steps = np.where(follows, 0.0, -np.inf)
    logits = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    scores, origins = np.where(begins, logits[0], -np.inf), []
    for word in logits[1:]:
        paths = scores[:, None] + steps
        origins.append(paths.argmax(axis=0))
        scores = paths.max(axis=0) + word
    path = [int(scores.argmax())]
    for origin in reversed(origins):
        path.append(int(origin[path[-1]]))
    return np.array(path[::-1])
