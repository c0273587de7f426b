"""`unbend serve` as clients see it: the openai package, raw sockets, signals. Usage: serve_test.py UNBEND MODEL"""
import concurrent.futures
import json
import os
import resource
import signal
import socket
import sys
import threading
import unittest

try:
    import jsonschema
    import openai
except ImportError:
    print("the openai client is not installed: tools/setup.sh peers")
    sys.exit(77)
from server import Server

MODEL = sys.argv.pop()
UNBEND = sys.argv.pop()
if not os.path.exists(MODEL):
    print("the model is not there: tools/setup.sh model")
    sys.exit(77)
PROMPT = "The capital of France is"
CHAT = [{"role": "user", "content": "What is a river?"}]
PERSON = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 20},
                                           "age": {"type": "integer", "minimum": 0, "maximum": 150},
                                           "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2}},
          "required": ["name", "age", "tags"], "additionalProperties": False}


def setUpModule():
    global server, client
    server = Server(UNBEND, MODEL, "--sequences", "4", "--context", "1024", "--queue", "32").__enter__()
    client = client_of(server)


def tearDownModule():
    server.__exit__()


def client_of(of, key="none"):
    return openai.OpenAI(base_url=of.url + "/v1", api_key=key, max_retries=0, timeout=60)


def complete(prompt=PROMPT, **options):
    return client.completions.create(**{"model": "smol", "prompt": prompt, "max_tokens": 12, "temperature": 0, **options})


def chat(messages=CHAT, **options):
    return client.chat.completions.create(
        **{"model": "smol", "messages": messages, "max_tokens": 12, "temperature": 0, **options})


