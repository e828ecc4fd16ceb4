"""A training step of a Llama in PyTorch, for bench/train.bench.ts: a line on stdin is a step, its seconds are a line on stdout.

Usage: train_step.py MODEL_DIRECTORY SEQUENCES TOKENS THREADS. Everything is trained by Adam on next-token cross-entropy in f32, as
`--method elsa` does with its penalty at 0.
"""

import json
import math
import struct
import sys
import time

import torch

directory, sequences, tokens, threads = sys.argv[1], *map(int, sys.argv[2:5])
torch.set_num_threads(threads)
with open(f"{directory}/config.json") as file:
    config = json.load(file)


def read_tensors(path):
    with open(path, "rb") as file:
        content = file.read()
    (size,) = struct.unpack("<Q", content[:8])
    dtypes = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
    for name, entry in json.loads(content[8 : 8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        flat = torch.frombuffer(bytearray(content[begin:end]), dtype=dtypes[entry["dtype"]])
        yield name, flat.float().reshape(entry["shape"]).requires_grad_()


weights = dict(read_tensors(f"{directory}/model.safetensors"))
hidden, heads, groups = config["hidden_size"], config["num_attention_heads"], config["num_key_value_heads"]
width = hidden // heads
frequencies = config["rope_theta"] ** (-torch.arange(0, width, 2) / width)
angles = torch.outer(torch.arange(tokens).float(), frequencies)
cosine, sine = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)
causal = torch.full((tokens, tokens), -math.inf).triu(1)


def norm(x, weight):
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + config["rms_norm_eps"]))


def rotate(x):
    first, second = x.chunk(2, -1)
    return x * cosine + torch.cat([-second, first], -1) * sine


def loss_of(ids):
    x = weights["model.embed_tokens.weight"][ids]
    for index in range(config["num_hidden_layers"]):
        own = lambda name: weights[f"model.layers.{index}.{name}.weight"]
        normed = norm(x, own("input_layernorm"))
        split = lambda name, count: (normed @ own(f"self_attn.{name}_proj").T).view(len(ids), tokens, count, width).transpose(1, 2)
        query, key, value = rotate(split("q", heads)), rotate(split("k", groups)), split("v", groups)
        key, value = (each.repeat_interleave(heads // groups, 1) for each in (key, value))
        scores = torch.softmax(query @ key.transpose(2, 3) / math.sqrt(width) + causal, -1)
        x = x + (scores @ value).transpose(1, 2).reshape(len(ids), tokens, hidden) @ own("self_attn.o_proj").T
        normed = norm(x, own("post_attention_layernorm"))
        gate = torch.nn.functional.silu(normed @ own("mlp.gate_proj").T)
        x = x + (gate * (normed @ own("mlp.up_proj").T)) @ own("mlp.down_proj").T
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    logits = norm(x, weights["model.norm.weight"]) @ head.T
    return torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, len(head)), ids[:, 1:].reshape(-1))


optimiser = torch.optim.Adam(weights.values(), lr=1e-6, betas=(0.9, 0.95), eps=1e-8)
for _ in sys.stdin:
    ids = torch.randint(3, config["vocab_size"], (sequences, tokens))
    started = time.perf_counter()
    optimiser.zero_grad(set_to_none=True)
    loss = loss_of(ids)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
    optimiser.step()
    print(time.perf_counter() - started, loss.item(), flush=True)
