"""The forward passes of the other classes in numpy and float64, as reference.py is for Llama's.

Written from the papers, model cards and config.json; it shares no code with transformers.
"""

import math

import numpy as np

from reference import read_folder, rope_frequencies

ERF = np.vectorize(math.erf)
ACTIVATIONS = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * (1 + ERF(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
}
TANH = ("gelu_new", "gelu_pytorch_tanh")


def capped(x, cap):
    return cap * np.tanh(x / cap) if cap else x


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def llama_like(config):
    """Facts that a class may change."""
    heads = config["num_attention_heads"]
    layers = config["num_hidden_layers"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    name = config.get("hidden_activation") or config.get("hidden_act") or "silu"
    return {
        "layers": layers,
        "heads": heads,
        "kv_heads": config.get("num_key_value_heads") or heads,
        "head_dim": head_dim,
        "eps": config.get("rms_norm_eps", 1e-6),
        "activation": ACTIVATIONS["gelu_tanh" if name in TANH else name],
        "scale": head_dim**-0.5,
        "windows": [0] * layers,
        "one_plus": False,
        "layer_norm": False,
        "parallel": False,
        "embedding_scale": 1.0,
        "score_cap": 0,
        "logit_cap": 0,
        "rotary": head_dim,
        "neighbours": False,
        "prefix": "model.",
        "head": "lm_head",
        "experts": None,
        # Per layer: frequencies and factor of cosine and sine, for a text of n ids.
        "rope": lambda layer, n: rope_frequencies(config, head_dim),
    }


def sliding(config, window, otherwise):
    types = config.get("layer_types")
    layers = range(config["num_hidden_layers"])
    slides = [t == "sliding_attention" for t in types] if types else [otherwise(i) for i in layers]
    return [window if slide else 0 for slide in slides]


def long_rope(config, dims, n):
    rope = config.get("rope_parameters") or {**config["rope_scaling"]}
    original = config["original_max_position_embeddings"]
    theta = rope.get("rope_theta", config.get("rope_theta"))
    factors = np.array(rope["long_factor" if n > original else "short_factor"])
    growth = config["max_position_embeddings"] / original
    scale = math.sqrt(1 + math.log(growth) / math.log(original))
    return theta ** (-np.arange(0, dims, 2) / dims) / factors, scale


def facts_of(config):
    kind = config["model_type"]
    if kind == "codegen":
        return codegen(config)
    nested = kind == "gemma3"
    if nested:
        # Gaps stand for the class's defaults.
        config = {"query_pre_attn_scalar": 256, **config["text_config"]}
        config.setdefault("hidden_activation", "gelu_pytorch_tanh")
    facts = llama_like(config)
    layers = facts["layers"]
    window = config.get("sliding_window") or 0
    if kind in ("mistral", "starcoder2", "phi3"):
        facts["windows"] = [window] * layers
    if kind in ("qwen2", "qwen3", "qwen3_moe"):
        window = window if config["use_sliding_window"] else 0
        first = 0 if kind == "qwen3_moe" else config["max_window_layers"]
        facts["windows"] = sliding(config, window, lambda i: window > 0 and i >= first)
    if kind == "qwen3_moe":
        facts["experts"] = (config["num_experts_per_tok"], config["norm_topk_prob"])
        if window:
            facts["windows"] = [window] * layers
    if kind == "starcoder2":
        facts |= {"layer_norm": True, "eps": config["norm_epsilon"]}
    if kind == "phi3":
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        part = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
        facts["rotary"] = dims = int(facts["head_dim"] * part)
        if "long_factor" in rope:
            facts["rope"] = lambda layer, n: long_rope(config, dims, n)
    if kind.startswith("gemma"):
        facts |= {
            "one_plus": True,
            "embedding_scale": math.sqrt(config["hidden_size"]),
            "scale": config["query_pre_attn_scalar"] ** -0.5,
            "activation": ACTIVATIONS["gelu_tanh"],
            "logit_cap": 0 if nested else config.get("final_logit_softcapping") or 0,
        }
    if kind == "gemma2":
        facts["score_cap"] = config["attn_logit_softcapping"]
        facts["windows"] = sliding(config, window, lambda i: i % 2 == 0)
    if kind.startswith("gemma3"):
        every = config.get("sliding_window_pattern", 6)
        facts["windows"] = sliding(config, window, lambda i: (i + 1) % every != 0)
        facts["rope"] = gemma3_rope(config, facts)
    if nested:
        facts["prefix"] = "language_model.model."
    return facts


def gemma3_rope(config, facts):
    both = config.get("rope_parameters")
    if both:
        far, near = both["full_attention"], both["sliding_attention"]
    else:
        far = {**(config.get("rope_scaling") or {}), "rope_theta": config["rope_theta"]}
        near = {"rope_theta": config["rope_local_base_freq"]}

    def rope(layer, n):
        block = near if facts["windows"][layer] else far
        return rope_frequencies({"rope_parameters": block}, facts["head_dim"])

    return rope


def codegen(config):
    common = {
        "hidden_size": config["n_embd"],
        "num_hidden_layers": config["n_layer"],
        "num_attention_heads": config["n_head"],
        "hidden_act": config["activation_function"],
    }
    facts = llama_like(common)
    dims = config["rotary_dim"]
    plain = {"rope_parameters": {"rope_theta": 10000.0}}
    return facts | {
        "eps": config["layer_norm_epsilon"],
        "layer_norm": True,
        "parallel": True,
        "rotary": dims,
        "neighbours": True,
        "prefix": "transformer.",
        "rope": lambda layer, n: rope_frequencies(plain, dims),
    }


def canonical(tensors, facts):
    """The tensors by Llama's names, fused ones taken apart."""
    out = {}
    heads, kv_heads, dim = facts["heads"], facts["kv_heads"], facts["head_dim"]
    words = {
        "transformer.wte.": "model.embed_tokens.",
        "transformer.ln_f.": "model.norm.",
        "transformer.h.": "model.layers.",
        ".ln_1.": ".input_layernorm.",
        ".attn.out_proj.": ".self_attn.o_proj.",
        ".attn.": ".self_attn.",
        ".mlp.fc_in.": ".mlp.up_proj.",
        ".mlp.fc_out.": ".mlp.down_proj.",
        ".mlp.c_fc.": ".mlp.up_proj.",
        ".mlp.c_proj.": ".mlp.down_proj.",
        "language_model.model.": "model.",
    }
    for name, tensor in tensors.items():
        for old, new in words.items():
            name = name.replace(old, new)
        if name.endswith("qkv_proj.weight") and facts["parallel"]:
            groups = tensor.reshape(4, 3, -1, tensor.shape[1])  # q, v, k in each group
            pieces = dict(zip("qvk", groups.transpose(1, 0, 2, 3)))
            for letter, rows in pieces.items():
                out[name.replace("qkv", letter)] = rows.reshape(-1, tensor.shape[1])
        elif name.endswith("qkv_proj.weight"):
            ends = np.cumsum([heads * dim, kv_heads * dim])
            for letter, rows in zip("qkv", np.split(tensor, ends)):
                out[name.replace("qkv", letter)] = rows
        elif name.endswith("gate_up_proj.weight"):
            for word, rows in zip(("gate", "up"), np.split(tensor, 2)):
                out[name.replace("gate_up", word)] = rows
        else:
            out[name] = tensor
    return out


def logits(folder, ids, change=None):
    """Logits at every position, float64, [positions, vocabulary]. `change` alters the facts."""
    config, tensors = read_folder(folder)
    facts = facts_of(config)
    if change:
        change(facts)
    tensors = canonical(tensors, facts)
    heads, kv_heads, head_dim = facts["heads"], facts["kv_heads"], facts["head_dim"]
    n = len(ids)

    def linear(name, x):
        y = x @ tensors[f"{name}.weight"].T
        return y + tensors[f"{name}.bias"] if f"{name}.bias" in tensors else y

    def norm(name, x):
        weight = tensors[f"{name}.weight"] + (1 if facts["one_plus"] else 0)
        if facts["layer_norm"]:
            x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + facts["eps"]) * weight
        return x + tensors[f"{name}.bias"] if facts["layer_norm"] else x

    def rotate(x, layer):
        frequency, scale = facts["rope"](layer, n)
        angle = np.arange(n)[:, None, None] * frequency
        cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
        turning, rest = x[..., : facts["rotary"]], x[..., facts["rotary"] :]
        if facts["neighbours"]:
            a, b = turning[..., 0::2], turning[..., 1::2]
            turned = np.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(
                turning.shape
            )
        else:
            a, b = np.split(turning, 2, axis=-1)
            turned = np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
        return np.concatenate([turned, rest], axis=-1)

    def attention(h, layer):
        name = f"model.layers.{layer}.self_attn"
        q = linear(f"{name}.q_proj", h).reshape(n, heads, head_dim)
        k = linear(f"{name}.k_proj", h).reshape(n, kv_heads, head_dim)
        v = linear(f"{name}.v_proj", h).reshape(n, kv_heads, head_dim)
        if f"{name}.q_norm.weight" in tensors:
            q, k = norm(f"{name}.q_norm", q), norm(f"{name}.k_norm", k)
        q, k = rotate(q, layer), rotate(k, layer)
        k, v = (np.repeat(t, heads // kv_heads, axis=1) for t in (k, v))
        score = capped(np.einsum("qhd,khd->hqk", q, k) * facts["scale"], facts["score_cap"])
        back = np.arange(n)[:, None] - np.arange(n)
        window = facts["windows"][layer]
        hidden = (back < 0) | (back >= window if window else False)
        weight = softmax(np.where(hidden, -np.inf, score))
        mixed = np.einsum("hqk,khd->qhd", weight, v).reshape(n, heads * head_dim)
        return linear(f"{name}.o_proj", mixed)

    def mlp(name, h):
        up = linear(f"{name}.up_proj", h)
        if f"{name}.gate_proj.weight" in tensors:
            up = facts["activation"](linear(f"{name}.gate_proj", h)) * up
        else:
            up = facts["activation"](up)
        return linear(f"{name}.down_proj", up)

    def sparse(name, h):
        per_token, normalize = facts["experts"]
        share = softmax(linear(f"{name}.gate", h))
        chosen = np.argsort(-share, axis=-1)[:, :per_token]
        out = np.zeros_like(h)
        for row in range(n):
            part = share[row, chosen[row]]
            part = part / part.sum() if normalize else part
            for expert, weight in zip(chosen[row], part):
                out[row] += weight * mlp(f"{name}.experts.{expert}", h[row : row + 1])[0]
        return out

    def feed_forward(name, h):
        return sparse(name, h) if f"{name}.gate.weight" in tensors else mlp(name, h)

    embedding = tensors["model.embed_tokens.weight"]
    x = embedding[ids] * facts["embedding_scale"]
    for layer in range(facts["layers"]):
        name = f"model.layers.{layer}"
        h = norm(f"{name}.input_layernorm", x)
        if facts["parallel"]:
            x = x + attention(h, layer) + mlp(f"{name}.mlp", h)
            continue
        mixed = attention(h, layer)
        if f"{name}.pre_feedforward_layernorm.weight" in tensors:
            x = x + norm(f"{name}.post_attention_layernorm", mixed)
            h = mlp(f"{name}.mlp", norm(f"{name}.pre_feedforward_layernorm", x))
            x = x + norm(f"{name}.post_feedforward_layernorm", h)
        else:
            x = x + mixed
            x = x + feed_forward(f"{name}.mlp", norm(f"{name}.post_attention_layernorm", x))
    x = norm("model.norm", x)
    out = x @ tensors.get("lm_head.weight", embedding).T + tensors.get("lm_head.bias", 0)
    return capped(out, facts["logit_cap"])
