"""What the package does, in a few minutes: train a small LSTM on real English, load it back, generate text.

python scripts/demo.py [--output_dir DIR] [flags of scripts/train.py]
"""

import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline, set_seed
from transformers.utils.logging import disable_progress_bar

from rnn_hf.commands import run_command
from rnn_hf.data.tokenization import unknown_id
from rnn_hf.training.loop import train
from rnn_hf.training.parsing import parse_arguments


RECIPE = Path(__file__).parent / "recipes" / "sotu_lstm_demo.yaml"
PROMPTS = ("My fellow citizens", "The United States", "We must")


def main() -> int:
    disable_progress_bar()
    defaults = ["--output_dir", "runs/demo", "--overwrite_output_dir", "true"]
    arguments = parse_arguments([str(RECIPE), *defaults, *sys.argv[1:]])
    print("Training a small LSTM on State of the Union addresses (package sotu), lower perplexity is better:")
    record = train(arguments)
    directory = arguments.training.output_dir
    unigram = record["data"]["unigram_validation_perplexity"]
    result = record["result"]
    trained = result["best_validation_perplexity"]
    print(f"\nvalidation perplexity: unigram model {unigram:.1f}, this LSTM {trained:.1f} "
          f"({record['parameters']:,} parameters, {result['minutes']} minutes)")  # fmt: skip
    print(f"\nLoading {directory} with AutoModelForCausalLM and AutoTokenizer; the text-generation pipeline says:\n")
    model = AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    generator = pipeline("text-generation", model=model, tokenizer=tokenizer)
    set_seed(1)
    options = {"max_new_tokens": 30, "do_sample": True, "temperature": 0.7, "top_k": 50}
    for texts in generator(list(PROMPTS), bad_words_ids=[[unknown_id(tokenizer)]], **options):
        print(f"  {texts[0]['generated_text']}")
    print(f"\nModel, curve.png and run.json are in {directory}.")
    return 0


if __name__ == "__main__":
    run_command(main)
