"""Chat: SmolLM2 behind `transformers serve` against the same model without a server; servers that
hang, refuse or answer nonsense; several questions at once; limits, estimates, the answers on the
disk, the key.
"""

import asyncio
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from email.utils import formatdate
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pandas as pd
import pytest
import torch

from promptrec.core import PromptrecError
from promptrec.data.dataset import DOMAINS, make_dataset
from promptrec.evaluation.choice import lenient, strict
from promptrec.evaluation.split import Histories
from promptrec.sbtrec.chat import ChatModel, ChatSettings
from promptrec.sbtrec.language_model import llm_path, load_llm

FILMS = [
    "Alien (1979)",
    "Brazil (1985)",
    "Casablanca (1942)",
    "Duck Soup (1933)",
    "Amélie (2001)",
    "Alien (1979)",
]
CANDIDATES = np.array([[2, 1, 3], [0, 3, 5], [4, 0, 2]])
SECRET = "sk-do-not-tell-anyone"
USUAL = {"timeout": 5.0, "retries": 2, "at_once": 1, "price_in": 0.0, "price_out": 0.0}


@pytest.fixture(scope="module")
def ds():
    return make_dataset(
        "films",
        DOMAINS["movies"],
        pd.DataFrame({"user": [0] * 6, "item": range(6)}),
        pd.DataFrame({"item": range(6), "title": FILMS}),
    )


@pytest.fixture(scope="module")
def h():
    return Histories(np.array([0, 1, 2, 3]), np.full(4, np.nan), np.array([0, 2, 3, 4]))


@pytest.fixture
def chat(ds, tmp_path, monkeypatch):
    "Make a model with a key in the environment, a folder of its own and quick failures."
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)

    def make(url, **settings):
        model = ChatModel(
            ds,
            ChatSettings(url, **USUAL | settings),
        )
        model.folder = tmp_path / "chat"
        return model

    return make


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# ---- a real server ----


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    "Address, folder and process of SmolLM2 behind `transformers serve`; it ends with the tests."
    lack = [p for p in ("fastapi", "uvicorn") if importlib.util.find_spec(p) is None]
    if lack:
        pytest.skip(
            f"{' and '.join(lack)} not installed, so nothing can be served: "
            "pip install 'transformers[serving]'"
        )
    folder, port = Path(llm_path("smollm2-135m")), free_port()
    log = tmp_path_factory.mktemp("serve") / "log"
    command = [
        sys.executable,
        "-m",
        "transformers.cli.transformers",
        "serve",
        folder.name,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--device",
        "cpu",
    ]
    with open(log, "w") as out:
        process = subprocess.Popen(
            command,
            cwd=folder.parent,
            stdout=out,
            stderr=out,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
    try:
        until = time.monotonic() + 120
        while not ready(port):
            assert process.poll() is None and time.monotonic() < until, (
                f"the server did not start:\n{log.read_text()[-2000:]}"
            )
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", folder, process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def ready(port):
    try:
        return urlopen(f"http://127.0.0.1:{port}/health", timeout=1).status == 200
    except OSError:
        return False


def test_a_served_model_says_what_it_says_without_a_server(served, chat, h):
    url, folder, process = served
    model = chat(url, served=folder.name, timeout=60.0, retries=0, max_tokens=8)
    said = model.answers(h, CANDIDATES)
    assert model.calls == 3 and len(list(model.folder.iterdir())) == 3
    llm, tok = load_llm(str(folder))
    for request, answer in zip(model.requests(h, CANDIDATES), said):
        x = tok.apply_chat_template(
            request["messages"], add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        with torch.no_grad():
            out = llm.generate(**x, do_sample=False, max_new_tokens=8)
        n = x["input_ids"].shape[1]
        assert answer == tok.decode(out[0, n:], skip_special_tokens=True).strip() != ""
        kept = json.loads(model.path(request).read_text())
        assert (kept["prompt_tokens"], kept["completion_tokens"], kept["request"]) == (
            n,
            out.shape[1] - n,
            request,
        )
    with pytest.raises(
        PromptrecError, match="refused the request for model 'gpt-4' .400.*pinned to"
    ):
        chat(url).answers(h, CANDIDATES)
    process.terminate()
    process.wait(10)
    again = chat(url, served=folder.name, retries=0, max_tokens=8)
    assert again.answers(h, CANDIDATES) == said and again.calls == 0  # the server is gone
    with pytest.raises(PromptrecError, match=f"{url} cannot be reached"):
        again.answers(h, CANDIDATES[:, :2])


# ---- bad servers ----


class Bad(BaseHTTPRequestHandler):
    """Does what the server's list `todo` says, one thing a request: a status, a status and headers,
    'hang', or a body; then it answers well, after `pause` seconds. Counts who is `inside`.
    """

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body go at once

    def do_POST(self):
        server, body = self.server, self.rfile.read(int(self.headers["Content-Length"]))
        with server.lock:
            server.seen.append((json.loads(body), self.headers["Authorization"]))
            server.times.append(time.monotonic())
            server.inside += 1
            server.most = max(server.most, server.inside)
            what = server.todo.pop(0) if server.todo else 200
        server.at_request(len(server.seen))
        time.sleep(server.pause)
        with server.lock:
            server.inside -= 1  # before the answer, after which the client may send another
        self.reply(json.loads(body), what)

    def reply(self, request, what):
        server, headers = self.server, self.server.headers
        if isinstance(what, tuple):
            what, headers = what
        if what == "hang":
            server.over.wait(10)
        usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
        good = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "usage": usage,
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": server.said(request)},
                }
            ],
        }
        fault = {"error": {"message": f"I do not like {self.headers['Authorization']}"}}
        text = what if isinstance(what, str) else json.dumps(good if what == 200 else fault)
        try:
            self.send_response(what if isinstance(what, int) else 200)
            for k, v in {
                "Content-Type": "application/json",
                "Content-Length": len(text.encode()),
                **headers,
            }.items():
                self.send_header(k, str(v))
            self.end_headers()
            self.wfile.write(text.encode())
        except OSError:
            pass  # the client has gone

    def log_message(self, *args):
        pass


