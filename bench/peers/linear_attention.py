#!/usr/bin/env python3
"""The gated scan beside PyTorch: the same chunked algorithm in plain operations, and flash-linear-attention's recurrence.

  tools/setup.sh torch fla && cmake --build build/release --target bench_peers_linear_attention
  .venv/bin/python bench/peers/linear_attention.py build/release/bench/bench_peers_linear_attention
  ... --threads 1 --decay scalar --lengths 2048,4096 --rounds 5 --compile --json

All three run in turns, on the same numbers (nine query heads, three kv heads, width 64, float32), with the same threads
and the same memory allocator settings; first their results are compared. Printed per length: medians of the rounds, our
share of the matrix peak measured in the same run, and the peers' time over ours; per decay: the exponent of our time
against length, and what a forward and backward adds to a fresh process at the longest length. Exit code 1 if a bar is
missed.

plain   products batched over all chunks, autograd, a loop over nothing but the chunks' states; decays inside a chunk by
        rescaling queries and keys. The fastest of several chunk sizes is taken, for each pass and decay. --compile adds
        the same through torch.compile, at the shortest length.
naive   fla.ops.*.naive as published on PyPI: a loop over tokens. At the shortest length only: its backward is quadratic
        in length (every step copies the whole gradient of the output), so longer texts would flatter us. It has no
        grouped heads: keys and values are repeated before the clock starts.
"""
import argparse
import functools
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HEADS, KV_HEADS, WIDTH = 9, 3, 64
BARS = {"peak": 0.40, "plain": 3.0, "naive": 10.0, "exponent": 1.05}
# Freed memory is kept, on both sides: or else every large result is paged in anew, which costs as much as the scan.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 34), "MALLOC_TOP_PAD_": str(1 << 26)}


