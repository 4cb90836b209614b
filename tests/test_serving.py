"""The server: what a client reads is what the model says, what is wrong is refused in words, and no answer is lost."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
import torch
from hub_server import HubServer
from transformers import AutoModelForCausalLM, AutoTokenizer

from rnn_hf import RNNConfig, RNNForCausalLM, RNNModel, serving
from rnn_hf.data.tokenization import build_tokenizer


WORDS = "the cat sat on a mat while dogs ran and birds sang to old red moons"
PROMPTS = ["the cat", "a dogs ran", "moons", "birds sang to", "old red mat", "sat on the", "while", "and a cat sang"]
LIMIT = 1_000_000  # tokens, and as many seconds
HELD_UP = 600  # seconds; only a server that does not answer takes them, so that its test ends


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A model that says something else after each prompt, and never comes to an end by itself."""
    directory = tmp_path_factory.mktemp("served") / "model"
    tokenizer = build_tokenizer([WORDS])
    ends = dict.fromkeys(("eos_token_id", "bos_token_id", "pad_token_id"), 0)
    torch.manual_seed(0)
    model = RNNForCausalLM(RNNConfig(vocab_size=len(tokenizer), hidden_size=24, cell_type="gru", **ends))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-2, 2)
        model.lm_head.bias[:2] = -100
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


@contextmanager
def running(name, **limits):
    """The port of a server that runs in a thread of this process."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = serving.build_server(name, **limits)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def port(checkpoint):
    with running(checkpoint, max_tokens_limit=LIMIT, time_limit=LIMIT) as port:
        yield port


def ask(port, method, path, body=None, **headers):
    """Status, headers and text of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HELD_UP)
    content = body if body is None or isinstance(body, bytes) else json.dumps(body)
    connection.request(method, path, content, {"Content-Type": "application/json", **headers})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, dict(response.getheaders()), text


def complete(port, **fields):
    status, _, text = ask(port, "POST", "/v1/completions", fields)
    assert status == 200, text
    return json.loads(text)


def client(port):
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=HELD_UP)