class Waiting(ThreadingHTTPServer):
    request_queue_size = 64  # many connect at once
    daemon_threads = True


@pytest.fixture
def bad():
    server = Waiting(("127.0.0.1", 0), Bad)
    server.todo, server.seen, server.times = [], [], []
    server.lock, server.inside, server.most, server.pause = threading.Lock(), 0, 0, 0.0
    server.said = lambda request: f" Film {len(server.seen)}\n"
    server.at_request = lambda n: None
    server.headers = {"retry-after-ms": "1"}
    server.over = threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


def one(model, h, b=0):
    return model.answers(h[[b]], CANDIDATES[[b]])


def test_what_is_sent(bad, chat, h):
    model = chat(bad.url, served="m")
    assert one(model, h) == ["Film 1"]
    ((request, key),) = bad.seen
    assert request == model.requests(h[[0]], CANDIDATES[[0]])[0] and key == f"Bearer {SECRET}"
    assert (request["temperature"], request["max_tokens"], len(request["messages"])) == (0, 64, 1)


@pytest.mark.parametrize("fault", [408, 409, 429, 500, 503])
def test_a_passing_fault_is_tried_again(bad, chat, h, fault):
    bad.todo = [fault, fault]
    model = chat(bad.url, price_in=1000.0, price_out=2000.0, max_cost=99.0)
    assert one(model, h) == ["Film 3"] and model.calls == 3
    most = model.cost_at_most(model.requests(h[[0]], CANDIDATES[[0]])[0])
    # the failed ones at their most, the good one as counted
    assert model.cost == pytest.approx(2 * most + 1.0 + 0.2)


def test_it_waits_longer_each_time(bad, chat, h):
    bad.todo, bad.headers = [500, 500], {}
    started = time.monotonic()
    one(chat(bad.url), h)
    assert time.monotonic() - started > 0.375 + 0.75  # half a second and one, less a quarter


def test_a_fault_that_stays(bad, chat, h):
    bad.todo = [429] * 9
    model = chat(bad.url)
    with pytest.raises(PromptrecError, match="refused the request for model 'gpt-4' .429."):
        one(model, h)
    assert model.calls == 3 == len(bad.seen) and not model.folder.exists()


