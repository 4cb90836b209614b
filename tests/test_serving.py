"""The server: what a client reads is what the model says, what is wrong is refused in words, and no answer is lost.

Nobody who connects, and however he does, keeps others from an answer or the server from its end.
"""

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
from contextlib import contextmanager, suppress
from pathlib import Path

import openai
import pytest
import torch
from hub_server import HubServer
from transformers import AutoModelForCausalLM, AutoTokenizer

from rnn_hf import RNNConfig, RNNForCausalLM, RNNModel
from rnn_hf.data.tokenization import build_tokenizer
from rnn_hf.serving import answers, application, requests, server


WORDS = "the cat sat on a mat while dogs ran and birds sang to old red moons"
PROMPTS = ["the cat", "a dogs ran", "moons", "birds sang to", "old red mat", "sat on the", "while", "and a cat sang"]
LIMIT = 1_000_000  # tokens, and as many seconds
HELD_UP = 600  # seconds; only a server that does not answer takes them, so that its test ends
NAME = "model"  # of the directory that is served


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A model that says something else after each prompt, and never comes to an end by itself."""
    directory = tmp_path_factory.mktemp("served") / NAME
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
        built = server.build_server(name, **limits)
        thread = threading.Thread(target=built.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            built.should_exit = True
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
    """The text that `generate()` adds, without a server; no `<unk>`, as the server has it."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    options = {"bad_words_ids": [[1]], **options}
    inputs = tokenizer(prompt, return_tensors="pt")
    return tokenizer.decode(model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :])


def test_a_completion_is_what_generate_gives_whole_and_streaming(checkpoint, port):
    texts = set()
    for prompt in PROMPTS:
        asked = {"model": NAME, "prompt": prompt, "max_tokens": 12, "temperature": 0}
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


def events(port, **fields):
    """Data of each event of a stream, as it came."""
    status, headers, text = ask(port, "POST", "/v1/completions", fields | {"stream": True})
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    events = text.split("\n\n")
    assert events.pop() == "" and all(data.startswith("data: ") for data in events)
    return [data.removeprefix("data: ") for data in events]


def streamed(port, **fields):
    """Text, reason of the end and usage that a stream says."""
    *pieces, last, done = events(port, **fields)
    assert done == "[DONE]"
    pieces, last = list(map(json.loads, pieces)), json.loads(last)
    assert all(piece["choices"][0]["finish_reason"] is None for piece in pieces)
    text = "".join(piece["choices"][0]["text"] for piece in [*pieces, last])
    return text, last["choices"][0]["finish_reason"], last["usage"]


def test_a_text_ends_with_its_stop_wherever_in_a_token_that_ends(port):
    asked = {"prompt": "the cat", "max_tokens": 12, "temperature": 0}
    whole, _, usage = streamed(port, **asked)
    assert usage["completion_tokens"] == 12
    for length in (1, 2, 9):
        for stop in (whole[start : start + length] for start in range(0, len(whole) - length, 5)):
            expected = whole[: whole.index(stop) + length], "stop"
            choice = complete(port, **asked, stop=["nowhere", stop])["choices"][0]
            assert (choice["text"], choice["finish_reason"]) == streamed(port, **asked, stop=stop)[:2] == expected
    assert streamed(port, **asked, stop="nowhere") == (whole, "length", usage)


def test_a_stop_or_an_end_that_comes_with_the_last_token_allowed_is_the_reason(checkpoint, port, tmp_path):
    for max_tokens in (1, 5):
        asked = {"prompt": "the cat", "temperature": 0, "max_tokens": max_tokens}
        text = complete(port, **asked)["choices"][0]["text"]
        assert complete(port, **asked, stop=text)["choices"][0]["finish_reason"] == "stop"
        assert streamed(port, **asked, stop=text)[:2] == (text, "stop")
    with running(changed(checkpoint, tmp_path, say=0)) as ended:
        for max_tokens in (1, 2):
            asked = {"prompt": "the cat", "max_tokens": max_tokens}
            assert complete(ended, **asked)["choices"][0]["finish_reason"] == "stop"
            assert streamed(ended, **asked)[1] == "stop"