class Ours:
    """The C++ program, one process, asked over its standard input."""

    def __init__(self, program, threads, environment):
        self.process = subprocess.Popen([program, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=environment)

    def ask(self, *request):
        print(*request, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        return json.loads(answer) if answer else sys.exit(f"linear_attention: no answer to {request}")


def inputs(torch, decay, tokens, differentiable):
    """(q, k, v[, log_decay]) and the output's gradient: [1, heads, T, d], drawn as the C++ program draws them."""
    random = torch.Generator().manual_seed(1)

    def make(heads, width):
        return torch.randn(1, tokens, heads, width, generator=random).transpose(1, 2)

    arguments = [make(heads, WIDTH) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    if decay != "none":
        arguments.append(torch.nn.functional.logsigmoid(make(KV_HEADS, 1 if decay == "scalar" else WIDTH)) / 16)
    cotangent = make(HEADS, WIDTH)
    return [x.requires_grad_(differentiable) for x in arguments], cotangent


def carry(torch, updates, decays):
    """States before each chunk [B, h, n, dk, dv], from what the chunks add and their whole decays [B, h, n, dk or 1]."""
    if decays is None:
        return updates.cumsum(2) - updates
    states = [torch.zeros_like(updates[:, :, 0])]
    for update, decay in zip(updates.unbind(2)[:-1], decays.unsqueeze(-1).unbind(2)):
        states.append(torch.addcmul(update, states[-1], decay))
    return torch.stack(states, 2)


def plain(torch, carry, chunk, q, k, v, log_decay=None):
    """Chunked gated linear attention [B, H, T, d]: q [B, H, T, d], k and v [B, Hkv, T, d], log_decay [B, Hkv, T, 1 or d]."""
    batch, heads, tokens, d = q.shape
    kv_heads = k.shape[1]
    group, chunks = heads // kv_heads, tokens // chunk
    q = q.reshape(batch, kv_heads, group, chunks, chunk, d).transpose(2, 3)  # the heads of a group side by side
    k, v = (x.reshape(batch, kv_heads, chunks, chunk, d) for x in (k, v))
    whole = None
    if log_decay is not None:
        sums = log_decay.reshape(batch, kv_heads, chunks, chunk, -1).cumsum(-2)
        q, k = q * sums.exp().unsqueeze(3), k * sums.neg().exp()
        whole = sums[..., -1, :].exp()
    q = q.reshape(-1, group * chunk, d)
    k, v = k.reshape(-1, chunk, d), v.reshape(-1, chunk, d)
    updates = torch.bmm(k.transpose(1, 2), v).view(batch, kv_heads, chunks, d, d)
    if whole is not None:
        updates = updates * whole.unsqueeze(-1)
    states = carry(updates, whole)
    scores = torch.bmm(q, k.transpose(1, 2)).view(-1, group, chunk, chunk).tril().view(-1, group * chunk, chunk)
    out = torch.baddbmm(torch.bmm(scores, v), q, states.reshape(-1, d, d))
    return out.view(batch, kv_heads, chunks, group, chunk, d).transpose(2, 3).reshape(batch, heads, tokens, d)


def naive(torch, folder, decay):
    """flash-linear-attention's recurrence for this decay, with arguments as above (kv heads already repeated)."""
    sys.path.insert(0, str(folder))  # for einops
    file, function = {"none": ("linear_attn", "naive_recurrent_linear_attn"),
                      "scalar": ("simple_gla", "naive_recurrent_simple_gla"),
                      "vector": ("gla", "naive_recurrent_gla")}[decay]
    # The file alone: the package's own import needs Triton.
    spec = importlib.util.spec_from_file_location(f"fla_{file}", Path(folder, "fla", "ops", file, "naive.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    recurrence = getattr(module, function)

    def call(q, k, v, log_decay=None):
        arguments = [x.transpose(1, 2) for x in (q, k, v)]
        if log_decay is not None:
            arguments.append(log_decay.transpose(1, 2).squeeze(-1) if decay == "scalar" else log_decay.transpose(1, 2))
        return recurrence(*arguments)[0].transpose(1, 2)

    return call


def pass_of(torch, function, arguments, cotangent, both):
    """A function of nothing that runs a forward, or a forward and backward, and returns all results."""
    if both:
        def call():
            out = function(*arguments)
            return out, *torch.autograd.grad(out, arguments, cotangent)
    else:
        def call():
            with torch.no_grad():
                return (function(*arguments),)
    return call


def seconds_of_call(call):
    """Median of the calls of a tenth of a second, one at least: as in the C++ program."""
    times = []
    while sum(times) < 0.1:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def added_memory(call):
    """Bytes that `call` adds to what is resident, at most at one time."""
    def status(field):
        line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field + ":"))
        return int(line.split()[1]) * 1024

    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = status("VmRSS")
    results = call()
    peak = status("VmHWM")
    del results
    return peak - before


def exponent(times):
    """Least squares of log time against log length."""
    points = [(math.log(length), math.log(seconds)) for length, seconds in times.items()]
    x, y = (statistics.fmean(values) for values in zip(*points))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


class Verdicts:
    """Bars, as they are judged."""

    def __init__(self):
        self.all = []

    def judge(self, what, value, bar, at_most=False):
        met = value <= bar if at_most else value >= bar
        self.all.append({"bar": what, "value": value, "limit": bar, "met": met})

    def missed(self):
        return [x for x in self.all if not x["met"]]


def check(torch, ours, functions, decay, tokens):
    """Ends the program unless all peers compute what we do."""
    expected = ours.ask("check", decay, tokens)["norms"]
    for name, function, make in functions:
        arguments, cotangent = make(decay, tokens, True)
        # The published recurrence scales queries by 1/sqrt(d), and its keys and values are repeated: only the output.
        results = pass_of(torch, function, arguments, cotangent, True)()
        norms = [float(x.detach().double().norm()) for x in results]
        if name == "naive":
            norms = [norms[0] * WIDTH**0.5]
        for a, b in zip(norms, expected):
            if not abs(a - b) <= 1e-3 * abs(b):
                sys.exit(f"linear_attention: {name} ({decay}) has norms {norms}, ours {expected}")


def run(options):
    import torch

    torch.set_num_threads(options.threads)
    keep = {**os.environ}
    fresh = {name: value for name, value in os.environ.items() if name not in KEEP_MEMORY}
    ours = Ours(options.program, options.threads, keep)
    shortest, longest = options.lengths[0], options.lengths[-1]
    verdicts, report = Verdicts(), {"threads": options.threads, "torch": torch.__version__, "rows": []}

    def say(text=""):
        if not options.json:
            print(text, flush=True)

    def repeated(decay, tokens, differentiable):
        arguments, cotangent = inputs(torch, decay, tokens, False)
        arguments[1:] = [x.repeat_interleave(HEADS // KV_HEADS, 1) for x in arguments[1:]]
        return [x.requires_grad_(differentiable) for x in arguments], cotangent

    plain_inputs = functools.partial(inputs, torch)
    peaks = [ours.ask("peak")["flops_per_second"]]
    say(f"matrix peak {peaks[0] / 1e9:.1f} GFLOP/s on {options.threads} threads; torch {torch.__version__}; "
        f"H {HEADS}, Hkv {KV_HEADS}, d {WIDTH}, float32")
    for decay in options.decay:
        loop = functools.partial(carry, torch)
        chunked = {chunk: functools.partial(plain, torch, loop, chunk) for chunk in options.chunks}
        recurrence = naive(torch, options.fla, decay) if options.fla else None
        functions = [(f"plain, chunk {c}", f, plain_inputs) for c, f in chunked.items()]
        if recurrence:
            functions.append(("naive", recurrence, repeated))
        check(torch, ours, functions, decay, 256)
        for work in ("forward", "both"):
            say(f"\n{decay} decay, {'forward' if work == 'forward' else 'forward and backward'}\n"
                f"  tokens    ours ms  of peak   plain ms (chunk)  over ours   naive ms  over ours")
            times = {}
            for tokens in options.lengths:
                both = work == "both"
                arguments, cotangent = inputs(torch, decay, tokens, both)
                calls = {c: pass_of(torch, f, arguments, cotangent, both) for c, f in chunked.items()}
                if len(calls) > 1:  # the fastest of them; also warms up
                    tried = {c: min(seconds_of_call(call), seconds_of_call(call)) for c, call in calls.items()}
                    calls = {c: calls[c] for c in [min(tried, key=tried.get)]}
                if recurrence and tokens == shortest:
                    more, more_cotangent = repeated(decay, tokens, both)
                    calls["naive"] = pass_of(torch, recurrence, more, more_cotangent, both)
                if options.compile and tokens == shortest:
                    eager_carry = torch.compiler.disable(loop)
                    chunk = next(c for c in calls if c != "naive")
                    compiled = torch.compile(functools.partial(plain, torch, eager_carry, chunk))
                    calls["compiled"] = pass_of(torch, compiled, arguments, cotangent, both)
                    calls["compiled"]()
                measured = {"ours": []} | {name: [] for name in calls}
                for _ in range(options.rounds):
                    answer = ours.ask("time", decay, work, tokens)
                    measured["ours"].append(answer["seconds"])
                    for name, call in calls.items():
                        measured[name].append(seconds_of_call(call))
                    peaks.append(ours.ask("peak")["flops_per_second"])
                middle = {name: statistics.median(values) for name, values in measured.items()}
                mine = times[tokens] = middle.pop("ours")
                share = answer["flops"] / mine / statistics.median(peaks)
                chunk = next(c for c in middle if isinstance(c, int))
                row = {"decay": decay, "pass": work, "tokens": tokens, "seconds": mine, "peak_share": share,
                       "plain_chunk": chunk, "plain_seconds": middle[chunk], "plain_ratio": middle[chunk] / mine}
                verdicts.judge(f"{decay} {work} {tokens}: share of the matrix peak", share, BARS["peak"])
                line = f"{tokens:8}  {mine * 1e3:9.3f}  {share:7.3f}  {middle[chunk] * 1e3:9.2f}   ({chunk:3})  {row['plain_ratio']:9.2f}"
                if both:
                    verdicts.judge(f"{decay} both {tokens}: plain over ours", row["plain_ratio"], BARS["plain"])
                if "naive" in middle:
                    row["naive_seconds"], row["naive_ratio"] = middle["naive"], middle["naive"] / mine
                    line += f"  {middle['naive'] * 1e3:9.1f}  {row['naive_ratio']:9.1f}"
                    if both:
                        verdicts.judge(f"{decay} both {tokens}: naive over ours", row["naive_ratio"], BARS["naive"])
                say(line)
                if "compiled" in middle:
                    row["compiled_seconds"], row["compiled_ratio"] = middle["compiled"], middle["compiled"] / mine
                    say(f"          through torch.compile: {middle['compiled'] * 1e3:.2f} ms, {row['compiled_ratio']:.2f} of ours")
                    if both:
                        verdicts.judge(f"{decay} both {tokens}: compiled over ours", row["compiled_ratio"], BARS["plain"])
                report["rows"].append(row)
            if len(times) > 1:
                x = exponent(times)
                report["rows"].append({"decay": decay, "pass": work, "exponent": x})
                verdicts.judge(f"{decay} {work}: exponent of time", x, BARS["exponent"], at_most=True)
                say(f"  our time ~ length^{x:.3f} from {options.lengths[0]} to {longest}")
        memory = {"ours": Ours(options.program, options.threads, fresh).ask("memory", decay, longest)["bytes"]}
        child = [sys.executable, __file__, options.program, "--threads", str(options.threads), "--memory-child"]
        for name, tokens in (("plain", longest), ("naive", shortest)):
            if name == "plain" or options.fla:
                request = [name, decay, str(tokens), str(options.chunks[0]), str(options.fla)]
                memory[name] = int(subprocess.run(child + [",".join(request)], env=fresh, check=True, text=True,
                                                  stdout=subprocess.PIPE).stdout)
        report["rows"].append({"decay": decay, "memory_bytes": memory, "memory_tokens": longest})
        say(f"  forward and backward at {longest} tokens adds {memory['ours'] / 1e6:.0f} MB, plain "
            f"{memory['plain'] / 1e6:.0f} MB" +
            (f"; naive at {shortest} tokens {memory['naive'] / 1e6:.0f} MB" if "naive" in memory else ""))

    report["peak_flops_per_second"], report["bars"] = statistics.median(peaks), verdicts.all
    say(f"\nmatrix peak over the run: median {statistics.median(peaks) / 1e9:.1f}, from {min(peaks) / 1e9:.1f} to "
        f"{max(peaks) / 1e9:.1f} GFLOP/s\nbars: {len(verdicts.all) - len(verdicts.missed())} of {len(verdicts.all)} met")
    for x in verdicts.missed():
        say(f"  missed: {x['bar']} is {x['value']:.3f}, the bar {x['limit']}")
    if options.json:
        print(json.dumps(report, indent=2))
    return 1 if verdicts.missed() else 0


def memory_child(request, threads):
    """What a forward and backward of a peer adds to this fresh process, in bytes."""
    import torch

    torch.set_num_threads(threads)
    name, decay, tokens, chunk, fla = request.split(",")
    arguments, cotangent = inputs(torch, decay, int(tokens), name == "plain")
    function = functools.partial(plain, torch, functools.partial(carry, torch), int(chunk))
    if name == "naive":
        arguments[1:] = [x.repeat_interleave(HEADS // KV_HEADS, 1) for x in arguments[1:]]
        arguments, function = [x.requires_grad_() for x in arguments], naive(torch, fla, decay)
    print(added_memory(pass_of(torch, function, arguments, cotangent, True)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="build/release/bench/bench_peers_linear_attention")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--decay", default="none,scalar,vector", type=lambda x: x.split(","))
    parser.add_argument("--lengths", default="2048,4096,8192,16384,32768", type=lambda x: sorted(map(int, x.split(","))))
    parser.add_argument("--chunks", default="64,32,128", type=lambda x: list(map(int, x.split(","))), help="of the plain peer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--fla", default="build/third_party/fla", help="folder that has fla/ops")
    parser.add_argument("--compile", action="store_true", help="the plain peer through torch.compile too")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory-child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_child:
        return memory_child(options.memory_child, options.threads)
    if any(os.environ.get(name) != value for name, value in KEEP_MEMORY.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY})
    if not Path(options.fla, "fla", "ops").is_dir():
        print(f"{options.fla} is missing (tools/setup.sh fla): without flash-linear-attention", file=sys.stderr)
        options.fla = None
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