def generated(checkpoint, prompt, **options):
    """The text that `generate()` adds, without a server."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    inputs = tokenizer(prompt, return_tensors="pt")
    return tokenizer.decode(model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :])


def test_a_completion_is_what_generate_gives_whole_and_streaming(checkpoint, port):
    texts = set()
    for prompt in PROMPTS:
        asked = {"model": checkpoint, "prompt": prompt, "max_tokens": 12, "temperature": 0}
        whole = client(port).completions.create(**asked)
        pieces = list(client(port).completions.create(**asked, stream=True))
        expected = generated(checkpoint, prompt, max_new_tokens=12, do_sample=False)
        assert whole.choices[0].text == "".join(piece.choices[0].text for piece in pieces) == expected
        assert len(pieces) > 2 and pieces[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
        assert whole.usage == pieces[-1].usage and whole.usage.completion_tokens == 12
        texts.add(expected)
    assert len(texts) == len(PROMPTS)


def test_concurrent_requests_get_what_they_get_alone(checkpoint, port):
    asked = [{"prompt": prompt, "max_tokens": 200, "temperature": 0} for prompt in PROMPTS]
    asked += [{"prompt": "the", "max_tokens": 50, "temperature": 1, "seed": seed} for seed in range(4)]
    alone = [complete(port, **fields)["choices"][0]["text"] for fields in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(lambda fields: complete(port, **fields)["choices"][0]["text"], asked))
    assert together == alone and len(set(alone)) == len(alone)


def test_sampling_is_asked_for_by_a_temperature_and_only_a_seed_fixes_it(checkpoint, port):
    def text(**fields):
        return complete(port, prompt="the", max_tokens=30, **fields)["choices"][0]["text"]

    assert text() == text(temperature=0) == text(temperature=0, top_p=0.5)
    assert text(temperature=1, seed=3) == text(temperature=1, seed=3) != text(temperature=1, seed=4)
    after_seed = [(text(temperature=1, seed=3), text(temperature=1)) for _ in range(2)]
    assert after_seed[0][1] != after_seed[1][1]
    torch.manual_seed(5)
    sampled = generated(checkpoint, "the", max_new_tokens=30, do_sample=True, temperature=0.7, top_p=0.9)
    assert text(temperature=0.7, top_p=0.9, seed=5) == sampled


def test_a_stop_ends_the_text_after_it(checkpoint, port):
    asked = {"prompt": "the cat", "max_tokens": 40, "temperature": 0}
    whole = complete(port, **asked)["choices"][0]["text"]
    words = whole.split()
    for stop in (words[5], [words[9], f"{words[6]} {words[7]}"]):
        choice = complete(port, **asked, stop=stop)["choices"][0]
        stops = [stop] if isinstance(stop, str) else stop
        assert choice["text"] == whole[: min(whole.index(text) + len(text) for text in stops)]
        assert choice["finish_reason"] == "stop"


def test_an_end_token_ends_the_text_by_itself(checkpoint, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    with torch.no_grad():
        model.lm_head.bias[0] = 100
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(tmp_path / "model")
    with running(str(tmp_path / "model")) as port:
        (choice,) = complete(port, prompt="the cat")["choices"]
    assert choice == {"text": "", "finish_reason": "stop", "index": 0}


def test_the_model_is_listed_and_no_other_is_loaded(checkpoint, port):
    assert [model.id for model in client(port).models.list()] == [checkpoint]
    assert json.loads(ask(port, "GET", "/health")[2]) == {"status": "ok"}
    with pytest.raises(openai.NotFoundError, match="model: this server has .* alone, not 'openai-community/gpt2'"):
        client(port).completions.create(model="openai-community/gpt2", prompt="the")
    others = ["/load_model", "/reset", "/v1/responses", "/v1/systemone", "/v1/audio/transcriptions"]
    for path in [*others, "/v1/chat/completions", "/docs"]:
        status, _, text = ask(port, "POST", path, {"model": "openai-community/gpt2", "prompt": "the"})
        assert status == 404 and "this server has POST /v1/completions" in text
    assert complete(port, prompt="the")["usage"]["completion_tokens"] == 16


def test_chat_is_refused_with_words(checkpoint, port):
    with pytest.raises(openai.NotFoundError, match="no chat"):
        client(port).chat.completions.create(model=checkpoint, messages=[{"role": "user", "content": "hello"}])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "prompt is missing"),
        ({"prompt": None}, "prompt is missing"),
        ({"prompt": ""}, "prompt has no tokens: a text from its beginning has the prompt '<eos>'"),
        ({"prompt": " \n"}, "prompt has no tokens"),
        ({"prompt": ["the", "cat"]}, "prompt must be one text (several are several requests; token ids"),
        ({"prompt": [2, 3]}, "prompt must be one text"),
        ({"prompt": "the \ud800"}, "prompt must be one text"),
        ({"prompt": "the", "max_tokens": -1}, "max_tokens must be a whole number of at least 1"),
        ({"prompt": "the", "max_tokens": 0}, "max_tokens must be"),
        ({"prompt": "the", "max_tokens": "5"}, "max_tokens must be"),
        ({"prompt": "the", "max_tokens": True}, "max_tokens must be"),
        ({"prompt": "the", "max_tokens": 10**30}, "this server's limit of 1000000"),
        ({"prompt": "the", "max_tokens": LIMIT}, "prompt has 1 tokens: with max_tokens 1000000 that is above"),
        ({"prompt": "the", "temperature": -0.1}, "temperature must be 0 for greedy search, or from 0.01 to 2"),
        ({"prompt": "the", "temperature": 2.1}, "temperature must be"),
        ({"prompt": "the", "temperature": 1e-300}, "temperature must be"),
        ({"prompt": "the", "temperature": float("nan")}, "temperature must be"),
        ({"prompt": "the", "temperature": "hot"}, "temperature must be"),
        ({"prompt": "the", "top_p": 1.5}, "top_p must be"),
        ({"prompt": "the", "frequency_penalty": -1}, "frequency_penalty must be"),
        ({"prompt": "the", "seed": 2**64}, "seed must be"),
        ({"prompt": "the", "stop": ""}, "stop must be"),
        ({"prompt": "the", "stop": [1]}, "stop must be"),
        ({"prompt": "the", "stream": "false"}, "stream must be true or false"),
        ({"prompt": "the", "n": 2}, "n has no effect here: leave it out, or at 1"),
        ({"prompt": "the", "logprobs": 1}, "logprobs has no effect here"),
        ({"prompt": "the", "suffix": "end"}, "suffix has no effect here"),
        ({"prompt": "the", "max_new_tokens": 5}, "unknown field 'max_new_tokens'; known are model, prompt"),
        ({"prompt": "the", "generation_config": "{}"}, "unknown field 'generation_config'"),
        ({"prompt": "the", "\ud800": 1}, "unknown field"),
        ({"prompt": "the", "model": ["a"]}, "model: this server has"),
        ([1], "the body must be a JSON object"),
        (b'{"prompt": "the"', "the body must be a JSON object"),
        (b"", "the body must be a JSON object"),
        (b"\xff", "error parsing the body"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_request_is_refused_with_words_that_name_the_field(port, fields, words, stream):
    body = {"stream": stream} | fields if isinstance(fields, dict) else fields
    status, _, text = ask(port, "POST", "/v1/completions", body)
    error = json.loads(text)["error"]
    assert 400 <= status < 500 and words in error["message"]
    assert error["param"] is None or error["param"] in error["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1, "echo": False, "logprobs": None, "suffix": ""},
        {"user": "me", "stream_options": {"include_usage": True}},
        {"top_p": 0, "temperature": 2},
        {"temperature": 0.01, "top_p": 1},
        {"frequency_penalty": -0.99, "stop": ["z", "y"]},
        {"seed": 2**63 - 1, "temperature": 1},
    ],
)
def test_what_the_rules_allow_is_answered(port, fields):
    assert complete(port, prompt="the", max_tokens=3, **fields)["usage"]["completion_tokens"] == 3


def test_a_prompt_and_completion_as_long_as_the_limit_are_answered_and_no_longer_ones(checkpoint):
    with running(checkpoint, max_tokens_limit=10) as port:
        assert complete(port, prompt="the cat", max_tokens=8)["usage"]["total_tokens"] == 10
        for prompt, max_tokens in (("the cat", 9), ("the " * 10, 1), ("the " * 10_000, 1)):
            status, _, text = ask(port, "POST", "/v1/completions", {"prompt": prompt, "max_tokens": max_tokens})
            assert status == 400 and "this server's limit of 10" in text


@pytest.mark.parametrize("stream", [False, True])
def test_a_generation_over_the_time_limit_is_cut_and_said_to_be(checkpoint, stream):
    with running(checkpoint, max_tokens_limit=LIMIT, time_limit=0.2) as port:
        asked = {"model": checkpoint, "prompt": "the", "max_tokens": LIMIT - 1, "temperature": 0}
        answer = client(port).completions.create(**asked, stream=stream)
        *_, last = answer if stream else [answer]
        assert last.choices[0].finish_reason == "length"
        assert 0 < last.usage.completion_tokens < LIMIT - 1
        # However slow the machine, there is one token before the limit is looked at.
        assert complete(port, prompt="the", max_tokens=1)["usage"]["completion_tokens"] == 1


def test_a_client_that_hangs_up_ends_the_generation_of_its_stream(checkpoint, port, monkeypatch):
    lengths, original = [], serving.TimeLimit.__call__

    def is_over(self, input_ids, scores, **kwargs):
        lengths.append(input_ids.shape[1])
        return original(self, input_ids, scores, **kwargs)

    monkeypatch.setattr(serving.TimeLimit, "__call__", is_over)
    stream = client(port).completions.create(model=checkpoint, prompt="the", max_tokens=LIMIT - 1, stream=True)
    next(iter(stream))
    stream.close()
    # All generations take turns, so the one before this is over.
    assert complete(port, prompt="the", max_tokens=2)["usage"]["completion_tokens"] == 2
    assert 2 < max(lengths) < LIMIT


def test_no_page_of_a_browser_is_let_in(port):
    for method, path in (("GET", "/v1/models"), ("OPTIONS", "/v1/models"), ("OPTIONS", "/v1/completions")):
        asks = {"Origin": "http://elsewhere.example", "Access-Control-Request-Method": "POST"}
        assert not [name for name in ask(port, method, path, **asks)[1] if name.lower().startswith("access-control")]
    # This much a page may send without asking.
    status, _, text = ask(port, "POST", "/v1/completions", {"prompt": "the"}, **{"Content-Type": "text/plain"})
    assert status == 400 and "sent as application/json" in text


def test_what_cannot_be_served_is_refused_before_anything_listens(checkpoint, tmp_path, monkeypatch):
    backbone = tmp_path / "backbone"
    RNNModel(RNNConfig(vocab_size=5, hidden_size=4)).save_pretrained(backbone)
    (tmp_path / "a@b").mkdir()
    for name, words in ((backbone, "it is a RNNModel"), (tmp_path / "a@b", "@"), (tmp_path, "cannot serve the model")):
        with pytest.raises(ValueError, match=words):
            serving.build_server(str(name))
    for limits in ({"max_tokens_limit": 1}, {"time_limit": 0.0}, {"time_limit": float("nan")}):
        with pytest.raises(ValueError, match=f"--{next(iter(limits))}"):
            serving.build_server(checkpoint, **limits)
    monkeypatch.setattr(serving, "is_serve_available", lambda: False)
    with pytest.raises(ImportError, match=re.escape("pip install 'rnn_hf[serving]'")):
        serving.build_server(checkpoint)


def test_a_port_that_is_not_to_be_had_is_said_before_a_model_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="--port .*: Address already"):
        serving.serve("nowhere", port=taken.getsockname()[1])
    with pytest.raises(ValueError, match="--port must be from 0 to 65535, got 70000"):
        serving.serve("nowhere", port=70_000)


@contextmanager
def command(name, cwd=None, **environment):
    """The command in a process of its own, and its port."""
    script = Path(__file__).parents[1] / "scripts" / "serve.py"
    own = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[1])} | environment
    argv = [sys.executable, script, name, "--port", "0", "--max_tokens_limit", str(LIMIT), "--time_limit", str(LIMIT)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, cwd=cwd, env=own) as process:
        try:
            lines = iter(process.stderr.readline, "")
            address = next(filter(None, (re.search(r"is on http://127\.0\.0\.1:(\d+)/v1", line) for line in lines)))
            yield process, int(address[1])
        finally:
            process.kill()


def test_a_model_of_the_hub_is_served_by_name_and_revision(checkpoint, tmp_path):
    asked = {"prompt": "the cat", "max_tokens": 12, "temperature": 0}
    with HubServer() as hub:
        hub.create("me/model")
        files = {path.name: path.read_bytes() for path in Path(checkpoint).iterdir()}
        revision = hub.commit("me/model", files, "model")
        hub.commit("me/model", {"config.json": b"{}", "model.safetensors": b""}, "damage")
        with command(f"me/model@{revision}", **hub.environment(tmp_path, "hf_write")) as (_, port):
            found = complete(port, model=f"me/model@{revision}", **asked)
    assert found["choices"][0]["text"] == generated(checkpoint, "the cat", max_new_tokens=12, do_sample=False)


def accepts(host, port):
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_shutdown_answers_what_was_begun_refuses_what_is_new_and_leaves_nothing(checkpoint, tmp_path, number):
    cwd, cache = tmp_path / "empty", tmp_path / "cache"
    cwd.mkdir()
    with command(checkpoint, cwd, HF_HUB_OFFLINE="1", HF_HOME=str(cache)) as (process, port):
        assert accepts("127.0.0.1", port) and not accepts("127.0.0.2", port)  # this machine too, as others see it
        asked = {"model": checkpoint, "prompt": "the", "temperature": 0, "max_tokens": 6_000}
        stream = iter(client(port).completions.create(**asked, stream=True))
        next(stream)
        waiting = http.client.HTTPConnection("127.0.0.1", port, timeout=HELD_UP)
        body = json.dumps({"prompt": "the", "max_tokens": 5})
        waiting.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        assert ask(port, "GET", "/health")[0] == 200  # asked later, so the server has read the request by now
        process.send_signal(number)
        while accepts("127.0.0.1", port):
            time.sleep(0.01)
        *_, last = stream
        assert last.usage.completion_tokens == 6_000
        assert json.load(waiting.getresponse())["usage"]["completion_tokens"] == 5
        assert process.wait(HELD_UP) == 0
    assert not list(cwd.iterdir()) and not cache.exists()
