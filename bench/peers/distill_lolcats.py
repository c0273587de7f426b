#!/usr/bin/env python3
"""`unbend lm distill --recipe lolcats` beside LoLCATs-style PyTorch code of the same model: tokens per second per stage.

  tools/setup.sh torch llama model texts convert && ./run    # or: cmake --build build/release --target unbend_cli
  tools/texts.sh    # or, with any long text: build/unbend lm tokens MODEL.gguf TEXT --out TOKENS.safetensors
  .venv/bin/python bench/peers/distill_lolcats.py build/unbend MODEL.gguf build/texts/kjv.tokens.safetensors
  ... --threads 1 --type f32 --length 2048 --rows 1 --accumulate 4 --rounds 3 --json

Both train on the same token file with the same batch, length, ranks, type and threads, in turns; each measurement is
one optimiser step of `accumulate` batches (the peer has warmed up, we have not). Exit code 1 if the bar of 1.5 times
the faster peer is missed in a stage.

The peer is transformers' LlamaForCausalLM with the model's weights, its attention replaced as in the authors' code
(HazyResearch/lolcats; Zhang et al. 2024, arXiv 2410.10254): in the stage `transfer` every layer computes the softmax
attention, which goes on to the next layer, and the student's, and all layers' mean squared errors (times 1000) go
backward at once; in the stage `lora` the student's attention trains rank-8 factors on the next token, AdamW, fused. Two
ways to compute the student's attention:

quadratic   as their training does: all weights of window and linear part as matrices, teacher's too
chunked     linear in length, in blocks of the window with batched products; teacher by PyTorch's fused attention. That
            is what their variant for long texts is after, without its CUDA kernels

Left out, in the peer's favour: their logits in the stage `transfer`, anomaly detection, checks for NaN, evaluation.
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

BAR = 1.5
RANK, ALPHA, WINDOW, FACTOR = 8, 16.0, 64, -2.197
LLAMA_CPP = Path(__file__).resolve().parents[2] / "build/third_party/llama.cpp/gguf-py"


def load_model(path, dtype):
    """LlamaForCausalLM with the weights of a GGUF file of a Llama-family model with tied embeddings."""
    sys.path.insert(0, str(LLAMA_CPP))
    import gguf
    from transformers import LlamaConfig, LlamaForCausalLM

    reader = gguf.GGUFReader(path)
    field = lambda name: reader.fields[f"llama.{name}"].contents()
    weights = {t.name: torch.from_numpy(gguf.quants.dequantize(t.data, t.tensor_type).copy()) for t in reader.tensors}
    heads, kv_heads = field("attention.head_count"), field("attention.head_count_kv")
    config = LlamaConfig(
        vocab_size=weights["token_embd.weight"].shape[0], hidden_size=field("embedding_length"),
        intermediate_size=field("feed_forward_length"), num_hidden_layers=field("block_count"),
        num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=field("context_length"),
        rope_theta=field("rope.freq_base"), rms_norm_eps=field("attention.layer_norm_rms_epsilon"),
        tie_word_embeddings="output.weight" not in weights, use_cache=False)

    def rotated(weight, count):  # llama.cpp keeps the two halves of a rotated pair side by side
        return weight.unflatten(0, (count, -1, 2)).transpose(1, 2).reshape(weight.shape)

    names = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
             "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
             "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    state = {"model.embed_tokens.weight": weights["token_embd.weight"], "model.norm.weight": weights["output_norm.weight"],
             "lm_head.weight": weights.get("output.weight", weights["token_embd.weight"])}
    for layer in range(config.num_hidden_layers):
        for theirs, ours in names.items():
            weight = weights[f"blk.{layer}.{theirs}.weight"]
            if theirs in ("attn_q", "attn_k"):
                weight = rotated(weight, heads if theirs == "attn_q" else kv_heads)
            state[f"model.layers.{layer}.{ours}.weight"] = weight
    model = LlamaForCausalLM(config)
    model.load_state_dict(state)
    return model.to(dtype).requires_grad_(False)


class FeatureMap(nn.Module):
    """[softmax(x M), softmax(-x M)] with one M [d, d/2] per head."""

    def __init__(self, heads, width, dtype):
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(width)[:, : width // 2].repeat(heads, 1, 1).to(dtype))

    def forward(self, x):
        y = torch.einsum("hdf,bhld->bhlf", self.matrix, x)
        return torch.cat([y.softmax(-1), (-y).softmax(-1)], -1).clamp(min=1e-12)


class LoraLinear(nn.Module):
    """A frozen linear layer with low-rank factors, as peft has them: float32, on the layer's input and output."""

    def __init__(self, base, rank, alpha):
        super().__init__()
        self.base, self.scale, self.active = base, alpha / rank, True
        self.a = nn.Parameter(torch.empty(rank, base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x):
        out = self.base(x)
        if not self.active:
            return out
        return (out + F.linear(F.linear(x.to(self.a.dtype), self.a), self.b) * self.scale).to(out.dtype)


def softmax_quadratic(q, k, v):
    """Causal softmax attention by its matrix of weights."""
    tokens = q.shape[2]
    scores = torch.einsum("bhmd,bhnd->bhmn", q, k) * q.shape[-1] ** -0.5
    future = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    scores = scores.masked_fill(future, -torch.finfo(scores.dtype).max)
    return torch.einsum("bhmn,bhnd->bhmd", scores.softmax(-1, dtype=torch.float32).to(q.dtype), v)


def student_quadratic(q, k, v, fq, fk, factor):
    """Softmax over the last WINDOW tokens (weighing `factor`) and linear attention over older ones, by their weights."""
    age = torch.arange(q.shape[2])[:, None] - torch.arange(q.shape[2])
    scores = torch.einsum("bhmd,bhnd->bhmn", q.float(), k.float()) * q.shape[-1] ** -0.5
    scores = scores.masked_fill((age < 0) | (age >= WINDOW), -1e8)
    near = factor * (scores - scores.amax(-1, keepdim=True)).exp()
    far = torch.einsum("bhmf,bhnf->bhmn", fq.float(), fk.float()).masked_fill(age < WINDOW, 0)
    total = near.sum(-1, keepdim=True) + far.sum(-1, keepdim=True)
    return (torch.einsum("bhmn,bhnd->bhmd", near + far, v.float()) / total).to(q.dtype)


def softmax_fused(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def student_chunked(q, k, v, fq, fk, factor):
    """The same in blocks of WINDOW tokens: a token's window lies in its block and the one before; what is older lies in
    the block before or in the state, the sum over all blocks before that one."""
    def cut(x):
        return x.unflatten(2, (-1, WINDOW)).float()  # [B, H, blocks, WINDOW, d]

    def before(x):
        return F.pad(x[:, :, :-1], (0, 0, 0, 0, 1, 0))

    shape = q.shape
    scale, dtype = shape[-1] ** -0.5, q.dtype
    q, k, fq, fk = cut(q), cut(k), cut(fq), cut(fk)
    v = F.pad(cut(v), (0, 1), value=1.0)  # the column of ones sums the weights
    i, j = torch.arange(WINDOW)[:, None], torch.arange(2 * WINDOW)
    hidden = ((j > i + WINDOW) | (j <= i)).repeat(q.shape[2], 1, 1)
    hidden[0, :, :WINDOW] = True
    scores = (q @ torch.cat([before(k), k], -2).transpose(-1, -2) * scale).masked_fill(hidden, -1e8)
    near = factor.unsqueeze(-1) * (scores - scores.amax(-1, keepdim=True)).exp()
    far = (fq @ before(fk).transpose(-1, -2)).tril()
    updates = before(fk).transpose(-1, -2) @ before(v)
    states = updates.cumsum(2) - updates
    sums = near @ torch.cat([before(v), v], -2) + far @ before(v) + fq @ states
    return (sums[..., :-1] / sums[..., -1:]).flatten(2, 3).to(dtype)


FORMS = {"quadratic": (softmax_quadratic, student_quadratic), "chunked": (softmax_fused, student_chunked)}


class LolcatsAttention(nn.Module):
    """Stands in for a LlamaAttention. In the stage `transfer` it passes the teacher's heads on and keeps its loss."""

    def __init__(self, attention, config):
        super().__init__()
        dtype, heads, width = attention.q_proj.weight.dtype, config.num_attention_heads, attention.head_dim
        self.width, self.group = width, attention.num_key_value_groups
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, LoraLinear(getattr(attention, name), RANK, ALPHA))
        self.query_map, self.key_map = FeatureMap(heads, width, dtype), FeatureMap(heads, width, dtype)
        self.window_factors = nn.Parameter(torch.full((1, heads, 1, 1), FACTOR, dtype=dtype))
        self.form, self.transfer, self.loss = None, True, None

    def forward(self, hidden_states, position_embeddings, **_):
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv

        batch, tokens, _ = hidden_states.shape
        q, k, v = (projection(hidden_states).view(batch, tokens, -1, self.width).transpose(1, 2)
                   for projection in (self.q_proj, self.k_proj, self.v_proj))
        q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
        k, v = repeat_kv(k, self.group), repeat_kv(v, self.group)
        softmax, student = FORMS[self.form]
        heads = student(q, k, v, self.query_map(q), self.key_map(k), self.window_factors.sigmoid())
        if self.transfer:
            with torch.no_grad():
                truth = softmax(q, k, v)
            self.loss, heads = F.mse_loss(heads, truth), truth
        return self.o_proj(heads.transpose(1, 2).reshape(batch, tokens, -1)), None


class Peer:
    """LoLCATs-style training of one model, either form."""

    def __init__(self, model):
        self.model = model
        for layer in model.model.layers:
            layer.self_attn = LolcatsAttention(layer.self_attn, model.config)
        self.attentions = [layer.self_attn for layer in model.model.layers]
        self.model.train()
        maps = [p for x in self.attentions for p in (x.query_map.matrix, x.key_map.matrix, x.window_factors)]
        factors = [p for m in model.modules() if isinstance(m, LoraLinear) for p in (m.a, m.b)]
        self.trained = {"transfer": maps, "lora": factors}
        self.optimizers = {stage: torch.optim.AdamW(self.trained[stage], lr=rate, weight_decay=0, fused=True)
                           for stage, rate in (("transfer", 1e-2), ("lora", 1e-4))}

    def set(self, stage, form):
        for x in self.attentions:
            x.form, x.transfer = form, stage == "transfer"
        for module in self.model.modules():
            if isinstance(module, LoraLinear):
                module.active = stage == "lora"
        for name, parameters in self.trained.items():
            for p in parameters:
                p.requires_grad_(name == stage)

    def loss(self, stage, ids):
        if stage == "transfer":
            self.model.model(ids)
            return 1000 * sum(x.loss for x in self.attentions) / len(self.attentions)
        logits = self.model(ids).logits[:, :-1].float()
        return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))

    def step(self, stage, batches):
        total = 0.0
        for ids in batches:
            loss = self.loss(stage, ids) / len(batches)
            loss.backward()
            total += loss.item()
        self.optimizers[stage].step()
        self.optimizers[stage].zero_grad()
        return total


