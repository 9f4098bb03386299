"""Whether a configuration fits this machine, and whether its weights and its data are there."""

from itertools import islice
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HTTPError
from torch._subclasses import FakeTensorMode

from partloc.config import Config, ModelConfig
from partloc.data.layout import LayoutError, find_model_folders, pair_files
from partloc.diagnosis.environment import Check
from partloc.inference.checkpoint import SHIPPED_MODELS
from partloc.model.backbone import TIMM_NAMES, ActivationPolicy
from partloc.system.files import checksum_path, matches_checksum
from partloc.training.activation_memory import RESERVED_FRACTION, StepMemory, measure_step_memory
from partloc.training.summary import build_without_weights

HUB_TIMEOUT_S = 5
MAX_FOLDERS = 1000  # listed for a glance at the data
MAX_PAIRS = 256  # of a batch
SMALLER_BACKBONE, SMALLER_IMAGE_PX = "dinov2_vits14", 518  # if the configuration does not fit


def check_memory(config: Config, budget_gb: float, precision: torch.dtype | None) -> Check:
    """The computed memory of a training step, and how many pairs fit in `budget_gb` of 1e9 bytes.

    If a batch does not fit, a smaller configuration is named that does.
    """
    memory = _step_memory(config, precision)
    pairs = config.train.batch_size
    needed = _peak_bytes(memory, pairs, config) / 1e9
    usable = (1 - RESERVED_FRACTION) * budget_gb
    most = _most_pairs(memory, config, usable)
    facts = {
        "backbone": config.model.backbone_name,
        "image_size": config.data.image_size,
        "pairs": pairs,
        "needed_gb": round(needed, 1),
        "usable_gb": round(usable, 1),
        "most_pairs": most,
    }
    if needed <= usable:
        return Check("memory", facts)
    if most:
        advice = f"train.batch_size: {most} fits"
    else:
        smaller = _smaller(config)
        most = _most_pairs(_step_memory(smaller, precision), smaller, usable)
        advice = (
            f"model.backbone_name: {SMALLER_BACKBONE} with data.image_size: "
            f"{smaller.data.image_size} fits {most} pairs"
        )
    problem = f"a batch of {pairs} pairs needs {needed:.1f} GB, {usable:.1f} are usable; {advice}"
    return Check("memory", facts, [problem])


def _smaller(config: Config) -> Config:
    size = min(SMALLER_IMAGE_PX, config.data.image_size)
    model = config.model.model_copy(update={"backbone_name": SMALLER_BACKBONE})
    data = config.data.model_copy(update={"image_size": size})
    return config.model_copy(update={"model": model, "data": data})


def _step_memory(config: Config, precision: torch.dtype | None) -> StepMemory:
    """Measured without values, hence in seconds and in little memory."""
    model = build_without_weights(config)
    with FakeTensorMode(allow_non_fake_inputs=True):
        return measure_step_memory(model, config.train, precision)


def _peak_bytes(memory: StepMemory, pairs: int, config: Config) -> float:
    """Of a batch in which no two pairs share a whole, with as much recomputation as is allowed."""
    mode = config.train.use_gradient_checkpointing
    policy = ActivationPolicy.EVERYTHING
    if mode:
        policy = ActivationPolicy.INPUT if mode == "auto" else ActivationPolicy.ATTENTION
    return memory.peak_bytes(2 * pairs, pairs, (policy,) * memory.num_blocks)


def _most_pairs(memory: StepMemory, config: Config, usable_gb: float) -> int:
    sizes = range(1, MAX_PAIRS + 1)
    return sum(_peak_bytes(memory, pairs, config) <= usable_gb * 1e9 for pairs in sizes)


def check_weights(settings: ModelConfig) -> Check:
    """The weights that come with the package, and those that initialise the encoder."""
    shipped = list(SHIPPED_MODELS.values())
    facts: dict[str, Any] = {path.name: _shipped_state(path) for path in shipped}
    problems = [
        f"{path}: {facts[path.name]}; get it again with {checksum_path(path).name}"
        for path in shipped
        if facts[path.name] != "checksum matches"
    ]
    for file in (settings.start_from, settings.weights):
        if file and not Path(file).is_file():
            problems.append(f"{file}: no such file, expected the initial weights")
    if settings.weights:
        facts["encoder"] = settings.weights
    elif settings.pretrained:
        facts["encoder"], problem = _find_in_hub(settings.backbone_name)
        problems += [problem] if problem else []
    else:
        facts["encoder"] = settings.start_from or "random"
    return Check("weights", facts, problems)


def _shipped_state(path: Path) -> str:
    if not path.is_file():
        return "missing"
    return "checksum matches" if matches_checksum(path) else "checksum differs"


def _find_in_hub(backbone: str) -> tuple[str, str | None]:
    """Where the published weights are, and the problem if they are nowhere."""
    if backbone not in TIMM_NAMES:
        return "none", f"there are no published weights for {backbone}"
    source = {"repo_id": f"timm/{TIMM_NAMES[backbone]}", "filename": "model.safetensors"}
    cached = try_to_load_from_cache(**source)
    if isinstance(cached, str):
        return f"in the cache: {cached}", None
    try:
        get_hf_file_metadata(hf_hub_url(**source), timeout=HUB_TIMEOUT_S)
    except (OSError, HTTPError) as error:
        reason = type(error).__name__
        return "not in the cache, no download", (
            f"the weights of {backbone} are not in the cache and cannot be downloaded ({reason}); "
            "set model.weights to a local file"
        )
    return "downloaded on first use", None


def check_data(folder: Path) -> Check:
    """A glance at the names of the files; the stage `index` reads them all."""
    facts: dict[str, Any] = {"folder": str(folder)}
    try:
        models, _ = find_model_folders(folder)
    except LayoutError as error:
        return Check("data", facts, [f"data.data_dir: {str(error).splitlines()[0]}"])
    facts |= {"models": len(models), "listed_models": min(len(models), MAX_FOLDERS)}
    samples = without_label = without_whole = 0
    for model in islice(models, MAX_FOLDERS):
        images, labels = pair_files(folder, model, [])
        has_whole = images.pop("whole", None) is not None
        samples += len(images.keys() & labels.keys()) if has_whole else 0
        without_label += len(images.keys() - labels.keys())
        without_whole += not has_whole
    facts |= {"samples": samples, "without_label": without_label, "without_whole": without_whole}
    problem = f"data.data_dir: {folder}: no part with image and label beside a whole"
    return Check("data", facts, [] if samples else [problem])