def changed(checkpoint, tmp_path, say=None, **generation):
    """A copy of a model that always says one token, or with another generation config."""
    model, folder = AutoModelForCausalLM.from_pretrained(checkpoint), tmp_path / NAME
    if say is not None:
        with torch.no_grad():
            model.lm_head.bias[say] = 100
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)
    if generation:
        path = folder / "generation_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | generation))
    return str(folder)


def test_an_end_token_ends_the_text_by_itself(checkpoint, tmp_path):
    with running(changed(checkpoint, tmp_path, say=0)) as port:
        (choice,) = complete(port, prompt="the cat")["choices"]
    assert choice == {"text": "", "finish_reason": "stop", "index": 0}


def test_the_word_for_unknown_words_is_said_only_where_it_is_allowed(checkpoint, tmp_path):
    asked = {"prompt": "the cat", "max_tokens": 3, "temperature": 0}
    name = changed(checkpoint, tmp_path, say=1)
    for with_unknown in (False, True):
        with running(name, with_unknown=with_unknown) as port:
            texts = complete(port, **asked)["choices"][0]["text"], streamed(port, **asked)[0]
            sampled = complete(port, **asked | {"temperature": 2})["choices"][0]["text"]
        assert all((text == 3 * " <unk>") == with_unknown and len(text.split()) == 3 for text in (*texts, sampled))
        assert ("<unk>" in sampled) == with_unknown and texts[0] == texts[1]


def test_stops_of_the_models_own_generation_config_count_and_what_a_server_lacks_is_said_at_its_start(
    checkpoint, tmp_path
):
    asked = {"prompt": "the cat", "max_tokens": 12, "temperature": 0}
    words = generated(checkpoint, "the cat", max_new_tokens=12, do_sample=False).split()
    own = {"stop_strings": [words[5][:2], "zzz"], "do_sample": True, "num_return_sequences": 2}
    with running(changed(checkpoint, tmp_path, **own)) as port:
        for stop in ([], [words[2]]):
            fields = asked | ({"stop": stop} if stop else {})
            expected = generated(checkpoint, "the cat", max_new_tokens=12, do_sample=False)
            end = min(expected.index(text) + len(text) for text in [words[5][:2], *stop])
            assert complete(port, **fields)["choices"][0]["text"] == expected[:end]
            assert streamed(port, **fields)[:2] == (expected[:end], "stop")
    with pytest.raises(ValueError, match=r"cannot serve the model .*generation_config.json .*num_beams"):
        server.build_server(changed(checkpoint, tmp_path, num_beams=4))


def test_the_model_is_listed_and_no_other_is_loaded(checkpoint, port):
    (name,) = [model.id for model in client(port).models.list()]
    assert name == NAME  # and no path
    assert client(port).completions.create(model=name, prompt="the").model == name
    assert {json.loads(piece)["model"] for piece in events(port, prompt="the", model=name)[:-1]} == {name}
    with pytest.raises(openai.NotFoundError) as refused:
        client(port).completions.create(model=checkpoint, prompt="the")
    assert "this server has 'model' alone" in str(refused.value)
    assert json.loads(ask(port, "GET", "/health")[2]) == {"status": "ok"}
    with pytest.raises(openai.NotFoundError, match="model: this server has .* alone, not 'openai-community/gpt2'"):
        client(port).completions.create(model="openai-community/gpt2", prompt="the")
    for path in ("/load_model", "/v1/completions/", "/v1/responses", "/v1/chat/completions", "/docs", "/health"):
        status, _, text = ask(port, "POST", path, {"model": "openai-community/gpt2", "prompt": "the"})
        assert status in (404, 405) and "this server has POST /v1/completions" in json.loads(text)["error"]["message"]
    assert complete(port, prompt="the")["usage"]["completion_tokens"] == 16