def test_silence(bad, chat, h):
    bad.todo = ["hang"] * 9
    model = chat(bad.url, timeout=0.3, retries=1)
    with pytest.raises(PromptrecError, match="gave no answer within 0.3 seconds"):
        one(model, h)
    assert model.calls == 2
    bad.todo = ["hang"]
    assert one(chat(bad.url, timeout=0.3, retries=1), h) == ["Film 4"]


def test_nobody_there(chat, h):
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(PromptrecError, match=f"User 0 of 1 .*{url} cannot be reached .*failed"):
        one(chat(url, retries=0), h)


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key(bad, chat, h, status):
    bad.todo = [status]
    with pytest.raises(
        PromptrecError, match=f"refused the key .{status}.. Set OPENAI_API_KEY"
    ) as e:
        one(chat(bad.url), h)
    assert len(bad.seen) == 1
    assert SECRET not in repr(e.getrepr(style="long")) and e.value.__context__ is None


@pytest.mark.parametrize(
    "text",
    ["", "not json", "[]", "{}", '{"choices": []}', '{"choices": [{"message": null}]}', '"hello"'],
)
def test_nonsense(bad, chat, h, text):
    bad.todo = [text] * 9
    with pytest.raises(PromptrecError, match="gave no chat completion"):
        one(chat(bad.url), h)


def reply(content, ended="stop", **message):
    "The body of a chat completion."
    message = {"role": "assistant", "content": content, **message}
    return json.dumps({"choices": [{"index": 0, "finish_reason": ended, "message": message}]})


@pytest.mark.parametrize("content", [None, "", "<think>The user likes films,"])
def test_no_tokens_left_for_an_answer(bad, chat, h, content):
    "An answer that did not begin is no wrong answer; what the error advises works."
    bad.todo = [reply(content, "length", reasoning_content="The user likes films,")]
    model = chat(bad.url)
    with pytest.raises(PromptrecError, match="used up max_tokens=64.*Raise max_tokens"):
        one(model, h)
    assert model.calls == 1 and not model.folder.exists()
    assert one(chat(bad.url, max_tokens=4096), h) == ["Film 2"]
    assert bad.seen[-1][0]["max_tokens"] == 4096


@pytest.mark.parametrize(
    "body, said",
    [
        (reply([{"type": "text", "text": "Alien (1979)"}]), "Alien (1979)"),
        (
            reply(
                [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
                    {"type": "text", "text": "Alien "},
                    {"type": "text", "text": "(1979)"},
                ]
            ),
            "Alien (1979)",
        ),
        (reply([]), ""),
        (reply(None, refusal="I cannot help with that."), "I cannot help with that."),
        (reply("Alien (1979)\nbecause", "length"), "Alien (1979)\nbecause"),
    ],
)
def test_shapes_of_an_answer(bad, chat, h, body, said):
    bad.todo = [body]
    assert one(chat(bad.url), h) == [said]


def test_reasoning_is_no_part_of_the_answer(bad, chat, h):
    titles = chat(bad.url).names
    first = titles[CANDIDATES[0, 0]]
    bad.todo = [reply(f"<think>\n{titles[1]}?\n</think>\n\n{first}"), reply(f"<think>{first}")]
    said = chat(bad.url).answers(h[:2], CANDIDATES[:2])
    assert strict(said, CANDIDATES[:2], titles).tolist() == [0, -1]
    assert lenient(said, CANDIDATES[:2], titles).tolist() == [0, -1]


@pytest.mark.parametrize(
    "fault",
    [
        '{"error": {"message": "overloaded by SECRET", "code": 502}}',
        '{"id": "x", "choices": null, "error": "overloaded by SECRET"}',
        '{"choices": [{"index": 0, "error": {"message": "overloaded by SECRET"}}]}',
    ],
)
def test_an_error_inside_a_good_reply_is_shown_and_tried_again(bad, chat, h, fault):
    fault = fault.replace("SECRET", SECRET)
    bad.todo = [fault, fault]
    model = chat(bad.url)
    assert one(model, h) == ["Film 3"] and model.calls == 3
    bad.todo = [fault] * 9
    model = chat(bad.url, retries=1)
    with pytest.raises(PromptrecError, match="answered with an error.*overloaded by") as e:
        one(model, h, 1)
    assert model.calls == 2 and SECRET not in str(e.value)


