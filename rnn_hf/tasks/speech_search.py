"""How labels are found in the logits of a recognizer: the best path, or a search with a language model fused in."""

from dataclasses import dataclass

import torch

from rnn_hf.errors import InputError
from rnn_hf.loading import load_model
from rnn_hf.models import RNNCTCTokenizer
from rnn_hf.models.beam_rnn import LabelLanguageModel, find_path


@dataclass(frozen=True)
class Search:
    """A way from logits to labels, as [`RNNForCTC.generate`]; by default the best path.

    Attributes:
        num_beams: Hypotheses that are kept from step to step; `None` is 16, where there is a search.
        language_model: Over the labels.
        language_model_weight: Of its log-probabilities.
        length_bonus: In nats a label.
    """

    num_beams: int | None = None
    language_model: LabelLanguageModel | None = None
    language_model_weight: float = 0.5
    length_bonus: float = 0.0

    def __call__(self, logits: torch.Tensor, blank: int) -> torch.Tensor:
        """The label or blank of each step, `(T',)`, of a row `(T', labels)`.

        Raises:
            InputError: The settings are no search.
        """
        settings = (self.num_beams, self.language_model, self.language_model_weight, self.length_bonus)
        try:
            return find_path(logits[None], torch.tensor([len(logits)]), blank, *settings)[0]
        except ValueError as error:
            raise InputError(str(error)) from error


BEST_PATH = Search()


def load_search(
    tokenizer: RNNCTCTokenizer,
    num_beams: int | None = None,
    language_model: str | None = None,
    language_model_weight: float = 0.5,
    length_bonus: float = 0.0,
    device: str = "cpu",
) -> Search:
    """A search with a language model from a directory or the Hub.

    Args:
        tokenizer: That of the recognizer.
        num_beams, language_model_weight, length_bonus: As of `Search`.
        language_model: Directory of a language model of this package, or its name on the Hub.
        device: One of `rnn_hf.loading.DEVICES`.

    Raises:
        InputError: Settings that are no search, no such language model, or one that lacks labels of the recognizer.
    """
    settings = (language_model_weight, length_bonus)
    if language_model is None:
        search = Search(num_beams, None, *settings)
    else:
        model, of_text = load_model(language_model, None, device, "AutoModelForCausalLM")
        try:
            search = Search(num_beams, LabelLanguageModel(model.eval(), of_text, tokenizer), *settings)
        except ValueError as error:
            raise InputError(f"`language_model` {language_model} does not fit: {error}") from error
    search(torch.zeros(0, len(tokenizer)), tokenizer.pad_token_id)  # refuses what is no search
    return search