def test_chat_is_refused_with_words(port):
    with pytest.raises(openai.NotFoundError, match="no chat"):
        client(port).chat.completions.create(model=NAME, messages=[{"role": "user", "content": "hello"}])


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
        (b"\xff", "the body must be a JSON object"),
        (b"[" * 100_000, "the body must be a JSON object"),
        (b'{"max_tokens": ' + b"9" * 5_000 + b"}", "the body must be a JSON object"),
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
        asked = {"model": NAME, "prompt": "the", "max_tokens": LIMIT - 1, "temperature": 0}
        answer = client(port).completions.create(**asked, stream=stream)
        *_, last = answer if stream else [answer]
        assert last.choices[0].finish_reason == "length"
        assert 0 < last.usage.completion_tokens < LIMIT - 1
        # However slow the machine, there is one token before the limit is looked at.
        assert complete(port, prompt="the", max_tokens=1)["usage"]["completion_tokens"] == 1


@pytest.fixture
def writers(monkeypatch):
    """Of the generations that were begun since then."""
    writers, original = [], answers.Writer.generate

    def generate(self):
        writers.append(self)
        original(self)

    monkeypatch.setattr(answers.Writer, "generate", generate)
    return writers


def test_a_client_that_hangs_up_ends_the_generation_of_its_stream(port, writers):
    stream = client(port).completions.create(model=NAME, prompt="the", max_tokens=LIMIT - 1, stream=True)
    next(iter(stream))
    stream.close()
    # All generations take turns, so the one before this is over.
    assert complete(port, prompt="the", max_tokens=2)["usage"]["completion_tokens"] == 2
    assert 0 < writers[0].num_tokens < LIMIT - 1


def test_whole_answers_whose_clients_hang_up_hold_up_nobody(port, writers):
    body = json.dumps({"prompt": "the", "max_tokens": LIMIT - 1}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(4)]
    for connection in clients:
        connection.sendall(f"{head}\r\n\r\n".encode() + body)
    while not (writers and writers[0].num_tokens):  # the first generates, the others wait for their turn
        time.sleep(0.001)
    for connection in clients:
        connection.close()
    assert complete(port, prompt="the", max_tokens=2)["usage"]["completion_tokens"] == 2
    assert all(writer.num_tokens < LIMIT - 1 for writer in writers)


def test_a_failure_is_said_in_the_form_of_the_api_and_names_nothing_of_the_machine(port, monkeypatch):
    def fail(self):
        raise RuntimeError('"/home/me": no\nspace')

    monkeypatch.setattr(answers.Writer, "generate", fail)
    status, _, text = ask(port, "POST", "/v1/completions", {"prompt": "the"})
    error, done = events(port, prompt="the")
    assert status == 500 and done == "[DONE]"
    for answer in (text, error):
        assert json.loads(answer)["error"]["type"] == "server_error" and "/home" not in answer
    with pytest.raises(openai.APIError, match="the generation failed"):
        list(client(port).completions.create(model=NAME, prompt="the", stream=True))


def test_a_body_above_the_limit_is_refused_before_it_is_read_as_text(checkpoint, monkeypatch):
    with running(checkpoint, max_tokens_limit=10) as port:
        monkeypatch.setattr(application, "read_request", None)
        content = json.dumps({"prompt": "the " * 300_000}).encode()
        halves = iter([content[:600_000], content[600_000:]])
        for body in (content, halves):  # of a length that is said, and in parts
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HELD_UP)
            connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            assert response.status == 413
            assert "limit of 1000000 bytes" in json.load(response)["error"]["message"]
            connection.close()


