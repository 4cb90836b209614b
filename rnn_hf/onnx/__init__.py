"""Deployment: exported graphs and their runner. Names of the files of an exported folder."""

MODEL_FILE, INT8_FILE, REPORT_FILE, TRTEXEC_FILE = "model.onnx", "model_int8.onnx", "export.json", "trtexec.sh"
# Of a recognizer of speech that hears while somebody speaks, and the weights of its mel bands.
STREAM_FILE, STREAM_INT8_FILE, MEL_FILE = "stream.onnx", "stream_int8.onnx", "mel_filters.json"