def test_no_choices_are_tried_again(bad, chat, h):
    bad.todo = ['{"choices": []}']
    assert one(chat(bad.url), h) == ["Film 2"]


@pytest.mark.parametrize("status", [400, 422])
def test_a_parameter_that_the_server_refuses(bad, chat, h, status):
    "The error names the setting, and what it advises works."
    bad.todo = [status]
    with pytest.raises(PromptrecError, match="leave that out of send .now 'temperature max_tok"):
        one(chat(bad.url), h)
    assert one(chat(bad.url, send="max_completion_tokens"), h) == ["Film 2"]
    sent = bad.seen[-1][0]
    assert set(sent) == {"model", "messages", "max_completion_tokens"}
    assert sent["max_completion_tokens"] == 64
    one(chat(bad.url, send=""), h)
    assert set(bad.seen[-1][0]) == {"model", "messages"}


def test_no_words_and_no_usage(bad, chat, h):
    bad.todo = ['{"choices": [{"message": {"role": "assistant", "content": null}}]}']
    model = chat(bad.url, price_in=1000.0, max_cost=9.0)
    assert one(model, h) == [""] and one(model, h) == [""] and model.calls == 1
    assert model.cost == model.cost_at_most(model.requests(h[[0]], CANDIDATES[[0]])[0])


# ---- when to come back ----


def pause_before_the_second(bad):
    assert len(bad.times) == 2
    return bad.times[1] - bad.times[0]


def test_a_wait_in_seconds_is_heeded(bad, chat, h):
    "Without such a word it is half a second at most."
    bad.todo = [(429, {"Retry-After": "1"})]
    assert one(chat(bad.url), h) == ["Film 2"]
    assert 1.0 <= pause_before_the_second(bad) < 6.0


def test_a_wait_until_a_date_is_heeded(bad, chat, h):
    "A date has whole seconds, so that three from the request are two to three away."
    headers = {}
    bad.todo = [(503, headers)]

    def when(n):
        headers["Retry-After"] = formatdate(time.time() + 3, usegmt=True)

    bad.at_request = when
    assert one(chat(bad.url), h) == ["Film 2"]
    assert 0.95 <= pause_before_the_second(bad) < 6.0


@pytest.mark.parametrize("kind", ["seconds", "date"])
def test_a_wait_of_more_than_two_minutes_is_told(bad, chat, h, kind):
    after = "3600" if kind == "seconds" else formatdate(time.time() + 3600, usegmt=True)
    bad.todo = [(429, {"Retry-After": after})] * 9
    with pytest.raises(
        PromptrecError, match=f"429.. Lower at_once .now 1., .*Retry-After: {after[:20]}"
    ):
        one(chat(bad.url), h)
    assert len(bad.seen) == 1


# ---- several at once ----


FILM = [f"Film {i}" for i in range(40)]


def crowd_model(folder, url, **settings):
    "A model of 40 films and users; the server is to answer each with the film they saw."
    films = make_dataset(
        "crowd",
        DOMAINS["movies"],
        pd.DataFrame({"user": 0, "item": range(40)}),
        pd.DataFrame({"item": range(40), "title": FILM}),
    )
    model = ChatModel(films, ChatSettings(url, **USUAL | settings))
    model.folder = folder
    return model


@pytest.fixture
def crowd(tmp_path, monkeypatch):
    "Make such a model with a key in the environment and a folder of its own."
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    return partial(crowd_model, tmp_path / "crowd")


USERS = Histories(np.arange(40), np.full(40, np.nan), np.arange(41))
CHOICES = (np.arange(40)[:, None] + [1, 2, 3]) % 40


def seen_film(request):
    "The film that a user of the crowd saw."
    return request["messages"][0]["content"].split("watching movies: ")[1].split(".")[0]


def asked_films(bad):
    return [seen_film(request) for request, _ in bad.seen]


