"""Makes the small LoRA adapters under adapters/, for models of models/, with logits by PEFT.

    pip install -r test/golden/requirements.txt
    python test/golden/adapters.py

Weights are random. Logits come from the unmerged adapter in float32: x W' + scale (x A') B'.
"""

import base64
import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

HERE = Path(__file__).resolve().parent
LENGTH = 40
MLP = ["gate_proj", "up_proj", "down_proj"]
ADAPTERS = {
    # Every projection, tied embeddings, biases in the model.
    "granite": dict(
        base="granite",
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", *MLP],
    ),
    # Other ranks and scales for some modules, in some layers, scaled by the root of the rank.
    "deepseek": dict(
        base="deepseek",
        r=2,
        lora_alpha=3,
        use_rslora=True,
        target_modules=["q_proj", "v_proj", "down_proj", "lm_head"],
        rank_pattern={"down_proj": 5, "layers.1.self_attn.q_proj": 3},
        alpha_pattern={"v_proj": 7},
    ),
    # Fused projections: rows of one matrix are several of the engine's.
    "phi3": dict(
        base="phi3", r=3, lora_alpha=6, target_modules=["qkv_proj", "gate_up_proj", "o_proj"]
    ),
}


@torch.no_grad()
def make(name, spec):
    settings = dict(spec)
    base = HERE / "models" / settings.pop("base")
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    torch.manual_seed(len(name))
    ids = torch.randint(0, model.config.vocab_size, (1, LENGTH))
    before = model(ids).logits[0]
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
    for key, value in tuned.named_parameters():
        if "lora_" in key:
            value.copy_(torch.randn_like(value) * 0.3)
    rows = tuned(ids).logits[0]
    moved = float((rows - before).abs().max() / before.abs().max())
    assert moved > 0.05, f"{name}: the adapter moves the logits by {moved} only"
    folder = HERE / "adapters" / name
    shutil.rmtree(folder, ignore_errors=True)
    tuned.save_pretrained(folder)
    (folder / "adapter_model.safetensors").chmod(0o644)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = spec["base"]
    config["target_modules"] = sorted(config["target_modules"])
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    data = {
        "base": spec["base"],
        "ids": ids[0].tolist(),
        "logits": base64.b64encode(rows.numpy().astype("<f4").tobytes()).decode(),
        "moved": round(moved, 3),
    }
    (folder / "golden.json").write_text(json.dumps(data) + "\n")
    print(f"{name:10} largest {float(rows.abs().max()):.2f}, moved by {moved:.2f} of the largest")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, spec in ADAPTERS.items():
        make(name, spec)