def test_a_long_prompt_is_read_while_others_are_answered(port, monkeypatch):
    begun, go_on, original = threading.Event(), threading.Event(), application.read_request

    def read(content, served):
        begun.set()
        assert go_on.wait(HELD_UP)
        return original(content, served)

    monkeypatch.setattr(application, "read_request", read)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(complete, port, prompt="the cat")
        try:
            assert begun.wait(HELD_UP)
            assert ask(port, "GET", "/health")[0] == 200
        finally:
            go_on.set()
        assert answer.result()["usage"]["prompt_tokens"] == 2


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "


def rest(connection):
    """What comes until the server closes the connection."""
    content = b""
    with suppress(ConnectionError):
        while part := connection.recv(1000):
            content += part
    return content


@pytest.mark.parametrize(
    ("module", "part", "answer"),
    [
        (application, b"", b""),
        (application, HEAD, b""),
        (requests, HEAD + b'9\r\n\r\n{"p', b'{"error": {"message": "the body did not come within 0.05 seconds"'),
    ],
)
def test_a_request_that_does_not_come_to_its_end_is_given_up(port, monkeypatch, module, part, answer):
    monkeypatch.setattr(module, "REQUEST_SECONDS", 0.05)
    with socket.create_connection(("127.0.0.1", port), timeout=HELD_UP) as connection:
        with suppress(ConnectionError):
            connection.sendall(part)
        received = rest(connection)
    assert received.startswith(b"HTTP/1.1 408 " if answer else b"") and answer in received
    assert bool(received) == bool(answer)


def test_more_connections_than_the_limit_are_told_to_come_later(port, monkeypatch):
    monkeypatch.setattr(application, "CONNECTIONS", 0)
    status, headers, text = ask(port, "POST", "/v1/completions", {"prompt": "the"})
    assert status == 503 and headers["connection"] == "close" and "too many" in json.loads(text)["error"]["message"]


def test_the_end_does_not_wait_for_those_who_do_not_come_to_theirs(checkpoint, monkeypatch):
    def hold_up(self, tokens):  # a generation that the time limit does not end
        assert self.gone.wait(HELD_UP)
        raise answers.Over

    monkeypatch.setattr(server, "CLOSING_SECONDS", 0)
    body, stream = b'{"prompt": "the"}', b'{"prompt": "the", "stream": true}'
    parts = {
        "nothing": b"",
        "half a head": HEAD,
        "half a body": HEAD + b'9\r\n\r\n{"p',
        "whole": HEAD + b"%d\r\n\r\n" % len(body) + body,
        "stream": HEAD + b"%d\r\n\r\n" % len(stream) + stream,
    }
    with running(checkpoint, time_limit=0.5) as port:
        monkeypatch.setattr(answers.Writer, "put", hold_up)
        clients = {name: socket.create_connection(("127.0.0.1", port), timeout=HELD_UP) for name in parts}
        for name, part in parts.items():
            clients[name].sendall(part)
        assert clients["stream"].recv(1000)  # it has begun, and the others were sent before
    received = {name: rest(connection) for name, connection in clients.items()}
    assert received["nothing"] == received["half a head"] == b""
    for name in ("half a body", "whole"):
        assert received[name].startswith(b"HTTP/1.1 503 ") and b'"message": "the server is ending"' in received[name]
    assert b'"message": "the server is ending"' in received["stream"] and b"data: [DONE]" in received["stream"]


def test_a_server_on_this_machines_own_address_answers_to_its_names_alone(checkpoint):
    assert server.hosts_of("0.0.0.0", "0.0.0.0") is None and "[::1]" in server.hosts_of("::1", "::1")
    with running(checkpoint, hosts=server.hosts_of("Here", "127.0.0.1")) as port:
        names = ["localhost", "127.0.0.1", "[::1]", f"localhost:{port}", f"[::1]:{port}", "LOCALHOST", "here"]
        for name in names:
            assert ask(port, "GET", "/health", Host=name)[0] == 200
        for name in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost@evil.example"):
            status, _, text = ask(port, "POST", "/v1/completions", {"prompt": "the"}, Host=name)
            assert status == 400 and "this server is reached as" in json.loads(text)["error"]["message"]


