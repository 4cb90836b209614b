"""Other people's checkpoints: what knows their files, names and orders of gates."""

from rnn_hf.conversion.back import TARGETS, convert_back
from rnn_hf.conversion.card import Conversion
from rnn_hf.conversion.converter import FORMATS, convert


__all__ = ["FORMATS", "TARGETS", "Conversion", "convert", "convert_back"]
