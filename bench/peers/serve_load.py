#!/usr/bin/env python3
"""Load on `unbend serve`: concurrent clients, every answer checked, memory watched; llama-server beside it on request.

  serve_load.py build/unbend model.gguf                                        # 16 clients, 30 s
  serve_load.py build/unbend model.gguf --clients 64 --seconds 600             # the full form
  serve_load.py build/unbend model.gguf --peer build/peers/bin/llama-server    # both, alternating, one table

Each client asks one of a fixed set of prompts at temperature 0, streamed, again and again. First every prompt is asked
alone; an answer under load that is not the same, or that does not come, is an error, and the exit code is then 1. The peer's
differing answers are counted, not judged: its numbers depend on the batch.
"""
import argparse
import asyncio
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time

WORDS = "river mountain engine letter garden window number market silver winter doctor bridge planet kitchen forest music"
PROMPTS = [f"Here is what I know about the word {word}. First," + " Tell me more." * (i % 5 * 4)
           for i, word in enumerate(WORDS.split())]


class Program:
    """A server under test, started for one round."""

    def __init__(self, name, command, port):
        self.name, self.command, self.port = name, command, port

    async def __aenter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(1200):
            if self.process.poll() is not None:
                sys.exit(f"serve_load: {self.name} ended with {self.process.returncode}: {' '.join(self.command)}")
            try:
                status, _, writer = await request(self.port, "GET", "/health")
                writer.close()
                if status == 200:
                    return self
            except OSError:
                pass
            await asyncio.sleep(0.1)
        sys.exit(f"serve_load: {self.name} did not start")

    async def __aexit__(self, *_):
        self.process.terminate()
        await asyncio.to_thread(self.process.wait)

    def memory(self):
        """Resident MiB."""
        with open(f"/proc/{self.process.pid}/status") as file:
            return int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1)) / 1024


async def request(port, method, path, body=b""):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
                 f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    head = await reader.readuntil(b"\r\n\r\n")
    return int(head.split()[1]), reader, writer


async def ask(port, prompt, tokens):
    """Text, tokens, and seconds until the first one. Raises what went wrong."""
    start, first, text, count, done = time.monotonic(), None, "", 0, False
    body = json.dumps({"prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True,
                       "stream_options": {"include_usage": True}}).encode()
    status, reader, writer = await request(port, "POST", "/v1/completions", body)
    try:
        if status != 200:
            raise RuntimeError(f"status {status}: {(await reader.read()).decode()[:200]}")
        while line := await reader.readline():
            line = line.strip()
            if line == b"data: [DONE]":
                done = True
            elif line.startswith(b"data: "):
                event = json.loads(line[6:])
                if event.get("error"):
                    raise RuntimeError(event["error"]["message"])
                if event.get("usage"):
                    count = event["usage"]["completion_tokens"]
                if event.get("choices") and event["choices"][0]["text"]:
                    first = first or time.monotonic() - start
                    text += event["choices"][0]["text"]
        if not done:
            raise RuntimeError("the stream broke off")
        return text, count, first
    finally:
        writer.close()


async def round_of(program, options, expected):
    """One round of load: a dictionary of figures."""
    if not expected:
        for prompt in PROMPTS:
            expected.append((await ask(program.port, prompt, options.tokens))[0])
    stop = time.monotonic() + options.seconds
    firsts, memory, problems = [], [], []
    tokens = answers = different = 0

    async def client(number):
        nonlocal tokens, answers, different
        turn = number
        while time.monotonic() < stop:
            try:
                text, count, first = await ask(program.port, PROMPTS[turn % len(PROMPTS)], options.tokens)
            except (OSError, RuntimeError, ValueError, asyncio.IncompleteReadError) as problem:
                problems.append(repr(problem))
                await asyncio.sleep(0.2)
                continue
            tokens, answers = tokens + count, answers + 1
            firsts.append(first or 0)
            different += text != expected[turn % len(PROMPTS)]
            turn += 7

    async def watch():
        while True:
            memory.append(program.memory())
            await asyncio.sleep(max(0.5, options.seconds / 60))

    watching = asyncio.create_task(watch())
    start = time.monotonic()
    await asyncio.gather(*(client(i) for i in range(options.clients)))
    seconds = time.monotonic() - start
    watching.cancel()
    third = max(1, len(memory) // 3)
    firsts.sort()
    return {"program": program.name, "answers": answers, "tokens/s": tokens / seconds,
            "first ms p50": 1000 * statistics.median(firsts) if firsts else float("nan"),
            "p95": 1000 * firsts[int(len(firsts) * 0.95)] if firsts else float("nan"),
            "different": different, "failed": len(problems),
            "MiB early": max(memory[:third]), "MiB late": max(memory[-third:]), "problems": problems[:3]}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


async def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("unbend")
    parser.add_argument("model")
    parser.add_argument("--peer", help="llama-server")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--tokens", type=int, default=64, help="per answer")
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--context", type=int, default=512, help="tokens per sequence")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=1, help="of each server, alternating")
    parser.add_argument("--json", help="file for the figures")
    o = parser.parse_args()
    port = free_port()
    programs = [Program("unbend", [o.unbend, "serve", o.model, "--port", str(port), "--threads", str(o.threads),
                                   "--sequences", str(o.sequences), "--context", str(o.context),
                                   "--queue", str(2 * o.clients)], port)]
    if o.peer:
        port = free_port()
        programs.append(Program("llama-server", [
            o.peer, "-m", o.model, "--port", str(port), "-t", str(o.threads), "-tb", str(o.threads), "-np",
            str(o.sequences), "-c", str(o.context * o.sequences), "--cache-ram", "0"], port))
    rows, expected = [], {program.name: [] for program in programs}
    columns = ["program", "answers", "tokens/s", "first ms p50", "p95", "different", "failed", "MiB early", "MiB late"]
    print(f"{o.clients} clients, {o.seconds:g} s, {o.tokens} tokens, {o.sequences} sequences, {o.threads} threads")
    print("".join(f"{column:>14}" for column in columns), flush=True)
    for _ in range(o.rounds):
        for program in programs:
            async with program:
                row = await round_of(program, o, expected[program.name])
            rows.append(row)
            print("".join(f"{row[c]:>14.1f}" if isinstance(row[c], float) else f"{row[c]:>14}" for c in columns), flush=True)
            for problem in row["problems"]:
                print(f"  {problem}", flush=True)
    if o.json:
        with open(o.json, "w") as file:
            json.dump(rows, file, indent=2)
    return int(any(row["failed"] or (row["different"] and row["program"] == "unbend") for row in rows))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
