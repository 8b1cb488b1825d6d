"""A model server on the loopback, for real command lines: it follows a plan, fails as providers do, and counts.

It speaks OpenAI's Responses (codex) and Anthropic's Messages (claude). What it does is a *scenario*, named in the URL
(`/as/429/v1/...`) or set while it runs:

    ok         follow the plan: one tool call after the other, then the final text
    lie        say the final text at once
    loop       call a tool for ever
    slow[,S]   as ok, S seconds (default 0.5) between the events of a stream
    429 401 403 404 500 529   that answer, as the provider words it
    usage[,S]  the limit of a subscription is reached until S seconds (default 3600) from now
    quota      the account has no money left
    overflow   the conversation is too long
    hang       take the request, never answer
    stall      begin to stream, then say nothing more
    cut        begin to stream, then drop the connection
    short      begin to stream, then end the answer as if that were all

The plan is named by the prompt: by its title (`# Main`), or by a line `Plan: NAME`. `/run/ID` in the URL counts a run
apart. It is a proxy, too: whoever is sent here for the rest of the world is refused and noted (`strays`).

By hand: `python tests/fake_model.py --port 8080 [--scenario usage,60] [--delay 0.5]`.
"""

import argparse
import contextlib
import gzip
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self

Json = dict[str, Any]
Step = tuple[str, Json | str] | str
"""The tool to call with its input, or the text to say."""

CACHED = 200
"""Tokens of each answer's input that the provider says it had in its cache."""


class Plan(NamedTuple):
    """What the model does for one prompt: shell commands, each in a tool call of its own, then a text."""

    commands: tuple[str, ...]
    says: str = "### Turn Summary\nDone."


PLANS = {
    "Supervisor": Plan(('echo "Do Now: T$ORCH_ITERATION" >input.md',), "### Turn Summary\nPlanned the next step."),
    "Reviewer": Plan(('echo "Reviewed: $ORCH_ITERATION" >input.md',), "### Turn Summary\nReviewed."),
    "Router": Plan((), "supervisor.md"),
    "Main": Plan(
        (
            'mkdir -p src && echo "# $ORCH_TURN" >>src/work.py',
            'git add src/work.py && git commit --quiet -m "T$ORCH_ITERATION: worked"',
        ),
        "### Turn Summary\nDid what input.md asked.",
    ),
}
"""Plans for the prompts that `init` writes: galph writes input.md, ralph edits and commits."""


class Counted(NamedTuple):
    """What was asked and sent: `requests` are all calls of the model, the tokens those that an answer has told."""

    requests: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int


@dataclass
class Call:
    """One request; `tokens` are input, cached, output, as the answer has told them so far."""

    at: float
    kind: str
    run: str
    scenario: str
    path: str
    tokens: tuple[int, int, int] = (0, 0, 0)


class Answer(NamedTuple):
    """What to send instead of a stream."""

    status: int
    body: Json
    headers: Mapping[str, str] = {}


class Talk(NamedTuple):
    """What a request says: the last prompt, how many tool results came after it, and the tools with their schemas."""

    prompt: str
    results: int
    tools: dict[str, Json]