def ours(options, stage_tokens):
    """Tokens per second of each stage, and its first loss, from the program's own report."""
    with tempfile.TemporaryDirectory(prefix="unbend-lolcats-") as folder:
        command = [options.unbend, "lm", "distill", options.model, "--recipe", "lolcats", "--tokens-file", options.tokens,
                   "--length", options.length, "--shortest", options.length - 1, "--rows", options.rows, "--accumulate",
                   options.accumulate, "--type", options.type, "--threads", options.threads, "--set", f"window={WINDOW}",
                   "--set", f"lora_rank={RANK}", "--stage", f"transfer.tokens={stage_tokens}", "--stage",
                   f"lora.tokens={stage_tokens}", "--out", Path(folder, "student.safetensors"), "--quiet", "--json"]
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"distill_lolcats: {' '.join(map(str, command))}: {result.stderr.strip()}")
    return {x["name"]: (x["tokens_per_second"], x["first_loss"]) for x in json.loads(result.stdout)["results"]}


def same_numbers(peer, ids):
    """Ends the program unless both forms of the peer compute the same."""
    losses = {}
    for form in FORMS:
        for stage in ("transfer", "lora"):
            peer.set(stage, form)
            with torch.no_grad():
                losses.setdefault(stage, []).append(peer.loss(stage, ids).item())
    for stage, (a, b) in losses.items():
        if not abs(a - b) < 0.02 * abs(a):
            sys.exit(f"distill_lolcats: the peer's forms disagree in stage {stage}: {a} and {b}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("unbend", help="build/unbend")
    parser.add_argument("model", help="GGUF file")
    parser.add_argument("tokens", help="token file of texts that are longer than --length")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--type", default="bf16", choices=["bf16", "f32"])
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--accumulate", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.length % WINDOW:
        sys.exit(f"distill_lolcats: --length must be a multiple of {WINDOW}")
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)

    from safetensors.torch import load_file

    all_ids = load_file(options.tokens)["ids"].long()
    step_tokens = options.rows * options.length * options.accumulate
    place = 0

    def batches():
        nonlocal place
        result = []
        for _ in range(options.accumulate):
            count = options.rows * options.length
            if place + count > len(all_ids):
                place = 0
            result.append(all_ids[place : place + count].view(options.rows, options.length))
            place += count
        return result

    peer = Peer(load_model(options.model, torch.bfloat16 if options.type == "bf16" else torch.float32))
    same_numbers(peer, batches()[0])
    rates = {stage: {name: [] for name in ("unbend", *FORMS)} for stage in ("transfer", "lora")}
    losses = {stage: {} for stage in rates}
    for form in FORMS:  # warms up
        for stage in rates:
            peer.set(stage, form)
            peer.step(stage, batches()[:1])
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
        for stage, (rate, loss) in ours(options, step_tokens).items():
            rates[stage]["unbend"].append(rate)
            losses[stage].setdefault("unbend", loss)
        for form in FORMS:
            for stage in rates:
                peer.set(stage, form)
                given = batches()
                start = time.perf_counter()
                loss = peer.step(stage, given)
                rates[stage][form].append(step_tokens / (time.perf_counter() - start))
                losses[stage].setdefault(form, loss)
    middle = {stage: {name: statistics.median(values) for name, values in by.items()} for stage, by in rates.items()}
    ratios = {stage: by["unbend"] / max(by[form] for form in FORMS) for stage, by in middle.items()}
    # One token through both stages.
    both = {name: 2 / sum(1 / middle[stage][name] for stage in middle) for name in ("unbend", *FORMS)}
    ratios["both"] = both["unbend"] / max(both[form] for form in FORMS)
    if options.json:
        print(json.dumps({"settings": {k: str(v) for k, v in vars(options).items()}, "tokens_per_second": rates,
                          "median": middle | {"both": both}, "ratio": ratios, "first_loss": losses}, indent=2))
    else:
        print(f"{options.rows} x {options.length} tokens, {options.accumulate} batches a step, {options.type}, "
              f"{options.threads} threads, torch {torch.__version__}; median of {options.rounds} steps\n"
              f"{'':12}" + "".join(f"{name:>14}" for name in ("unbend", *FORMS)) + "   over the faster peer")
        for stage, by in {**middle, "both": both}.items():
            print(f"{stage:12}" + "".join(f"{by[name]:10.0f} t/s" for name in ("unbend", *FORMS)) +
                  f"   {ratios[stage]:.2f}" + ("" if ratios[stage] >= BAR else f" (missed: the bar is {BAR})"))
        for stage, by in losses.items():
            print(f"first loss of {stage}: " + ", ".join(f"{name} {loss:.3f}" for name, loss in by.items()))
    return 0 if all(ratio >= BAR for ratio in ratios.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
