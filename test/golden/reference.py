"""A Llama-class forward pass in numpy and float64, written from the papers and config.json alone.

It shares no code with transformers, so agreement of the two says that both read the folder alike,
and the difference is the rounding of transformers' float32.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file


def read_folder(folder):
    """config.json (either spelling, gaps filled) and all tensors as float64."""
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text())
    index = folder / "model.safetensors.index.json"
    if index.exists():
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        files = ["model.safetensors"]
    tensors = {}
    for file in files:
        tensors |= {
            name: t.to(torch.float64).numpy() for name, t in load_file(folder / file).items()
        }
    return config, tensors


def rope_frequencies(config, head_dim):
    """Angular frequency of each pair of a head's channels, and the factor on cos and sin."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    kind = rope.get("rope_type", rope.get("type", "default"))
    frequency = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    if kind == "default":
        return frequency, 1.0
    factor = rope["factor"]
    if kind == "linear":
        return frequency / factor, 1.0
    original = rope["original_max_position_embeddings"]
    if kind == "llama3":
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        turns = original * frequency / (2 * math.pi)
        keep = np.clip((turns - low) / (high - low), 0, 1)
        return (1 - keep) * frequency / factor + keep * frequency, 1.0
    if kind == "yarn":

        def pair_with(turns):
            return head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

        first, last = pair_with(rope.get("beta_fast") or 32), pair_with(rope.get("beta_slow") or 1)
        if rope.get("truncate", True):
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, head_dim - 1)
        if first == last:
            last += 0.001
        scaled = np.clip((np.arange(head_dim // 2) - first) / (last - first), 0, 1)

        def magnitude(scale):
            return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0

        attention = rope.get("attention_factor")
        if attention is None:
            if rope.get("mscale") and rope.get("mscale_all_dim"):
                attention = magnitude(rope["mscale"]) / magnitude(rope["mscale_all_dim"])
            else:
                attention = magnitude(1)
        return scaled * frequency / factor + (1 - scaled) * frequency, attention
    raise ValueError(f"rope type {kind}")


def logits(folder, ids):
    """Logits at every position, float64, [positions, vocabulary]."""
    config, tensors = read_folder(folder)
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    eps = config["rms_norm_eps"]
    n = len(ids)

    def linear(name, x):
        y = x @ tensors[f"{name}.weight"].T
        return y + tensors[f"{name}.bias"] if f"{name}.bias" in tensors else y

    def norm(name, x):
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * tensors[f"{name}.weight"]

    frequency, scale = rope_frequencies(config, head_dim)
    angle = np.arange(n)[:, None] * frequency
    cos, sin = np.cos(angle)[:, None] * scale, np.sin(angle)[:, None] * scale

    def rotate(x):
        a, b = np.split(x, 2, axis=-1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    future = np.triu(np.full((n, n), -np.inf), 1)
    embedding = tensors["model.embed_tokens.weight"]
    x = embedding[ids]
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        h = norm(f"{name}.input_layernorm", x)
        q = rotate(linear(f"{name}.self_attn.q_proj", h).reshape(n, heads, head_dim))
        k = rotate(linear(f"{name}.self_attn.k_proj", h).reshape(n, kv_heads, head_dim))
        v = linear(f"{name}.self_attn.v_proj", h).reshape(n, kv_heads, head_dim)
        k, v = (np.repeat(t, heads // kv_heads, axis=1) for t in (k, v))
        score = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(head_dim) + future
        weight = np.exp(score - score.max(axis=-1, keepdims=True))
        weight /= weight.sum(axis=-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", weight, v).reshape(n, heads * head_dim)
        x = x + linear(f"{name}.self_attn.o_proj", mixed)
        h = norm(f"{name}.post_attention_layernorm", x)
        gate = linear(f"{name}.mlp.gate_proj", h)
        gated = gate / (1 + np.exp(-gate)) * linear(f"{name}.mlp.up_proj", h)
        x = x + linear(f"{name}.mlp.down_proj", gated)
    x = norm("model.norm", x)
    return x @ tensors.get("lm_head.weight", embedding).T
