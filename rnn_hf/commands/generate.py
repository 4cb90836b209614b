"""Write text with a checkpoint.

rnn-hf generate MODEL --prompt "the government" [--max_new_tokens 40] [--temperature 0.8] [--top_k 50]
"""

from argparse import Namespace
from collections.abc import Sequence

from rnn_hf.commands import Parser, add_device_flag, add_model_argument


def parse(argv: Sequence[str] | None = None) -> Namespace:
    parser = Parser(__doc__, "generate")
    add_model_argument(parser)
    parser.add_argument("--prompt", action="append", help="text to go on from; may be given several times")
    parser.add_argument("--max_new_tokens", type=int, default=40)
    parser.add_argument("--num_return_sequences", type=int, default=1)
    parser.add_argument("--num_beams", type=int, default=1, help="more than 1: beam search")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: always the likeliest token")
    parser.add_argument("--top_k", type=int, default=50)
    parser.add_argument("--top_p", type=float, default=1.0)
    parser.add_argument("--with_unknown", action="store_true", help="let the token for unknown words be generated")
    parser.add_argument("--past_end", action="store_true", help="do not stop at the end of a sentence")
    parser.add_argument("--seed", type=int, default=0)
    add_device_flag(parser)
    return parser.parse_args(argv)


def run(arguments: Namespace) -> int:
    from transformers import pipeline, set_seed
    from transformers.utils.logging import disable_progress_bar

    from rnn_hf.data.tokenization import start_id, unknown_id
    from rnn_hf.evaluation import check_token_ids
    from rnn_hf.loading import load_model

    options = vars(arguments)
    disable_progress_bar()
    name, prompts, seed, device = (options.pop(key) for key in ("model", "prompt", "seed", "device"))
    options["do_sample"] = options["temperature"] > 0 and options["num_beams"] == 1
    if not options["do_sample"]:
        options = {key: value for key, value in options.items() if key not in ("temperature", "top_k", "top_p")}
    past_end, with_unknown = options.pop("past_end"), options.pop("with_unknown")
    model, tokenizer = load_model(name, device=device)
    check_token_ids(model, *(tokenizer(prompt)["input_ids"] for prompt in prompts or []))
    if past_end:
        model.generation_config.eos_token_id = None
        options["skip_special_tokens"] = False
    unknown = unknown_id(tokenizer)
    if unknown not in (None, tokenizer.eos_token_id) and not with_unknown:  # some have one token for both
        options["bad_words_ids"] = [[unknown]]
    set_seed(seed)
    generator = pipeline("text-generation", model=model, tokenizer=tokenizer)
    begin = tokenizer.convert_ids_to_tokens(start_id(tokenizer))
    for texts in generator(prompts or [begin], **options):
        for text in texts:
            print(text["generated_text"].removeprefix(begin).strip())
    return 0
