"""Which bands of its images a run sees: as its settings say, or as the model saw them that it starts from."""

from __future__ import annotations

from dataclasses import replace

from dualtoken.bands import Bands
from dualtoken.data import BandFacts, ImageData, fix_bands
from dualtoken.hub import find_model
from dualtoken.images import ImageLimits
from dualtoken.model_folder import load_config
from dualtoken.preprocess import Preprocessing
from dualtoken.training.config import TrainConfig


def asked_bands(config: TrainConfig) -> Bands | None:
    """What `find_data` is asked for; None for red, green and blue."""
    known = _of_model(config)
    return config.bands or (known.bands if known else None)


def with_fixed_bands(config: TrainConfig, images: ImageData, limits: ImageLimits) -> tuple[ImageData, BandFacts | None]:
    """The images with bands whose window is fixed, and what was fixed; both as they are where images are colours."""
    known = _of_model(config)
    if images.splits["train"].bands is None:
        return images, None
    if config.bands is None and known and known.bands:
        facts = BandFacts(known.bands, known.mean, known.std, known.bands.words())
    else:
        facts = fix_bands(images, config.percentiles, config.seed, limits)
    notes = [] if facts.words in images.notes else [facts.words]
    if len(facts.mean) not in (1, 3):
        left = [name for name in ("rand_augment", "color_jitter") if getattr(config, name)]
        notes += [f"{' and '.join(left)} left out: for colours, and not for {len(facts.mean)} bands"] if left else []
    splits = {name: replace(samples, bands=facts.bands) for name, samples in images.splits.items()}
    return replace(images, splits=splits, notes=(*images.notes, *notes)), facts


def _of_model(config: TrainConfig) -> Preprocessing | None:
    """The pre-processing of the model folder that a run starts from."""
    folder = find_model(config.model)
    return load_config(folder).preprocessing if folder.is_dir() else None
