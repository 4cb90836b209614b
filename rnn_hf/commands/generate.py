"""Write text with a checkpoint.

rnn-hf generate MODEL --prompt "the government" [--max_new_tokens 40] [--temperature 0.8] [--top_k 50]
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from rnn_hf.commands import Parser, add_device_flag, add_model_argument, utf8_text
from rnn_hf.errors import InputError


def parse(argv: Sequence[str] | None = None) -> Namespace:
    parser = Parser(__doc__, "generate")
    add_model_argument(parser)
    parser.add_argument(
        "--prompt", type=utf8_text, action="append", help="text to go on from; may be given several times"
    )
    parser.add_argument("--max_new_tokens", type=int, default=40, help="tokens to write at most")
    parser.add_argument("--min_new_tokens", type=int, default=0, help="tokens to write before a text may end")
    parser.add_argument("--num_return_sequences", type=int, default=1, help="texts for each prompt")
    parser.add_argument("--num_beams", type=int, default=1, help="more than 1: beam search")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: always the likeliest token")
    parser.add_argument("--top_k", type=int, default=50, help="sample from so many of the likeliest tokens")
    parser.add_argument("--top_p", type=float, default=1.0, help="and from those that make up this probability")
    parser.add_argument("--with_unknown", action="store_true", help="let the token for unknown words be generated")
    parser.add_argument("--past_end", action="store_true", help="do not stop at the end of a sentence")
    parser.add_argument("--seed", type=int, default=0, help="of sampling")
    add_device_flag(parser)
    return parser.parse_args(argv)


def check(arguments: Namespace) -> None:
    """Refuse values out of range, before the model is loaded."""
    least = {"max_new_tokens": 1, "min_new_tokens": 0, "num_return_sequences": 1, "num_beams": 1, "top_k": 1}
    for name, value in least.items():
        if getattr(arguments, name) < value:
            raise InputError(f"--{name} must be at least {value}, got {getattr(arguments, name)}")
    if arguments.min_new_tokens > arguments.max_new_tokens:
        raise InputError(
            f"--min_new_tokens {arguments.min_new_tokens} must be at most --max_new_tokens {arguments.max_new_tokens}"
        )
    if arguments.temperature != 0 and not 1e-3 <= arguments.temperature <= 1e3:  # or logits overflow
        raise InputError(f"--temperature must be 0, or from 0.001 to 1000; got {arguments.temperature}")
    if not 0 < arguments.top_p <= 1:
        raise InputError(f"--top_p is a probability above 0, got {arguments.top_p}")
    if not 0 <= arguments.seed < 2**32:
        raise InputError(f"--seed must be from 0 to {2**32 - 1}, got {arguments.seed}")
    texts = arguments.num_return_sequences
    if texts > arguments.num_beams and (arguments.num_beams > 1 or arguments.temperature == 0):
        raise InputError(
            f"--num_return_sequences {texts} needs as many --num_beams, or sampling: a --temperature above 0"
        )


def warn_of_unknown(tokenizer: Any, prompt: str, unknown: int | None) -> None:
    """Name the words of a prompt that the model does not know."""
    encoded = tokenizer(prompt, return_offsets_mapping=True)
    pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    words = [prompt[start:end].strip() for token, (start, end) in pairs if token == unknown]
    if words and unknown != tokenizer.eos_token_id:
        sys.stderr.write(f"unknown to the model: {', '.join(words)}\n")


def run(arguments: Namespace) -> int:
    from transformers import pipeline, set_seed
    from transformers.utils.logging import disable_progress_bar

    from rnn_hf.data.tokenization import start_id, unknown_id
    from rnn_hf.evaluation import check_token_ids
    from rnn_hf.loading import check_reads_forward, load_model

    check(arguments)
    options = vars(arguments)
    disable_progress_bar()
    name, prompts, seed, device = (options.pop(key) for key in ("model", "prompt", "seed", "device"))
    options["do_sample"] = options["temperature"] > 0 and options["num_beams"] == 1
    if not options["do_sample"]:
        options = {key: value for key, value in options.items() if key not in ("temperature", "top_k", "top_p")}
    past_end = options.pop("past_end")
    with_unknown = options.pop("with_unknown")
    model, tokenizer = load_model(name, device=device)
    check_reads_forward(model, "writing text")
    unknown = unknown_id(tokenizer)
    check_token_ids(model, *(tokenizer(prompt)["input_ids"] for prompt in prompts or []))
    for prompt in prompts or []:
        warn_of_unknown(tokenizer, prompt, unknown)
    if past_end:
        model.generation_config.eos_token_id = None
        options["skip_special_tokens"] = False
    if unknown not in (None, tokenizer.eos_token_id) and not with_unknown:  # some have one token for both
        options["bad_words_ids"] = [[unknown]]
    set_seed(seed)
    generator = pipeline("text-generation", model=model, tokenizer=tokenizer)
    begin = tokenizer.convert_ids_to_tokens(start_id(tokenizer))
    prompts = prompts or [begin]
    for prompt, texts in zip(prompts, generator(prompts, **options), strict=True):
        for text in texts:
            print(text["generated_text"].removeprefix(begin).strip())
            if text["generated_text"].strip() == prompt.strip():
                sys.stderr.write("the model ended this text at once: --min_new_tokens 10 makes it go on\n")
    return 0
