"""Deployment: exported graphs and their runner. Names of the files of an exported folder."""

MODEL_FILE, INT8_FILE, REPORT_FILE, TRTEXEC_FILE = "model.onnx", "model_int8.onnx", "export.json", "trtexec.sh"
# Of a recognizer of speech that hears while somebody speaks, and the weights of its mel bands.
STREAM_FILE, STREAM_INT8_FILE, MEL_FILE = "stream.onnx", "stream_int8.onnx", "mel_filters.json"
# Of a network that translates, whose decoder is the main file.
ENCODER_FILE, ENCODER_INT8_FILE = "encoder.onnx", "encoder_int8.onnx"
# Second files, and the names under which the report speaks of them.
SECOND_FILES = {STREAM_FILE: "stream", ENCODER_FILE: "encoder"}
SECOND_INT8_FILES = {STREAM_INT8_FILE: "stream", ENCODER_INT8_FILE: "encoder"}
