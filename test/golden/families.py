"""Small models of the classes beside Llama: their settings, weights and spellings.

make.py builds them; README.md describes what each of them tries.
"""

import copy

import numpy as np
import torch
import transformers

BASE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "vocab_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def plain(theta):
    return {"rope_type": "default", "rope_theta": theta}


QWEN2 = {**BASE, "hidden_size": 48, "intermediate_size": 64, "rope_parameters": plain(1000000.0)}
MOE = {
    **BASE,
    "head_dim": 16,
    "moe_intermediate_size": 20,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "mlp_only_layers": [1],
    "rope_parameters": plain(10000000.0),
}
GEMMA = {
    **BASE,
    "hidden_size": 48,
    "head_dim": 16,
    "pad_token_id": 0,
    # A scale of the scores that is not the head's.
    "query_pre_attn_scalar": 24,
}
GEMMA3 = {
    **GEMMA,
    "hidden_size": 40,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "sliding_window": 20,
    "layer_types": [
        "sliding_attention",
        "sliding_attention",
        "full_attention",
        "sliding_attention",
    ],
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
        "sliding_attention": plain(10000.0),
    },
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    # Close to the pairs' own frequencies at first, as real ones are.
    "short_factor": [1.0, 1.1, 1.2, 1.25, 1.4, 1.5],
    "long_factor": [1.3, 1.9, 2.6, 4.0, 6.5, 8.0],
}

