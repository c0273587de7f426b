#!/usr/bin/env python3
"""linearize beside torch.func and JAX, on the cases of bench/linearize.cc: CPU time of a forward pass, of building the
linearization, of a push and a pull, and of building with 10 pushes, in one run on one thread.

Usage: linearize.py BENCH_LINEARIZE [ROUNDS]

Needs torch (2.6 or later, for torch.func.linearize), and shows JAX where it is installed (pip install jax, in an
environment of its own). JAX's times are without compilation, which is shown apart.
"""
import json
import math
import os
import subprocess
import sys
import time

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
os.environ["JAX_PLATFORMS"] = "cpu"
try:  # one thread for everybody
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
except (AttributeError, OSError):
    pass

import torch

PUSHES = 10


def best(work, times):
    shortest = math.inf
    for _ in range(times):
        start = time.process_time()
        work()
        shortest = min(shortest, time.process_time() - start)
    return 1e3 * shortest


def arrays(name):
    """Fixed input and weights of a case, as torch tensors."""
    generator = torch.Generator().manual_seed(1)
    normal = lambda *shape: torch.randn(*shape, generator=generator)
    weight = lambda out, inner: normal(out, inner) / math.sqrt(inner)
    if name == "perceptron":
        return normal(128, 784), (weight(1024, 784), torch.zeros(1024), weight(1024, 1024), torch.zeros(1024),
                                  weight(10, 1024), torch.zeros(10))
    if name == "block":
        d = 256
        return normal(2, 256, d), (torch.ones(d), torch.zeros(d), weight(3 * d, d), torch.zeros(3 * d), weight(d, d),
                                   torch.zeros(d), torch.ones(d), torch.zeros(d), weight(4 * d, d), torch.zeros(4 * d),
                                   weight(d, 4 * d), torch.zeros(d))
    return None, (normal(300000),)


