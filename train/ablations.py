"""Tunes every variant of an ablation from its base, on equal ids, and exports each.

    python train/ablations.py train/recipes/ablations/anchor-code-23m.yaml --out runs --seed 1

OUT/NAME-SEED gets a run as train.py leaves it, and `model`, a folder that the engine loads. The
same command goes on where it was left. To measure them: `node bench/quality/ablations.mjs`.
"""

import argparse
import shutil
from pathlib import Path

import torch

from anchorcoder_train.ablations import read_ablations, recipe_of_variant
from anchorcoder_train.export import export_model
from anchorcoder_train.recipe import read_recipe
from anchorcoder_train.trainer import Trainer, keep_recipe


def run_variant(shared: dict, name: str, changes: dict, seed: int, out: Path) -> bool:
    """Whether there was something to do. Raises ValueError where `out` is of another recipe."""
    known = out / "recipe.yaml"
    # A search for dense layers is not repeated.
    anchors = (read_recipe(known).anchors if known.exists() else None) or {}
    recipe = recipe_of_variant(shared, name, changes, seed, anchors.get("dense_layers"))
    if (out / "model").exists():
        keep_recipe(recipe, out)
        return False
    trainer = Trainer(recipe, out)
    trainer.run()
    half = out / "unfinished"
    shutil.rmtree(half, ignore_errors=True)
    export_model(recipe, trainer.built, half, torch.bfloat16)
    half.rename(out / "model")
    shutil.rmtree(out / "checkpoints")
    return True


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ablations", type=Path, help="YAML file")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--base", help="model to tune from, instead of the recipe's")
    parser.add_argument("--seed", type=int, default=1, help="which windows are read, in what order")
    parser.add_argument("--only", help="variants, such as full,anchored; all without it")
    options = parser.parse_args()
    shared, variants = read_ablations(options.ablations)
    if options.base:
        shared["base"] = options.base
    names = options.only.split(",") if options.only else list(variants)
    unknown = [name for name in names if name not in variants]
    if unknown:
        raise SystemExit(f'unknown variant "{unknown[0]}"; known: {", ".join(variants)}')
    for name in names:
        out = options.out / f"{name}-{options.seed}"
        is_new = run_variant(shared, name, variants[name], options.seed, out)
        print(f"{out}: {'done' if is_new else 'done before'}", flush=True)


if __name__ == "__main__":
    main()