# As in llama.py. `kind`: prefix of transformers' classes. `context`: of the session that the short
# prompt is for, where that decides the table of positions (longrope).
MODELS = {
    "mistral": dict(
        kind="Mistral",
        dtype="bfloat16",
        spelling="v4",
        beside=["v5"],
        omit=["head_dim"],
        config={**BASE, "sliding_window": None, "rope_parameters": plain(1000000.0)},
    ),
    "mistral-window": dict(
        kind="Mistral",
        dtype="float32",
        beside=["v4"],
        config={
            **BASE,
            "num_hidden_layers": 2,
            "head_dim": 16,
            "sliding_window": 20,
            "rope_parameters": plain(10000.0),
        },
    ),
    "qwen2": dict(
        kind="Qwen2",
        dtype="bfloat16",
        spelling="v4",
        beside=["v5"],
        config={**QWEN2, "tie_word_embeddings": True},
        # Set, but off.
        v4={"sliding_window": 16, "max_window_layers": 0, "use_sliding_window": False},
    ),
    "qwen2-yarn": dict(
        kind="Qwen2",
        dtype="float32",
        beside=["v4"],
        config={
            **BASE,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1000000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "qwen2-window": dict(
        kind="Qwen2",
        dtype="bfloat16",
        beside=["v4"],
        config={
            **QWEN2,
            "hidden_size": 32,
            "num_hidden_layers": 4,
            "use_sliding_window": True,
            "sliding_window": 16,
            "max_window_layers": 2,
        },
        v4={"layer_types": None},
    ),
    "qwen3": dict(
        kind="Qwen3",
        dtype="bfloat16",
        beside=["v4"],
        config={**BASE, "head_dim": 24, "rope_parameters": plain(1000000.0)},
        v4={"layer_types": None},
    ),
    "qwen3-moe": dict(
        kind="Qwen3Moe",
        dtype="bfloat16",
        beside=["v4"],
        config={**MOE, "norm_topk_prob": True},
    ),
    "qwen3-moe-raw": dict(
        kind="Qwen3Moe",
        dtype="float32",
        config={
            **MOE,
            "norm_topk_prob": False,
            "num_hidden_layers": 2,
            "mlp_only_layers": [],
            "moe_intermediate_size": 12,
            "attention_bias": True,
        },
    ),
    "starcoder2": dict(
        kind="Starcoder2",
        dtype="bfloat16",
        beside=["v4"],
        config={**BASE, "sliding_window": 24, "rope_parameters": plain(999999.4420358813)},
        v4={"tie_word_embeddings": None},
    ),
    "starcoder2-untied": dict(
        kind="Starcoder2",
        dtype="float32",
        config={
            **BASE,
            "num_hidden_layers": 2,
            "use_bias": False,
            "tie_word_embeddings": False,
            "rope_parameters": plain(100000.0),
        },
    ),
    "phi3": dict(
        kind="Phi3",
        dtype="bfloat16",
        beside=["v4"],
        config={
            **BASE,
            "num_key_value_heads": 4,
            "sliding_window": 23,
            "pad_token_id": 0,
            "rope_parameters": plain(10000.0),
        },
    ),
    "phi3-longrope": dict(
        kind="Phi3",
        dtype="float16",
        beside=["v4"],
        context=64,
        config={
            **BASE,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "original_max_position_embeddings": 64,
            "pad_token_id": 0,
            "tie_word_embeddings": True,
            "rope_parameters": LONGROPE,
        },
    ),
    "gemma2": dict(
        kind="Gemma2",
        dtype="bfloat16",
        beside=["v4"],
        config={
            **GEMMA,
            "sliding_window": 16,
            "attn_logit_softcapping": 1.5,
            "final_logit_softcapping": 1.5,
            "rope_parameters": plain(10000.0),
        },
        v4={"layer_types": None, "tie_word_embeddings": None, "hidden_act": "gelu"},
    ),
    "gemma3": dict(
        kind="Gemma3",
        text="Gemma3TextConfig",
        dtype="bfloat16",
        beside=["v4"],
        config=GEMMA3,
        v4={"layer_types": None, "tie_word_embeddings": None, "sliding_window_pattern": 3},
    ),
    "gemma3-nested": dict(
        kind="Gemma3",
        text="Gemma3TextConfig",
        nested=True,
        dtype="bfloat16",
        beside=["v4"],
        config={**GEMMA3, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6},
        v4={"layer_types": None, "sliding_window_pattern": 3},
    ),
    "codegen": dict(
        kind="CodeGen",
        dtype="bfloat16",
        beside=["v4"],
        config={
            "n_embd": 48,
            "n_layer": 2,
            "n_head": 8,
            "n_positions": 512,
            "rotary_dim": 4,
            "vocab_size": 128,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
}
# What configs of transformers 4 leave out in a nested text_config: the class's defaults.
NESTED_DEFAULTS = {
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "attention_bias": False,
}


def build(spec):
    kind, text = spec["kind"], spec.get("text", f"{spec['kind']}Config")
    config = getattr(transformers, text)(**spec["config"])
    if not spec.get("nested"):
        return getattr(transformers, f"{kind}ForCausalLM")(config)
    vision = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 14,
        "patch_size": 14,
    }
    whole = transformers.Gemma3Config(
        text_config=config.to_dict(), vision_config=vision, eos_token_id=[2, 3]
    )
    return transformers.Gemma3ForConditionalGeneration(whole)


def fill(model, seed):
    """As llama.py's, for the names and norms of every class."""
    random = np.random.RandomState(seed)
    text = model.config.get_text_config()
    one_plus = text.model_type.startswith("gemma")
    for name, tensor in sorted(model.named_parameters()):
        noise = random.standard_normal(tuple(tensor.shape))
        word = name.rsplit(".", 2)[-2]
        out = word in ("o_proj", "down_proj", "c_proj", "out_proj", "fc_out")
        # Gemma has norms behind attention and MLP, which undo the scale of what comes before them.
        plain = word in ("c_proj", "fc_out")
        # A tied model repeats itself unless its layers say more than its embedding.
        strong = plain or text.tie_word_embeddings
        out = out or name.endswith("experts.down_proj")
        residual = 1.0 if not out else 0.3 if strong else 0.1
        is_norm = "norm" in word or word.startswith("ln_")
        if is_norm and name.endswith("weight"):
            value = (0 if one_plus else 1) + 0.3 * noise
            if one_plus and word in ("post_attention_layernorm", "post_feedforward_layernorm"):
                value = -0.95 + 0.02 * noise
            elif one_plus and word == "norm":
                value = 15 + 3 * noise
        elif name.endswith("bias"):
            value = (0.02 if is_norm and word != "norm" else 0.2 * residual) * noise
        elif word in ("embed_tokens", "wte"):
            scale = 1 / np.sqrt(text.hidden_size) if one_plus else 1.0
            value = 0.03 * scale * noise
        elif word == "lm_head":
            value = 0.3 * noise
        else:
            sharp = 0.7 if word in ("q_proj", "k_proj") else 1.0
            sharp = 3.0 if word == "gate" else sharp
            value = residual * sharp * noise / np.sqrt(tensor.shape[-1])
        tensor.data.copy_(torch.from_numpy(value))


def v4_spelling(config, spec):
    """config.json as transformers 4 wrote it."""
    config = copy.deepcopy(config)
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.57.1"
    text = config["text_config"] if spec.get("nested") else config
    text.pop("_sliding_window_pattern", None)
    if "num_local_experts" in text:
        text["num_experts"] = text.pop("num_local_experts")
    if "rope_parameters" in text:
        respell_rope(text, dict(text.pop("rope_parameters")))
    if spec.get("nested"):
        for key, value in NESTED_DEFAULTS.items():
            if text.get(key) == value:
                del text[key]
    for key, value in spec.get("v4", {}).items():
        if value is None:
            text.pop(key, None)
        else:
            text[key] = value
    return config


def respell_rope(config, rope):
    if "full_attention" in rope:
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = dict(rope["full_attention"])
    config["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    if rope["rope_type"] == "default":
        config["rope_scaling"] = None
        return
    if rope["rope_type"] == "longrope":
        # As in Phi-3's own configs; the original context stands outside.
        rope.pop("original_max_position_embeddings", None)
        rope["type"] = rope.pop("rope_type")
    config["rope_scaling"] = rope
