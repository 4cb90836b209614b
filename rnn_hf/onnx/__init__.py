"""Deployment: exported graphs and their runner. Names of the files of an exported folder."""

MODEL_FILE, INT8_FILE, REPORT_FILE, TRTEXEC_FILE = "model.onnx", "model_int8.onnx", "export.json", "trtexec.sh"
