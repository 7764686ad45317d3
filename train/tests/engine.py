"""The engine, asked through Node: what it computes is what the recipe has to agree with."""

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "models" / "anchor-code-23m"
GOLDEN = ROOT / "test" / "golden" / "models"


def _node(script: Path, job: dict[str, Any]) -> Any:
    command = ["node", str(script)]
    done = subprocess.run(
        command, cwd=ROOT, input=json.dumps(job), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed (npm run build first?):\n{done.stderr}")
    return json.loads(done.stdout)


def logits(
    folder: Path, ids: list[int], policies: list[dict[str, Any]], **options: Any
) -> list[np.ndarray]:
    """(T, vocabulary) float32 logits under each policy, in the engine's exact mode."""
    job = {"folder": str(folder), "ids": ids, "policies": policies, "options": options}
    parts = _node(Path(__file__).with_name("engine-logits.mjs"), job)
    decoded = (np.frombuffer(base64.b64decode(part), "<f4") for part in parts)
    return [rows.reshape(len(ids), -1) for rows in decoded]


def token_ids(folder: Path, texts: list[str], options: dict[str, Any]) -> list[list[int]]:
    """Ids of texts by `model.tokenize`."""
    job = {"folder": str(folder), "texts": texts, "options": options}
    return _node(Path(__file__).with_name("engine-tokens.mjs"), job)["texts"]


def hole_ids(folder: Path, prefix: str, suffix: str) -> list[int]:
    """Ids that the engine reads to fill a hole."""
    job = {"folder": str(folder), "texts": [], "options": {}, "hole": [prefix, suffix]}
    return _node(Path(__file__).with_name("engine-tokens.mjs"), job)["hole"]
