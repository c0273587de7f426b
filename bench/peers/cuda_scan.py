#!/usr/bin/env python3
"""The gated scan on a CUDA device beside flash-linear-attention's Triton kernels, in one process, on the same tensors.

  pip install flash-linear-attention fla-core        (beside a PyTorch with CUDA and Triton)
  cmake --build build/release --target bench_peers_cuda_scan
  python bench/peers/cuda_scan.py build/release/bench/libbench_peers_cuda_scan.so
  ... --type f32 --decay vector --batch 4 --heads 16 --width 64 --lengths 4096,16384 --json

Per decay (none, one per token, one per key) and length: medians of forward, and of forward and backward, ours beside
chunk_linear_attn, chunk_simple_gla or chunk_gla, and of one token with a state beside fused_recurrent_gla, each as a
program calls it and of the device alone; the errors of both against float64 (result, then gradients); our share of the
bandwidth of a copy measured in the same run, counting each argument and result of the forward once; and flash attention
(softmax) of the same shape. A peer that refuses to run is left out and says why. Exit code 1 if ours is slower than the
peer anywhere.
"""
import argparse
import json
import statistics
import sys

import torch


def ours(decay):
    def call(q, k, v, g=None):  # [B, T, H, d], as the peer has them
        x = [t.transpose(1, 2) for t in (q, k, v)]
        g = None if g is None else (g.transpose(1, 2).unsqueeze(-1) if decay == "scalar" else g.transpose(1, 2))
        return torch.ops.unbend_bench.gated_scan(*x, g, None, False)[0].transpose(1, 2)
    return call


def peer(decay):
    from fla.ops.gla import chunk_gla
    from fla.ops.linear_attn import chunk_linear_attn
    from fla.ops.simple_gla import chunk_simple_gla
    if decay == "none":
        return lambda q, k, v: chunk_linear_attn(q, k, v, scale=1.0, normalize=False)[0]
    kernel = chunk_simple_gla if decay == "scalar" else chunk_gla
    return lambda q, k, v, g: kernel(q, k, v, g, scale=1.0)[0]


def exact(q, k, v, g=None):
    """Chunks of 64 in float64."""
    batch, length, heads, _ = q.shape
    state = torch.zeros(batch, heads, k.shape[-1], v.shape[-1], dtype=torch.float64, device=q.device)
    mask = torch.ones(64, 64, dtype=torch.bool, device=q.device).tril()
    out = []
    for t in range(0, length, 64):
        a, b, c = (x[:, t:t + 64].transpose(1, 2) for x in (q, k, v))
        n = a.shape[2]
        whole = 1.0
        if g is not None:
            s = g[:, t:t + 64].transpose(1, 2).cumsum(2)
            s = s.unsqueeze(-1) if s.dim() == 3 else s
            a, b = a * s.exp(), b * (-s).exp()
            whole = s[:, :, -1].exp().unsqueeze(-1)
        out.append((a @ b.transpose(-1, -2)).masked_fill(~mask[:n, :n], 0) @ c + a @ state)
        state = whole * (state + b.transpose(-1, -2) @ c)
    return torch.cat(out, 2).transpose(1, 2)


def inputs(decay, batch, heads, width, length, type):
    random = torch.Generator("cuda").manual_seed(1)
    make = lambda *shape: torch.randn(*shape, generator=random, device="cuda")
    x = [make(batch, length, heads, width).to(type) for _ in range(3)]
    if decay != "none":
        g = torch.nn.functional.logsigmoid(make(batch, length, heads, *([width] if decay == "vector" else []))) / 16
        x.append(g)
    return [t.requires_grad_() for t in x], make(batch, length, heads, width).to(type)


def median_ms(call, repeats):
    events = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record(), call(), end.record()
        events.append((start, end))
    torch.cuda.synchronize()
    return statistics.median(a.elapsed_time(b) for a, b in events)


def timed(call):
    """ms of a call as a program makes it, and of the device alone (replayed from a graph)."""
    for _ in range(3):
        call()
    eager = median_ms(call, 30)
    torch.cuda.synchronize()
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    try:
        with torch.cuda.stream(stream):
            call()
            torch.cuda.synchronize()
            with torch.cuda.graph(graph, stream=stream):
                call()
    except RuntimeError as reason:
        print(f"no graph: {str(reason).splitlines()[0]}", file=sys.stderr)
        return eager, eager
    for _ in range(3):
        graph.replay()
    return eager, median_ms(graph.replay, 30)