@pytest.mark.parametrize("at_once", [1, 3, 8])
def test_no_more_than_at_once_and_answers_in_order(bad, crowd, at_once):
    "Answers come in another order than they were asked for."
    bad.said = seen_film
    bad.at_request = lambda n: time.sleep(0.03 * (n % 3))
    assert crowd(bad.url, at_once=at_once).answers(USERS, CHOICES) == FILM
    assert at_once // 2 < bad.most <= at_once  # a busy machine may be slow to send them
    assert sorted(asked_films(bad)) == sorted(FILM)


def test_several_at_once_are_several_times_as_fast(bad, crowd, tmp_path):
    bad.said, bad.pause = seen_film, 0.05
    seconds = []
    for at_once in (1, 10):
        model = crowd(bad.url, at_once=at_once)
        model.folder = tmp_path / str(at_once)
        started = time.monotonic()
        assert model.answers(USERS, CHOICES) == FILM
        seconds.append(time.monotonic() - started)
    assert seconds[0] > 3 * seconds[1], seconds


def test_faults_among_many_are_tried_again(bad, crowd):
    bad.said, bad.todo = seen_film, [500, 429, 200, 503, 500, 200, 429]
    model = crowd(bad.url, at_once=8, retries=5)
    assert model.answers(USERS, CHOICES) == FILM
    assert model.calls == len(bad.seen) == 45


def test_the_first_user_who_failed_is_named_and_no_other_begins(bad, crowd):
    "Those on their way are waited for, and kept."
    bad.said = seen_film
    bad.todo = [200] * 6 + [400]
    model = crowd(bad.url, at_once=2)
    with pytest.raises(PromptrecError, match=r"User \d of 40 .counted from 0. has no .*400") as e:
        model.answers(USERS, CHOICES)
    failed = int(str(e.value).split()[1])
    kept = len(list(model.folder.iterdir()))
    assert kept in (6, 7) and len(bad.seen) == kept + 1
    assert not model.path(model.requests(USERS, CHOICES)[failed]).exists()
    bad.seen.clear()
    assert model.answers(USERS, CHOICES) == FILM and len(bad.seen) == 40 - kept


def test_a_limit_holds_while_answers_are_outstanding(bad, crowd):
    bad.said, bad.pause = seen_film, 0.02
    model = crowd(bad.url, at_once=8, max_calls=11)
    with pytest.raises(PromptrecError, match="User 11 of 40.*11 requests were sent.*max_calls=11"):
        model.answers(USERS, CHOICES)
    assert len(bad.seen) == 11 == len(list(model.folder.iterdir()))


def test_the_same_question_is_asked_once(bad, crowd):
    bad.said = seen_film
    twice = [0, 1, 0, 1, 1]
    model = crowd(bad.url, at_once=4)
    assert model.answers(USERS[twice], CHOICES[twice]) == [FILM[i] for i in twice]
    assert len(bad.seen) == 2


def test_within_a_running_event_loop_as_in_jupyter(bad, crowd):
    bad.said = seen_film

    async def cell():
        return crowd(bad.url, at_once=8).answers(USERS, CHOICES)

    assert asyncio.run(cell()) == FILM


def test_an_interruption_ends_what_is_on_its_way(bad, crowd):
    bad.said, bad.pause = seen_film, 0.05

    def interrupt(n):
        if n == 10:
            os.kill(os.getpid(), signal.SIGINT)

    bad.at_request = interrupt
    model = crowd(bad.url, at_once=2)
    with pytest.raises(KeyboardInterrupt):
        model.answers(USERS, CHOICES)
    kept, sent = len(list(model.folder.glob("*.json"))), len(bad.seen)
    time.sleep(0.3)
    assert len(bad.seen) == sent <= 12 and 6 <= kept <= sent
    assert model.answers(USERS, CHOICES) == FILM and len(bad.seen) == sent + 40 - kept


def test_a_killed_run_goes_on_with_the_missing(bad, crowd, tmp_path):
    "The child also shows that openai is not imported before it is needed."
    bad.said, bad.pause = seen_film, 0.05
    code = (
        "import sys; from pathlib import Path; from test_chat import *\n"
        "assert 'openai' not in sys.modules\n"
        "folder, url = Path(sys.argv[1]), sys.argv[2]\n"
        "crowd_model(folder, url, at_once=2).answers(USERS, CHOICES)\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    model = crowd(bad.url, at_once=8)
    command = [sys.executable, "-c", code, str(model.folder), bad.url]
    child = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})
    until = time.monotonic() + 120
    while len(bad.seen) < 12:
        assert child.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    child.kill()
    child.wait()
    time.sleep(0.2)  # what the server still had to do
    kept, sent = len(list(model.folder.glob("*.json"))), len(bad.seen)
    assert 8 <= kept < 40
    assert model.answers(USERS, CHOICES) == FILM and len(bad.seen) == sent + 40 - kept