def test_an_empty_prompt_is_told_what_stands_before_a_text(checkpoint, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(changed(checkpoint, tmp_path))
    for begin, start in ((None, "<eos>"), ("<unk>", "<unk>")):
        tokenizer.bos_token = begin
        tokenizer.save_pretrained(tmp_path / NAME)
        with running(str(tmp_path / NAME)) as port:
            text = ask(port, "POST", "/v1/completions", {"prompt": ""})[2]
            assert f"a text from its beginning has the prompt '{start}'" in json.loads(text)["error"]["message"]
            assert complete(port, prompt=start)["usage"]["prompt_tokens"] == 1


def test_what_cannot_be_served_is_refused_before_anything_listens(checkpoint, tmp_path, monkeypatch):
    backbone = tmp_path / "backbone"
    RNNModel(RNNConfig(vocab_size=5, hidden_size=4)).save_pretrained(backbone)
    (tmp_path / "a@b").mkdir()
    more = AutoTokenizer.from_pretrained(changed(checkpoint, tmp_path))
    more.add_tokens(["more"])
    more.save_pretrained(tmp_path / NAME)
    backward = changed(checkpoint, tmp_path / "backward")
    RNNConfig.from_pretrained(backward, reads_backward=True).save_pretrained(backward)
    refused = {
        backbone: "it is a RNNModel",
        backward: "a server needs a language model that reads forward",
        tmp_path / "a@b": "cannot load the model",
        tmp_path: "cannot load the model",
        tmp_path / NAME: "its tokenizer has ids up to 18, and it knows 18",
    }
    for name, words in refused.items():
        with pytest.raises(ValueError, match=words):
            server.build_server(str(name))
    for limits in ({"max_tokens_limit": 1}, {"time_limit": 0.0}, {"time_limit": float("nan")}):
        with pytest.raises(ValueError, match=f"`{next(iter(limits))}` must be"):
            server.build_server(checkpoint, **limits)
    monkeypatch.setattr(server, "is_serve_available", lambda: False)
    with pytest.raises(ImportError, match=re.escape("pip install 'rnn_hf[serving]'")):
        server.build_server(checkpoint)


def test_a_port_that_is_not_to_be_had_is_said_before_a_model_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="`port` .*: Address already"):
        server.serve("nowhere", port=taken.getsockname()[1])
    with pytest.raises(ValueError, match="`port` must be from 0 to 65535, got 70000"):
        server.serve("nowhere", port=70_000)


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


@pytest.mark.slow
def test_a_model_of_the_hub_is_served_by_name_and_revision(checkpoint, tmp_path):
    asked = {"prompt": "the cat", "max_tokens": 12, "temperature": 0}
    with HubServer() as hub:
        hub.create("me/model")
        files = {path.name: path.read_bytes() for path in Path(checkpoint).iterdir()}
        revision = hub.commit("me/model", files, "model")
        hub.commit("me/model", {"config.json": b"{}", "model.safetensors": b""}, "damage")
        with command(f"me/model@{revision}", **hub.environment(tmp_path, "hf_write")) as (_, port):
            completion = complete(port, model=f"me/model@{revision}", **asked)
    assert completion["choices"][0]["text"] == generated(checkpoint, "the cat", max_new_tokens=12, do_sample=False)


def accepts(host, port):
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_shutdown_answers_what_was_begun_refuses_what_is_new_and_leaves_nothing(checkpoint, tmp_path, number):
    cwd, cache = tmp_path / "empty", tmp_path / "cache"
    cwd.mkdir()
    with command(checkpoint, cwd, HF_HUB_OFFLINE="1", HF_HOME=str(cache)) as (process, port):
        assert accepts("127.0.0.1", port) and not accepts("127.0.0.2", port)  # this machine too, as others see it
        assert ask(port, "GET", "/health", Host="evil.example")[0] == 400
        asked = {"model": NAME, "prompt": "the", "temperature": 0, "max_tokens": 6_000}
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