def error(a, b):
    return float((a.double() - b).norm() / b.norm())


def copy_bandwidth():
    x = torch.empty(1 << 29, device="cuda", dtype=torch.bfloat16)
    y = torch.empty_like(x)
    return 2 * x.numel() * 2 / (median_ms(lambda: y.copy_(x), 20) / 1e3)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("--type", default="bf16,f32")
    parser.add_argument("--decay", default="none,scalar,vector")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--lengths", default="4096")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--json", action="store_true")
    o = parser.parse_args()
    torch.ops.load_library(o.library)
    bandwidth = copy_bandwidth()
    print(f"{torch.cuda.get_device_name()}, copy {bandwidth / 1e12:.2f} TB/s, torch {torch.__version__}", file=sys.stderr)
    rows, slower = [], False
    for type in o.type.split(","):
        dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[type]
        for decay in o.decay.split(","):
            for length in map(int, o.lengths.split(",")):
                x, cotangent = inputs(decay, o.batch, o.heads, o.width, length, dtype)
                row = {"type": type, "decay": decay, "batch": o.batch, "heads": o.heads, "width": o.width, "length": length}
                doubles = [t.detach().double().requires_grad_() for t in x]
                out = exact(*doubles)
                right = [out.detach(), *torch.autograd.grad(out, doubles, cotangent.double())]
                del out, doubles
                for name, call in [("ours", ours(decay))] + ([] if o.no_peer else [("peer", peer(decay))]):
                    def forward():
                        with torch.no_grad():
                            return call(*x)

                    row[f"{name}_forward"] = timed(forward)
                    row[f"{name}_errors"] = [error(forward(), right[0])]
                    try:
                        got = torch.autograd.grad(call(*x), x, cotangent)
                        row[f"{name}_errors"] += [error(a, b) for a, b in zip(got, right[1:])]
                        row[f"{name}_both"] = timed(lambda: torch.autograd.grad(call(*x), x, cotangent))
                    except RuntimeError as reason:
                        print(f"{name}, {decay}: {reason}", file=sys.stderr)
                size = sum(t.numel() * t.element_size() for t in x) + cotangent.numel() * cotangent.element_size()
                row["forward_share_of_bandwidth"] = size / bandwidth * 1e3 / row["ours_forward"][1]
                if type == "bf16":
                    flat = [t.detach().transpose(1, 2) for t in x[:3]]
                    row["softmax_forward"] = timed(
                        lambda: torch.nn.functional.scaled_dot_product_attention(*flat, is_causal=True))
                slower |= compare(row)
                rows.append(row)
                show(o, row)
    rows.append(decode(o))
    slower |= compare(rows[-1])
    show(o, rows[-1])
    if o.json:
        print(json.dumps({"device": torch.cuda.get_device_name(), "copy_bandwidth": bandwidth, "rows": rows}))
    sys.exit(slower)


def decode(o):
    """One token for each of 256 sequences, with a decay per key."""
    batch, heads, width = 256, o.heads, o.width
    q, k, v = (torch.randn(batch, 1, heads, width, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    g = torch.nn.functional.logsigmoid(torch.randn(batch, 1, heads, width, device="cuda"))
    state = torch.randn(batch, heads, width, width, device="cuda")
    flat = [t.transpose(1, 2) for t in (q, k, v, g)]
    row = {"type": "bf16", "decay": "vector", "batch": batch, "heads": heads, "width": width, "length": 1}
    with torch.no_grad():
        row["ours_forward"] = timed(lambda: torch.ops.unbend_bench.gated_scan(*flat, state, True))
        if not o.no_peer:
            from fla.ops.gla import fused_recurrent_gla
            row["peer_forward"] = timed(lambda: fused_recurrent_gla(
                q, k, v, gk=g, scale=1.0, initial_state=state, output_final_state=True))
    return row


def compare(row):
    """Adds the peer's time over ours; whether ours is slower on the device."""
    slower = False
    for what in ("forward", "both"):
        if f"peer_{what}" in row:
            row[f"{what}_ratio"] = [a / b for a, b in zip(row[f"peer_{what}"], row[f"ours_{what}"])]
            slower |= row[f"{what}_ratio"][1] < 1
    return slower


def show(o, row):
    if o.json:
        return
    number = lambda x: f"{x:.3g}" if isinstance(x, float) else str(x)
    print(", ".join(f"{key} {'/'.join(map(number, x)) if isinstance(x, (list, tuple)) else number(x)}"
                    for key, x in row.items()), flush=True)


if __name__ == "__main__":
    main()