def test_without_the_package_the_extra_is_named(bad, crowd, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(PromptrecError, match=r'pip install "promptrec\[chat\]"'):
        crowd(bad.url).answers(USERS, CHOICES)
    assert bad.seen == []


# ---- what it will take ----


def test_the_estimate_comes_before_the_first_request(bad, crowd, capsys):
    said = []
    bad.at_request = lambda n: said.append(capsys.readouterr().err)
    bad.said = seen_film
    model = crowd(bad.url, at_once=4, price_in=10.0, price_out=20.0, served="m", max_tokens=7)
    estimate = model.estimate(USERS, CHOICES)
    assert (estimate.prompts, estimate.kept, estimate.tokens_out) == (40, 0, 280)
    characters = sum(len(r["messages"][0]["content"]) for r in model.requests(USERS, CHOICES))
    assert estimate.tokens_in == -(-characters // 3) and bad.seen == []
    assert estimate.cost == pytest.approx((estimate.tokens_in * 10 + 280 * 20) / 1e6)
    assert estimate.cost < sum(map(model.cost_at_most, model.requests(USERS, CHOICES)))
    model.answers(USERS[:30], CHOICES[:30])
    assert said[0].startswith("m: prompts to ask 30, answers kept 0; about")
    assert (model.estimate(USERS, CHOICES).prompts, model.estimate(USERS, CHOICES).kept) == (10, 30)


def test_it_does_not_begin_where_the_estimate_is_above_max_cost(bad, crowd):
    "What the error advises works; answers that are kept cost nothing."
    price = {"price_in": 100.0, "price_out": 200.0, "at_once": 8}
    cost = crowd(bad.url, **price).estimate(USERS, CHOICES).cost
    with pytest.raises(PromptrecError, match="Not begun.*prompts to ask 40.*max_cost=.*Raise the"):
        crowd(bad.url, **price, max_cost=0.99 * cost).answers(USERS, CHOICES)
    assert bad.seen == []
    bad.said = seen_film
    crowd(bad.url, **price, max_cost=20.0).answers(USERS[:35], CHOICES[:35])
    assert len(bad.seen) == 35
    crowd(bad.url, **price, max_cost=0.99 * cost).answers(USERS, CHOICES)
    assert len(bad.seen) == 40


def test_prices_that_are_not_known(bad, crowd, capsys):
    bad.said = seen_film
    model = crowd(bad.url, at_once=8, price_in=None, price_out=None, max_cost=0.0)
    assert model.estimate(USERS, CHOICES).cost is None
    assert model.answers(USERS, CHOICES) == FILM and model.cost == 0
    assert "prices are not known" in capsys.readouterr().err


# ---- limits, the disk, the key ----


def test_the_limit_of_calls(bad, chat, h):
    model = chat(bad.url, max_calls=2)
    with pytest.raises(PromptrecError, match="2 requests were sent.*max_calls=2.*are kept in"):
        model.answers(h, CANDIDATES)
    assert len(bad.seen) == 2 == len(list(model.folder.iterdir()))
    more = chat(bad.url, max_calls=1)
    assert more.answers(h, CANDIDATES) == ["Film 1", "Film 2", "Film 3"] and more.calls == 1


def test_retries_count_as_calls(bad, chat, h):
    bad.todo = [500] * 9
    model = chat(bad.url, max_calls=2, retries=5)
    with pytest.raises(PromptrecError, match="2 requests were sent.*max_calls=2"):
        one(model, h)
    assert len(bad.seen) == 2
    with pytest.raises(PromptrecError, match="max_calls=2"):
        one(model, h)
    assert len(bad.seen) == 2


def test_the_limit_of_cost(bad, chat, h):
    "Each answer costs 0.036; what one can cost at most is some 0.02 more."
    price = {"price_in": 30.0, "price_out": 60.0}
    model = chat(bad.url, max_cost=0.08, **price)
    with pytest.raises(
        PromptrecError, match=r"2 requests were sent and at most 0\.0720 spent.*max_cost=0\.08"
    ):
        model.answers(h, CANDIDATES)
    assert len(bad.seen) == 2 and model.cost == pytest.approx(0.072)
    bad.todo, model = [500] * 9, chat(bad.url, max_cost=0.04, retries=9, **price)
    with pytest.raises(PromptrecError, match="The next request may cost.*max_cost=0.04"):
        one(model, h, 2)
    assert 1 <= model.calls < 10 and model.cost <= 0.04


def test_a_second_run_asks_nothing(bad, chat, h):
    said = chat(bad.url).answers(h, CANDIDATES)
    assert chat(bad.url, max_calls=0, max_cost=0.0, price_in=9.0).answers(
        h[[2, 0]], CANDIDATES[[2, 0]][:, ::-1]
    ) == [said[2], said[0]]
    assert len(bad.seen) == 3
    chat(bad.url, max_tokens=9).answers(h, CANDIDATES)
    assert len(bad.seen) == 6


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"answer": 1}', '"answer"', b"\xff\xfe"])
def test_a_damaged_answer_is_named(bad, chat, h, text):
    model = chat(bad.url)
    one(model, h)
    (path,) = model.folder.iterdir()
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PromptrecError, match=f"{path} is no stored answer.*Delete it"):
        one(model, h)
    path.unlink()
    assert one(model, h) == ["Film 2"]