@dataclass
class FakeModel:
    """The server; `with FakeModel() as model` runs it.

    Args:
        port: where it listens on 127.0.0.1; 0 for a free one.
        delay: seconds before each answer.
        plans: by name; a prompt that names none gets `Main`.

    """

    port: int = 0
    delay: float = 0.0
    plans: dict[str, Plan] = field(default_factory=lambda: dict(PLANS))
    calls: list[Call] = field(default_factory=list)
    _now: tuple[str, int | None] = ("ok", None)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._server = _Server(self)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Return the base URL, without `/v1`."""
        return f"http://127.0.0.1:{self.port}"

    def at(self, scenario: str = "", run: str = "") -> str:
        """Return a base URL, without `/v1`, of a scenario and of a run that is counted apart."""
        return self.url + (f"/as/{scenario}" if scenario else "") + (f"/run/{run}" if run else "")

    def scenario(self, name: str, calls: int | None = None) -> None:
        """Switch every URL that names no scenario; after so many `calls` it is `ok` again."""
        with self._lock:
            self._now = (name, calls)

    @property
    def counted(self) -> Counted:
        """Return what was asked and sent in all."""
        return self.counted_of(None)

    def counted_of(self, run: str | None) -> Counted:
        """Return what was asked and sent in one run."""
        with self._lock:
            asked = [call for call in self.calls if call.kind in _SPOKEN and run in {None, call.run}]
            return Counted(len(asked), *(sum(call.tokens[index] for call in asked) for index in range(3)))

    @property
    def strays(self) -> list[str]:
        """Return what was asked for beyond this server, as `CONNECT host:443`."""
        with self._lock:
            return [call.path for call in self.calls if call.kind == "stray"]

    # --- for the handler ---------------------------------------------------------------------------------------------

    def note(self, call: Call) -> int:
        """Write a request down, with the scenario if it named none; return its number."""
        with self._lock:
            if not call.scenario:
                call.scenario, left = self._now
                if left is not None and call.kind in _SPOKEN:
                    self._now = (call.scenario, left - 1) if left > 1 else ("ok", None)
            self.calls.append(call)
            return len(self.calls)

    def sent(self, call: Call, event: Json) -> None:
        """Write down what the tokens of an answer come to, if an event that is out says so."""
        usage = event.get("usage") or event.get("message", {}).get("usage") or event.get("response", {}).get("usage")
        if usage:
            cached = usage.get("cache_read_input_tokens", 0) + usage.get("input_tokens_details", {}).get(
                "cached_tokens", 0
            )
            with self._lock:
                call.tokens = (usage["input_tokens"], cached, usage["output_tokens"])

    def wait(self, seconds: float | None = None) -> None:
        """Wait, but no longer than the server lives."""
        self._over.wait(seconds)

    def step(self, talk: Talk, scenario: str) -> Step:
        """Return the tool to call with its input, or the text to say."""
        names = re.findall(r"^(?:# |Plan: )(\w+)", talk.prompt, re.MULTILINE)
        plan = next((self.plans[name] for name in names if name in self.plans), self.plans["Main"])
        if scenario == "loop" and talk.tools:
            return _shell(talk.tools, f"echo {talk.results} >>loop.txt")
        if scenario == "lie" or not talk.tools or talk.results >= len(plan.commands):
            return plan.says
        return _shell(talk.tools, plan.commands[talk.results])


def _shell(tools: dict[str, Json], command: str) -> Step:
    """Return the call of whichever tool runs a shell command."""
    for name, key in (("Bash", "command"), ("exec_command", "cmd"), ("shell_command", "command")):
        if name in tools:
            told = {"description": "a step of the plan"} if name == "Bash" else {}
            return name, {key: command, **told}
    if "exec" in tools:  # a tool that runs a program, which calls the tools
        return "exec", f"text(await tools.exec_command({json.dumps({'cmd': command})}));"
    return f"none of these tools runs a shell command: {sorted(tools)}"


# --- what providers say when they refuse -----------------------------------------------------------------------------

_REFUSALS = {
    "429": (429, "rate_limit_error", "rate_limit_exceeded", "Rate limit reached for requests. Try again in 20s."),
    "401": (401, "authentication_error", "invalid_api_key", "Incorrect API key provided."),
    "403": (403, "permission_error", "forbidden", "Request not allowed"),
    "404": (404, "not_found_error", "model_not_found", "The model `fake-model` does not exist"),
    "500": (500, "api_error", "server_error", "Internal server error"),
    "529": (529, "overloaded_error", "server_is_overloaded", "Overloaded"),
}


def _anthropic_error(status: int, kind: str, message: str, headers: Mapping[str, str] = {}) -> Answer:
    return Answer(status, {"type": "error", "error": {"type": kind, "message": message}}, headers)


def _openai_error(status: int, kind: str, code: str | None, message: str) -> Answer:
    return Answer(status, {"error": {"type": kind, "code": code, "message": message, "param": None}})


def _anthropic_refusal(name: str, seconds: int) -> Answer | None:
    reset = str(int(time.time()) + seconds)
    window, short = ("five_hour", "5h") if seconds <= 5 * 3600 else ("seven_day", "7d")
    limit = "anthropic-ratelimit-unified"
    match name:
        case "usage":
            told = {"status": "rejected", "reset": reset, "representative-claim": window, "overage-status": "rejected"}
            told |= {f"{short}-status": "rejected", f"{short}-reset": reset, f"{short}-utilization": "1.0"}
            headers = {f"{limit}-{key}": value for key, value in told.items()} | {"retry-after": str(seconds)}
            return _anthropic_error(429, "rate_limit_error", "This request would exceed your account's limit.", headers)
        case "quota":
            text = "Your credit balance is too low to access the Anthropic API."
            return _anthropic_error(400, "invalid_request_error", text)
        case "overflow":
            return _anthropic_error(400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum")
        case _ if name in _REFUSALS:
            status, kind, _, text = _REFUSALS[name]
            return _anthropic_error(status, kind, text)
    return None


def _openai_refusal(name: str, seconds: int) -> Answer | None:
    reset = int(time.time()) + seconds
    match name:
        case "usage":
            answer = _openai_error(429, "usage_limit_reached", None, "The usage limit has been reached")
            answer.body["error"] |= {"plan_type": "plus", "resets_at": reset, "resets_in_seconds": seconds}
            told = {"used-percent": "100.0", "window-minutes": "300", "reset-at": str(reset)}
            return answer._replace(headers={f"x-codex-primary-{key}": value for key, value in told.items()})
        case "quota":
            return _openai_error(429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota.")
        case "overflow":
            text = "Your input exceeds the context window of this model."
            return _openai_error(400, "invalid_request_error", "context_length_exceeded", text)
        case _ if name in _REFUSALS:
            status, kind, code, text = _REFUSALS[name]
            return _openai_error(status, kind, code, text)
    return None


# --- what is asked ---------------------------------------------------------------------------------------------------


def _texts(content: str | list[Json]) -> str:
    """Return what a person wrote: not what the command line puts around it, which begins with a tag."""
    parts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
    return "\n".join(part for part in parts if part and not part.lstrip().startswith("<"))


def _read_messages(body: Json) -> Talk:
    prompt, results = "", 0
    for message in body.get("messages", []):
        content = message["content"]
        answers = 0 if isinstance(content, str) else sum(part.get("type") == "tool_result" for part in content)
        results += answers
        if message["role"] == "user" and not answers and (text := _texts(content)):
            prompt, results = text, 0
    return Talk(prompt, results, {tool["name"]: tool for tool in body.get("tools", [])})


def _read_responses(body: Json) -> Talk:
    prompt, results = "", 0
    given = body["input"] if isinstance(body["input"], list) else [{"role": "user", "content": body["input"]}]
    tools = list(body.get("tools", []))
    for item in given:
        tools += item.get("tools", [])  # newer models are given theirs here
        results += str(item.get("type")).endswith("_call_output")
        if item.get("role") == "user" and (text := _texts(item["content"])):
            prompt, results = text, 0
    tools += [inner for tool in tools for inner in tool.get("tools", [])]
    return Talk(prompt, results, {tool["name"]: tool for tool in tools if "name" in tool})


# --- what is answered ------------------------------------------------------------------------------------------------


def _stream_messages(step: Step, number: int, model: object) -> list[Json]:
    usage = {"input_tokens": 1000 + number, "cache_read_input_tokens": CACHED, "cache_creation_input_tokens": 0}
    message: Json = {"id": f"msg_{number}", "type": "message", "role": "assistant", "model": model, "content": []}
    message |= {"stop_reason": None, "stop_sequence": None, "usage": {**usage, "output_tokens": 1}}
    if isinstance(step, str):
        block: Json = {"type": "text", "text": ""}
        deltas: list[Json] = [{"type": "text_delta", "text": word} for word in re.findall(r"\S+\s*", step)]
    else:
        block = {"type": "tool_use", "id": f"toolu_{number}", "name": step[0], "input": {}}
        deltas = [{"type": "input_json_delta", "partial_json": json.dumps(step[1])}]
    end = {"stop_reason": "end_turn" if isinstance(step, str) else "tool_use", "stop_sequence": None}
    return [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": end, "usage": {**usage, "output_tokens": 10 + number}},
        {"type": "message_stop"},
    ]


def _stream_responses(step: Step, number: int, model: object) -> list[Json]:
    deltas: list[Json] = []
    if isinstance(step, str):
        part = {"type": "output_text", "text": step, "annotations": []}
        item: Json = {"type": "message", "id": f"msg_{number}", "role": "assistant", "content": [part]}
        deltas = [
            {"type": "response.output_text.delta", "item_id": item["id"], "delta": word}
            for word in re.findall(r"\S+\s*", step)
        ]
    elif isinstance(step[1], str):
        item = {"type": "custom_tool_call", "call_id": f"call_{number}", "name": step[0], "input": step[1]}
    else:
        item = {"type": "function_call", "call_id": f"call_{number}", "name": step[0], "arguments": json.dumps(step[1])}
    usage = {
        "input_tokens": 1000 + number,
        "input_tokens_details": {"cached_tokens": CACHED},
        "output_tokens": 10 + number,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 1010 + 2 * number,
    }
    response: Json = {"id": f"resp_{number}", "object": "response", "model": model, "output": []}
    whole = {**response, "status": "completed", "output": [item], "usage": usage}
    return [
        {"type": "response.created", "response": {**response, "status": "in_progress"}},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
        *({**delta, "output_index": 0, "content_index": 0} for delta in deltas),
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": whole},
    ]


class _Tongue(NamedTuple):
    """How one provider is spoken to."""

    read: Callable[[Json], Talk]
    refuse: Callable[[str, int], Answer | None]
    stream: Callable[[Step, int, object], list[Json]]


_SPOKEN = {
    "messages": _Tongue(_read_messages, _anthropic_refusal, _stream_messages),
    "responses": _Tongue(_read_responses, _openai_refusal, _stream_responses),
}
_BROKEN = {"cut", "stall", "short"}
_BEGUN = 2
"""Events of a broken stream that are out."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, model: FakeModel) -> None:
        super().__init__(("127.0.0.1", model.port), _Request)
        self.model = model


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # a command line that was killed hangs up anywhere
            super().handle()

    def log_message(self, *_: object) -> None:
        pass

    def do_CONNECT(self) -> None:
        self._refuse_stray()

    def do_HEAD(self) -> None:
        self._note("other")
        self._say(Answer(200, {}))

    def do_GET(self) -> None:
        if not self.path.startswith("/"):
            self._refuse_stray()
        elif self.path.partition("?")[0].endswith("/models"):
            self._note("models")
            model = {"id": "fake-model", "type": "model", "object": "model", "display_name": "Fake"}
            self._say(Answer(200, {"object": "list", "data": [model], "has_more": False, "models": []}))
        else:
            self._note("other")
            self._say(_openai_error(404, "not_found_error", "not_found", "there is no such page"))

    def do_POST(self) -> None:
        body = self._body()
        kind = self.path.partition("?")[0].rpartition("/")[2]
        if not self.path.startswith("/"):
            self._refuse_stray()
        elif kind == "count_tokens":
            self._note(kind)
            self._say(Answer(200, {"input_tokens": 1000}))
        elif kind in _SPOKEN:
            self._answer(kind, json.loads(body))
        else:
            self._note("other")
            self._say(_openai_error(404, "not_found_error", "not_found", "there is no such page"))

    def _refuse_stray(self) -> None:
        call = Call(time.monotonic(), "stray", "", "-", f"{self.command} {self.path}")
        self.server.model.note(call)
        self._say(Answer(403, {}))

    def _note(self, kind: str) -> tuple[Call, int]:
        matched = re.match(r"(?:/as/([^/]+))?(?:/run/([^/]+))?", self.path)
        scenario, run = matched.groups() if matched else (None, None)
        call = Call(time.monotonic(), kind, run or "", scenario or "", f"{self.command} {self.path}")
        return call, self.server.model.note(call)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            data = b"".join(chunks)
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

    def _answer(self, kind: str, body: Json) -> None:
        model, tongue = self.server.model, _SPOKEN[kind]
        call, number = self._note(kind)
        model.wait(model.delay or 0.0)
        name, _, word = call.scenario.partition(",")
        if name == "hang":
            model.wait()
            return
        if refusal := tongue.refuse(name, int(word) if word.isdigit() else 3600):
            self._say(refusal)
            return
        events = tongue.stream(model.step(tongue.read(body), name), number, body.get("model"))
        pause = float(word or 0.5) if name == "slow" else 0.0
        if body.get("stream"):
            self._stream(call, events, pause)
        else:
            self._say(Answer(200, _whole(events)), breaks=name in _BROKEN)
            model.sent(call, {} if name in _BROKEN else _whole(events))

    def _stream(self, call: Call, events: list[Json], pause: float) -> None:
        """Send server-sent events."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in events[:_BEGUN] if call.scenario in _BROKEN else events:
            self.server.model.wait(pause)
            data = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.server.model.sent(call, event)
        if call.scenario == "stall":
            self.server.model.wait()
        if call.scenario == "cut":
            self._hang_up()
        else:
            self.wfile.write(b"0\r\n\r\n")

    def _hang_up(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def _say(self, answer: Answer, *, breaks: bool = False) -> None:
        data = b"" if self.command == "HEAD" else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        told = {**answer.headers, "Content-Type": "application/json", "Content-Length": str(len(data))}
        for name, value in told.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if breaks else data)
        if breaks:
            self._hang_up()


def _whole(events: list[Json]) -> Json:
    """Return the answer that a stream adds up to."""
    last = events[-1]
    if "response" in last:
        return dict(last["response"])
    block = events[1]["content_block"]
    for event in events:
        delta = event.get("delta", {})
        block = {**block, "text": block["text"] + delta["text"]} if "text" in delta else block
        block = {**block, "input": json.loads(delta["partial_json"])} if "partial_json" in delta else block
    end = events[-2]
    return {**events[0]["message"], **end["delta"], "usage": end["usage"], "content": [block]}


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """Give a port of the loopback at which nobody answers, and nobody will while it is held."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def main() -> int:
    """Serve until interrupted, and tell of each request."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--scenario", default="ok")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    given = parser.parse_args()
    with FakeModel(given.port, given.delay) as model, contextlib.suppress(KeyboardInterrupt):
        model.scenario(given.scenario)
        sys.stdout.write(f"listening on {model.url}\n")
        sys.stdout.flush()
        told = 0
        while True:
            model.wait(0.2)
            for call in model.calls[told:]:
                sys.stdout.write(f"{call.scenario:8} {call.path}\n")
                told += 1
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