def post(body, path="/v1/chat/completions", headers="Content-Type: application/json\r\n"):
    """Status line, headers and body of the answer to raw bytes."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return raw(f"POST {path} HTTP/1.1\r\nHost: a\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body)


def raw(request):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as s:
        s.sendall(request)
        answer = s.makefile("rb")
        status = answer.readline().decode()
        headers = {}
        while line := answer.readline().strip().decode():
            name, value = line.split(":", 1)
            headers[name.lower()] = value.strip()
        return status, headers, answer.read(int(headers.get("content-length", 0))).decode()


class Answers(unittest.TestCase):
    def test_models(self):
        self.assertEqual([m.id for m in client.models.list()], ["smol"])
        self.assertEqual(client.models.retrieve("smol").owned_by, "unbend")

    def test_completion(self):
        answer = complete(echo=True)
        self.assertTrue(answer.choices[0].text.startswith(PROMPT + " Paris"), answer.choices[0].text)
        self.assertEqual(answer.choices[0].finish_reason, "length")
        self.assertEqual((answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens), (5, 12, 17))

    def test_prompts_of_every_form(self):
        one, two = complete().choices[0].text, complete("Once upon a time").choices[0].text
        both = complete([PROMPT, "Once upon a time"])
        self.assertEqual([c.text for c in both.choices], [one, two])
        self.assertEqual([c.index for c in both.choices], [0, 1])
        ids = [504, 3575, 282, 4649, 314]  # of PROMPT
        self.assertEqual(complete(ids).choices[0].text, one)
        self.assertEqual(complete([ids, ids]).choices[1].text, one)

    def test_chat(self):
        parts = [{"role": "system", "content": "Be brief."},
                 {"role": "user", "content": [{"type": "text", "text": "What is"}, {"type": "text", "text": " a river?"}]}]
        whole = [parts[0], {"role": "user", "content": "What is a river?"}]
        answer = chat(parts)
        self.assertEqual(answer.choices[0].message.role, "assistant")
        self.assertTrue(answer.choices[0].message.content)
        self.assertEqual(answer.choices[0].message.content, chat(whole).choices[0].message.content)

    def test_stream_is_the_whole_answer(self):
        whole = chat(max_tokens=40, logprobs=True, top_logprobs=3)
        chunks = list(chat(max_tokens=40, logprobs=True, top_logprobs=3, stream=True,
                           stream_options={"include_usage": True}))
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        deltas = [c.choices[0] for c in chunks if c.choices]
        self.assertEqual("".join(d.delta.content or "" for d in deltas), whole.choices[0].message.content)
        self.assertEqual([d.finish_reason for d in deltas if d.finish_reason], [whole.choices[0].finish_reason])
        tokens = [t for d in deltas if d.logprobs for t in d.logprobs.content]
        self.assertEqual(tokens, whole.choices[0].logprobs.content)
        self.assertEqual(chunks[-1].usage, whole.usage)
        self.assertEqual(chunks[-1].choices, [])

    def test_logprobs(self):
        tokens = chat(logprobs=True, top_logprobs=2).choices[0].logprobs.content
        for token in tokens:  # greedy: the first of the likeliest was taken
            self.assertEqual((token.token, token.logprob), (token.top_logprobs[0].token, token.top_logprobs[0].logprob))
            self.assertEqual(bytes(token.bytes).decode(), token.token)
            self.assertEqual(len(token.top_logprobs), 2)
        answer = complete(logprobs=1).choices[0]
        self.assertEqual("".join(answer.logprobs.tokens), answer.text)
        for token, logprob, top, offset in zip(*(getattr(answer.logprobs, k) for k in (
                "tokens", "token_logprobs", "top_logprobs", "text_offset"))):
            self.assertEqual(top, {token: logprob})
            self.assertEqual(answer.text[offset:offset + len(token)], token)
        streamed = list(complete(logprobs=1, stream=True))
        self.assertEqual([t for c in streamed if c.choices[0].logprobs for t in c.choices[0].logprobs.tokens],
                         answer.logprobs.tokens)
        self.assertEqual(sum((c.choices[0].logprobs.text_offset for c in streamed if c.choices[0].logprobs), []),
                         answer.logprobs.text_offset)

    def test_stop(self):
        full = complete(max_tokens=30).choices[0].text
        for stop in (full[5:9], ["no such text", full[5:9]]):
            for stream in (False, True):
                answer = complete(max_tokens=30, stop=stop, stream=stream)
                choices = [c.choices[0] for c in answer] if stream else answer.choices
                self.assertEqual("".join(c.text for c in choices), full[:full.index(full[5:9])])
                self.assertEqual(choices[-1].finish_reason, "stop")

    def test_seed_and_n(self):
        def texts(seed):
            return [c.text for c in complete("I like", temperature=1.5, seed=seed, n=3).choices]

        first = texts(7)
        self.assertEqual(first, texts(7))
        self.assertNotEqual(first, texts(8))
        self.assertEqual(len(set(first)), 3)
        streamed = ["", "", ""]
        for chunk in complete("I like", temperature=1.5, seed=7, n=3, stream=True):
            streamed[chunk.choices[0].index] += chunk.choices[0].text
        self.assertEqual(streamed, first)

    def test_json_schema(self):
        shape = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
        for seed in range(2):
            answer = chat([{"role": "user", "content": "Invent a person."}], response_format=shape, temperature=1,
                          seed=seed, max_tokens=150)
            jsonschema.validate(json.loads(answer.choices[0].message.content), PERSON)
            self.assertEqual(answer.choices[0].finish_reason, "stop")

    def test_json_object(self):
        grammar = {"extra_body": {"repeat_penalty": 1.1}}
        text = chat([{"role": "user", "content": 'Write {"a": 1}'}], response_format={"type": "json_object"},
                    max_tokens=200, stop=["}"], **grammar).choices[0].message.content
        self.assertEqual(text.lstrip()[0], "{")

    def test_grammar(self):
        answer = chat(extra_body={"grammar": 'root ::= ("yes" | "no") "!"'})
        self.assertIn(answer.choices[0].message.content, ("yes!", "no!"))

    def test_concurrent_clients_get_what_they_get_alone(self):
        prompts = [f"Here are {i} facts about the number {i}:" for i in range(16)]
        alone = [complete(p, max_tokens=16).choices[0].text for p in prompts]
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            together = list(pool.map(lambda p: complete(p, max_tokens=16).choices[0].text, prompts))
        self.assertEqual(together, alone)


class BadRequests(unittest.TestCase):
    def refused(self, body, status, *words, **how):
        line, headers, text = post(body, **how)
        self.assertIn(f" {status} ", line, text)
        error = json.loads(text)["error"]
        self.assertEqual(set(error), {"message", "type", "param", "code"})
        for word in words:
            self.assertIn(word, error["message"])
        return headers

    def test_bodies(self):
        def ask(**fields):
            return {"messages": CHAT, **fields}

        for body, word in [(b"{", "not valid JSON"), (b"\xff", "not valid JSON"), (b"[" * 5000, "nested deeper"),
                           (b"", "not valid JSON"), ([], "array"), ({}, "'messages' is missing"), (ask(n="two"), "'n'"),
                           (ask(n=0), "'n'"), (ask(temperature=-1), "temperature"), (ask(temperature=[]), "temperature"),
                           (ask(max_tokens=1.5), "max_tokens"), (ask(max_tokens=2**70), "max_tokens"),
                           (ask(stop=[1]), "stop"), (ask(stop=[""]), "stop"), (ask(stream=1), "stream"),
                           (ask(stream_options={}), "stream_options"), (ask(top_logprobs=2), "top_logprobs"),
                           (ask(tools=[{"type": "function"}]), "tools"), (ask(frequency_penalty=1), "frequency_penalty"),
                           (ask(logit_bias={"1": 2}), "logit_bias"), (ask(nonsense=1), "nonsense"),
                           (ask(grammar="root ::= ("), "expecting ')'"), (ask(grammar="a ::= [b]"), "root"),
                           (ask(grammar="# x\n root ::= b"), "'b' is not defined"), (ask(grammar="(" * 5000), "nested"),
                           (ask(grammar='root ::= root "a"'), "grammar"),
                           (ask(response_format={"type": "xml"}), "response_format.type"),
                           ({"messages": [{"role": "user"}]}, "messages[0].content"),
                           ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
                           ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "text only"),
                           ({"messages": [{"role": "user", "content": "word " * 3000}]}, "too long"),
                           ({"messages": [{"role": "user", "content": "x" * 2000000}]}, "too long")]:
            with self.subTest(word=word, body=str(body)[:60]):
                self.refused(body, 400, word)
        for body, word in [({}, "'prompt' is missing"), ({"prompt": []}, "'prompt'"), ({"prompt": [1, "a"]}, "token ids"),
                           ({"prompt": [-1]}, "token ids"), ({"prompt": [10**6]}, "vocabulary"),
                           ({"prompt": ""}, "no tokens"), ({"prompt": "a", "echo": True, "logprobs": 1}, "echo"),
                           ({"prompt": ["a"] * 100, "n": 8}, "128"),
                           ({"prompt": ["a"] * 37}, "at most 36 answers"), ({"prompt": "a", "suffix": "b"}, "suffix")]:
            with self.subTest(word=word, body=str(body)[:60]):
                self.refused(body, 400, word, path="/v1/completions")

    def test_schemas(self):
        for schema, word in [({"type": "string", "pattern": "a+"}, "pattern"), ({"type": "number", "minimum": 1}, "minimum"),
                             ({"$ref": "#/$defs/a"}, "$ref"), ({"type": "thing"}, "type"), (3, "object"),
                             ({"type": "object", "required": ["a"]}, "required"), ({"enum": []}, "enum"),
                             ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "")]:
            with self.subTest(schema=schema):
                self.refused({"messages": CHAT, "response_format": {
                    "type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}, 400, word)

    def test_routes(self):
        self.refused({"messages": CHAT, "model": "gpt-4"}, 404, "gpt-4")
        self.refused({}, 404, "/v1/embeddings", path="/v1/embeddings")
        self.assertEqual(self.refused({}, 405, path="/health")["allow"], "GET")
        self.refused({}, 415, "application/json", headers="Content-Type: text/plain\r\n")
        status, headers, _ = server.get("/v1/completions")
        self.assertEqual((status, headers["Allow"]), (405, "POST"))
        with self.assertRaises(openai.NotFoundError):
            client.models.retrieve("gpt-4")

    def test_huge_bodies(self):
        self.refused(b"a" * (9 << 20), 413, "8388608")
        self.assertIn(" 413 ", raw(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                                   b"Content-Length: 99999999999\r\n\r\n")[0])

    def test_what_is_not_http(self):
        for junk in (b"\0\1\2\3\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\n\r\n",
                     b"POST /v1/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n"):
            with self.subTest(junk=junk[:20]):
                self.assertRegex(raw(junk)[0], r"^HTTP/1.1 4\d\d ")
        self.assertEqual(raw(b"GET /" + b"a" * 70000)[0], "")  # a line without end: closed
        self.assertEqual(server.get("/health")[0], 200)


class Life(unittest.TestCase):
    def test_a_client_that_vanishes_frees_its_sequence(self):
        for stream in (True, False):
            with self.subTest(stream=stream):
                body = json.dumps({"prompt": "Tell me", "max_tokens": 900, "stream": stream}).encode()
                s = socket.create_connection(("127.0.0.1", server.port))
                s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                          b"Content-Length: %d\r\n\r\n" % len(body) + body)
                server.wait_for("sequences_active", 1)
                before = server.metric("generated_tokens_total")
                s.close()
                server.wait_for("sequences_active", 0)
                self.assertLess(server.metric("generated_tokens_total") - before, 300)

    def test_idle_connections_do_not_hold_up_others(self):
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(300)]
        for half in idle[::2]:
            half.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-")
        self.assertIn("Paris", complete().choices[0].text)
        self.assertGreaterEqual(server.metric("connections"), 300)
        for s in idle:
            s.close()

    def test_ten_thousand_idle_connections_are_refused_politely(self):
        count = 10_000
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard < count + 100:
            self.skipTest(f"this machine allows {hard} open files")
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        before = server.memory()
        idle = []
        try:
            for i in range(count):
                idle.append(socket.create_connection(("127.0.0.1", server.port), timeout=30))
                if i % 1000 == 999:
                    self.assertIn("Paris", complete(max_tokens=2).choices[0].text)
            self.assertLessEqual(server.metric("connections"), 1000)
            told = idle[0].makefile("rb").read().decode()  # the oldest had to go
            self.assertTrue(told.startswith("HTTP/1.1 503"), told)
            self.assertEqual(json.loads(told.split("\r\n\r\n")[1])["error"]["code"], "overload")
            idle[-1].sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")  # the newest is heard
            self.assertIn(b" 200 ", idle[-1].makefile("rb").readline())
        finally:
            for s in idle:
                s.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        self.assertLess(server.memory() - before, 50)

    def test_metrics(self):
        before = server.metric("prompt_tokens_total"), server.metric("generated_tokens_total")
        complete(max_tokens=9)
        after = server.metric("prompt_tokens_total"), server.metric("generated_tokens_total")
        self.assertEqual((after[0] - before[0], after[1] - before[1]), (5, 9))
        text = server.get("/metrics")[2]
        self.assertIn('unbend_requests_total{route="/v1/completions",code="200"}', text)
        self.assertIn('unbend_time_to_first_token_seconds_bucket{le="+Inf"}', text)


class Keys(unittest.TestCase):
    def test_key_and_full_queue_and_shutdown(self):
        with Server(UNBEND, MODEL, "--sequences", "1", "--queue", "1", "--context", "2048",
                    environment={"UNBEND_API_KEY": "sesame"}) as keyed:
            for key in (None, "sesam", "sesame!", "Sesame"):
                status, headers, text = keyed.get("/v1/models", key)
                self.assertEqual((status, headers["WWW-Authenticate"]), (401, "Bearer"))
                self.assertEqual(json.loads(text)["error"]["code"], "invalid_api_key")
            self.assertEqual([keyed.get(path)[0] for path in ("/health", "/", "/metrics")], [200, 200, 401])
            with self.assertRaises(openai.AuthenticationError):
                client_of(keyed, "wrong").models.list()

            client = client_of(keyed, "sesame")
            ask = {"model": "smol", "prompt": "Once upon a time", "stream": True, "temperature": 0}
            first = client.completions.create(**ask, max_tokens=300)
            next(first)
            waits = []
            waiting = threading.Thread(target=lambda: waits.extend(client.completions.create(**ask, max_tokens=2)))
            waiting.start()
            while keyed.metric("queue_length", "sesame") < 1:
                pass
            with self.assertRaises(openai.RateLimitError) as refused:
                client.completions.create(**ask, max_tokens=2)
            self.assertEqual(refused.exception.response.headers["Retry-After"], "1")

            keyed.process.send_signal(signal.SIGTERM)
            keyed.process.stderr.readline()
            with self.assertRaises(openai.InternalServerError) as refused:
                client.completions.create(**ask)
            self.assertEqual(refused.exception.status_code, 503)
            self.assertEqual(keyed.get("/health")[0], 503)
            rest = list(first)  # the running stream finishes, and so does the one that waits
            self.assertEqual(rest[-1].choices[0].finish_reason, "length")
            self.assertEqual(len([c for c in rest if c.choices[0].text]), 299)
            waiting.join()
            self.assertEqual(waits[-1].choices[0].finish_reason, "length")
            self.assertEqual(keyed.process.wait(timeout=60), 0)

    def test_free_sequences_need_no_queue(self):
        with Server(UNBEND, MODEL, "--sequences", "2", "--queue", "0", "--context", "256") as small:
            client = client_of(small)
            for _ in range(3):
                answer = client.completions.create(model="smol", prompt="A", n=2, max_tokens=2)
                self.assertEqual(len(answer.choices), 2)
            with self.assertRaisesRegex(openai.BadRequestError, "at most 2 answers"):
                client.completions.create(model="smol", prompt="A", n=3, max_tokens=2)

    def test_a_slow_reader_holds_up_nobody_and_is_given_up(self):
        # Three answers with many alternatives: more than the kernel keeps for a client that reads nothing.
        body = json.dumps({"prompt": "Tell me", "max_tokens": 1000, "stream": True, "logprobs": 20, "n": 3}).encode()
        with Server(UNBEND, MODEL, "--sequences", "4", "--context", "1024") as own, socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", own.port))
            slow.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                         b"Content-Length: %d\r\n\r\n" % len(body) + body)
            own.wait_for("sequences_active", 3)
            with client_of(own) as client:
                answer = client.completions.create(model="smol", prompt=PROMPT, max_tokens=12, temperature=0)
                self.assertIn("Paris", answer.choices[0].text)
            self.assertGreater(own.metric("sequences_active"), 0)
            own.wait_for("connections", 1, seconds=90)  # that of the question itself
            self.assertEqual(own.metric("sequences_active"), 0)

    def test_second_signal_cuts_off(self):
        with Server(UNBEND, MODEL, "--sequences", "1", "--context", "8192") as short:
            stream = client_of(short).completions.create(model="smol", prompt="A", max_tokens=8000, stream=True)
            next(stream)
            short.process.send_signal(signal.SIGINT)
            short.process.stderr.readline()
            short.process.send_signal(signal.SIGINT)
            with self.assertRaises(openai.APIError) as cut:
                list(stream)
            self.assertIn("shutting down", str(cut.exception))
            self.assertEqual(short.process.wait(timeout=60), 0)

    def test_usage_errors(self):
        for option, value, words in (("--sequences", "0", "--sequences must"), ("--queue", "-1", "--queue must"),
                                     ("--host", "256.1.1.1", "cannot listen on 256.1.1.1")):
            with self.assertRaisesRegex(RuntimeError, words):
                Server(UNBEND, MODEL, option, value)
        with self.assertRaisesRegex(RuntimeError, "--port must"):
            Server(UNBEND, MODEL, port=70000)
        with self.assertRaisesRegex(RuntimeError, "in use"):
            Server(UNBEND, MODEL, port=server.port)


if __name__ == "__main__":
    unittest.main()