def test_the_key_is_nowhere(bad, chat, h, monkeypatch):
    model = chat(bad.url, retries=0)
    one(model, h)
    bad.todo = [400, 500, 401]
    said = []
    for _ in range(3):
        with pytest.raises(PromptrecError) as e:
            one(model, h, 1)
        said += [str(e.value), repr(e.value.__context__), repr(e.value.__cause__)]
    assert "***" in said[0]
    kept = "".join(p.read_text() for p in model.folder.iterdir())
    assert SECRET not in "".join(
        [*said, kept, repr(vars(model)), json.dumps(asdict(model.settings))]
    )
    assert [k for _, k in bad.seen] == [f"Bearer {SECRET}"] * 4
    monkeypatch.setenv("OPENAI_API_KEY", "sk-é")
    with pytest.raises(PromptrecError, match="characters that no key has"):
        one(model, h, 1)
    monkeypatch.delenv("OPENAI_API_KEY")
    assert one(model, h, 1) == ["Film 5"] and SECRET not in bad.seen[-1][1]


def test_a_chat_model_is_a_run_like_any_other(tmp_path, monkeypatch):
    from promptrec.experiments.parameters import configure
    from promptrec.experiments.records import read_record
    from promptrec.experiments.run import execute, prepare

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "films"
    folder.mkdir()
    g = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "user": np.repeat(range(20), 6),
            "item": np.concatenate([g.permutation(30)[:6] for _ in range(20)]),
            "rating": 5,
            "timestamp": range(120),
        }
    )
    rows.to_csv(folder / "interactions.csv", index=False)
    pd.DataFrame(
        {"item": range(30), "title": [f"Film {i}" for i in range(30)], "genres": "Drama"}
    ).to_csv(folder / "items.csv", index=False)
    run = configure(
        dataset=str(folder),
        model="chat",
        split="users",
        candidates="uniform-4",
        max_history=5,
        max_calls=0,
        out_dir=str(tmp_path / "runs"),
    )
    data = prepare(run)
    with pytest.raises(PromptrecError, match="max_calls=0"):
        execute(run, data)
    model, items = ChatModel(data.dataset, run.settings), data.candidates["test"].items
    model.folder.mkdir(parents=True)
    for b, request in enumerate(model.requests(data.split.histories("test"), items)):
        model.path(request).write_text(json.dumps({"answer": model.names[items[b, b % 2]]}))
    record = read_record(execute(run, data).path)
    assert (
        set(record["metrics"]["test"]) == {"generate"}
        and record["metrics"]["test"]["generate"]["hit@1"]["value"] == 0.5
    )
