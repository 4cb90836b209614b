"""A pipeline of transformers that translates; its own `translation` is gone from transformers 5."""

from typing import Any

from transformers import Pipeline


TASK = "rnn-translation"


class RNNTranslationPipeline(Pipeline):
    """Translations of texts by an [`RNNForConditionalGeneration`]: `pipeline("rnn-translation", NAME)`.

    It takes a text or a list of texts, and arguments of `generate()`, such as `num_beams`; how many texts are
    translated together is `batch_size`. Of each text it gives a dictionary with `translation_text`.

    With `rnn_hf`, a name or a directory needs `trust_remote_code=True` as for those without it, since the repository
    names this class; a model and a tokenizer that are at hand do not.
    """

    _pipeline_calls_generate = True
    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, options, {}

    def preprocess(self, text: str) -> dict[str, Any]:
        """A text as ids.

        Raises:
            ValueError: It is no text.
        """
        if not isinstance(text, str):
            raise ValueError(f"a text or a list of texts is translated, got {text!r:.60}")
        return self.tokenizer(text, return_tensors="pt")

    def _forward(self, inputs: dict[str, Any], **options: Any) -> dict[str, Any]:
        names = ("input_ids", "attention_mask")
        return {"ids": self.model.generate(**{name: inputs[name] for name in names}, **options)}

    def postprocess(self, outputs: dict[str, Any]) -> dict[str, str]:
        """The translation as text."""
        return {"translation_text": self.tokenizer.decode(outputs["ids"][0], skip_special_tokens=True)}


def custom_pipelines() -> dict[str, Any]:
    """What a configuration says of it to those without this package; transformers changes it, so it is made again."""
    impl = f"{__name__.rpartition('.')[2]}.{RNNTranslationPipeline.__name__}"
    return {TASK: {"impl": impl, "pt": ["AutoModelForSeq2SeqLM"], "type": "text"}}


__all__ = ["RNNTranslationPipeline"]
