"""Language modeling: the next token at each position, with the state carried over the whole text."""

from collections.abc import Mapping, Sequence
from typing import Any

from rnn_hf.evaluation import Score, evaluate_splits
from rnn_hf.runs import load_corpus_of


def evaluate(
    name: str, splits: Sequence[str], given: Mapping[str, str], revision: str | None = None, progress: bool = False,
    device: str = "cpu", batch_size: int | None = None, window: int = 256,
) -> dict[str, Score]:  # fmt: skip
    """The scores of a model on splits of its run's corpus, or of another one.

    Args:
        name: Directory of the model, or its name on the Hub.
        splits: Among `train`, `validation`, `test`.
        given: Arguments of `rnn_hf.data.corpora.load_corpus`; none stands for the corpus of the model's run.
        revision: Branch, tag or commit on the Hub.
        progress: Whether to show a progress bar.
        device: One of `rnn_hf.loading.DEVICES`.
        batch_size: Pieces of the text that are scored in parallel; `None` is 1, which is exact.
        window: Steps a forward pass, a matter of memory and speed.

    Raises:
        InputError: As `load_corpus_of` and `evaluate_splits`.
    """
    corpus = load_corpus_of(name, revision, **given)
    return evaluate_splits(name, splits, corpus, revision, progress, batch_size or 1, window, device)


def describe_score(score: Score) -> str:
    """A score as a line for people."""
    return (
        f"perplexity {score.perplexity:.2f} over {score.num_tokens:,} tokens "
        f"({score.loss:.4f} nats, {score.to_dict()['bits_per_token']:.4f} bits a token)"
    )


def card_values(run: Mapping[str, Any], scores: Mapping[str, Any]) -> dict[str, Any]:
    """What `language_modeling.md` needs besides the values of every card.

    Args:
        run: Content of run.json, which may be empty.
        scores: Of evaluation.json, by split.
    """
    result = run.get("result") or {}
    validation = None
    if result.get("best_step"):  # the score of training's own validation, for a model that was not evaluated
        loss, tokens = result["best_validation_loss"], run["data"]["tokens"]["validation"]
        validation = {"loss_nats": loss, "perplexity": result["best_validation_perplexity"], "tokens": tokens}
    return {
        "speed_unit": "tokens",
        "unigram": run.get("data", {}).get("unigram_validation_perplexity"),
        "validation": validation,
    }