def torch_function(name, x):
    f = torch.nn.functional
    if name == "perceptron":
        return lambda a, b, c, d, e, g: f.linear(f.gelu(f.linear(f.gelu(f.linear(x, a, b)), c, d)), e, g)
    if name == "block":
        def block(n1, m1, w_qkv, b_qkv, w_o, b_o, n2, m2, w_up, b_up, w_down, b_down):
            b, t, d = x.shape
            q, k, v = f.linear(f.layer_norm(x, (d,), n1, m1), w_qkv, b_qkv).view(b, t, 3, 4, d // 4).permute(2, 0, 3, 1, 4)
            mixed = torch.softmax(q / math.sqrt(d // 4) @ k.transpose(-1, -2), -1) @ v
            h = x + f.linear(mixed.transpose(1, 2).reshape(b, t, d), w_o, b_o)
            return h + f.linear(f.gelu(f.linear(f.layer_norm(h, (d,), n2, m2), w_up, b_up)), w_down, b_down)
        return block

    def chain(z):
        for _ in range(20):
            z = torch.tanh(torch.sin(z) * torch.exp(-z))
        return z
    return chain


def jax_function(name, x):
    import jax
    import jax.numpy as jnp
    gelu = lambda h: jax.nn.gelu(h, approximate=False)
    linear = lambda h, w, b: h @ w.T + b
    if name == "perceptron":
        return lambda a, b, c, d, e, g: linear(gelu(linear(gelu(linear(x, a, b)), c, d)), e, g)
    if name == "block":
        def norm(h, n, m):
            centred = h - h.mean(-1, keepdims=True)
            return centred / jnp.sqrt((centred ** 2).mean(-1, keepdims=True) + 1e-5) * n + m

        def block(n1, m1, w_qkv, b_qkv, w_o, b_o, n2, m2, w_up, b_up, w_down, b_down):
            b, t, d = x.shape
            q, k, v = linear(norm(x, n1, m1), w_qkv, b_qkv).reshape(b, t, 3, 4, d // 4).transpose(2, 0, 3, 1, 4)
            mixed = jax.nn.softmax(q / math.sqrt(d // 4) @ k.swapaxes(-1, -2), -1) @ v
            h = x + linear(mixed.swapaxes(1, 2).reshape(b, t, d), w_o, b_o)
            return h + linear(gelu(linear(norm(h, n2, m2), w_up, b_up)), w_down, b_down)
        return block

    def chain(z):
        for _ in range(20):
            z = jnp.tanh(jnp.sin(z) * jnp.exp(-z))
        return z
    return chain


def with_torch(name, rounds):
    x, weights = arrays(name)
    f = torch_function(name, x)
    with torch.no_grad():
        forward = best(lambda: f(*weights), 3 * rounds)
    tangents = tuple(torch.randn_like(w) for w in weights)
    calls = [0]

    def counted(*w):
        calls[0] += 1
        return f(*w)
    y, push = torch.func.linearize(counted, *weights)
    linearize_calls = calls[0]
    cotangent = torch.randn_like(y)
    _, pull = torch.func.vjp(f, *weights)
    return {"forward_ms": forward, "build_ms": best(lambda: torch.func.linearize(f, *weights), rounds),
            "push_ms": best(lambda: push(*tangents), PUSHES * rounds),
            "pull_ms": best(lambda: pull(cotangent), PUSHES * rounds),
            "dual_ms": best(lambda: torch.func.jvp(f, weights, tangents), 3 * rounds), "calls": linearize_calls}


def with_jax(name, rounds):
    import jax
    x, weights = arrays(name)
    weights = tuple(jax.numpy.asarray(w.numpy()) for w in weights)
    f = jax.jit(jax_function(name, None if x is None else jax.numpy.asarray(x.numpy())))
    wait = jax.block_until_ready
    key = jax.random.PRNGKey(1)
    tangents = tuple(jax.random.normal(key, w.shape) for w in weights)
    start = time.process_time()
    y = wait(f(*weights))
    cotangent = jax.random.normal(key, y.shape)
    _, push = jax.linearize(f, *weights)
    _, pull = jax.vjp(f, *weights)
    push, pull = jax.jit(push), jax.jit(pull)
    jvp = jax.jit(lambda w, v: jax.jvp(f, w, v))
    wait((push(*tangents), pull(cotangent), jvp(weights, tangents)))
    compiled = time.process_time() - start
    return {"forward_ms": best(lambda: wait(f(*weights)), 3 * rounds),
            "build_ms": best(lambda: wait(jax.linearize(f, *weights)[0]), rounds),
            "push_ms": best(lambda: wait(push(*tangents)), PUSHES * rounds),
            "pull_ms": best(lambda: wait(pull(cotangent)), PUSHES * rounds),
            "dual_ms": best(lambda: wait(jvp(weights, tangents)), 3 * rounds), "calls": 1, "compiled_s": compiled}


def show(who, t):
    total = t["build_ms"] + PUSHES * t["push_ms"]
    once = f", compiled once in {t['compiled_s']:.1f} s" if "compiled_s" in t else ""
    print(f"  {who:12} forward {t['forward_ms']:7.2f} ms   build {t['build_ms']:7.2f}   push {t['push_ms']:7.2f}"
          f"   pull {t['pull_ms']:7.2f}   dual {t['dual_ms']:7.2f}   build + {PUSHES} pushes {total:8.2f} ms"
          f"   f ran {t['calls']}x{once}")


def main():
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    torch.set_num_threads(1)
    out = subprocess.run([sys.argv[1], "--json", str(rounds)], check=True, capture_output=True, text=True).stdout
    ours = {row["case"]: row for row in map(json.loads, out.splitlines())}
    try:
        import jax
        version = "jax " + jax.__version__
    except ImportError:
        jax, version = None, "no jax"
    print(f"float32, one thread, CPU time, best of {rounds} rounds; torch {torch.__version__}, {version}")
    for name, prefix in (("perceptron", "MLP"), ("block", "transformer block"), ("chain", "20 x tanh")):
        case = next(row for row in ours if row.startswith(prefix))
        print(case)
        show("unbend", ours[case])
        show("torch.func", with_torch(name, rounds))
        if jax:
            show("jax", with_jax(name, rounds))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main()
