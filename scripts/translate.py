"""`rnn-hf translate` from a clone."""

from rnn_hf_command import main


if __name__ == "__main__":
    main("translate")
