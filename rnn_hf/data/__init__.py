"""From text to what a model trains on: corpora, tokenizers, streams."""
