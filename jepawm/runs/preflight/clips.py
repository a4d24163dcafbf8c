"""Before a pretraining begins: are its clips there, and do its masks fit them, in every stage?"""

from dataclasses import replace

from jepawm.config.masking import BlockMaskConfig, ShareMaskConfig
from jepawm.config.pretrain import PretrainConfig
from jepawm.data.clips.mixture import ClipMixture
from jepawm.data.clips.sources import ClipSource, open_source
from jepawm.errors import ConfigError
from jepawm.pretraining.masks.sampling import places_of
from jepawm.pretraining.objective import Pretraining
from jepawm.training.pretrain import stage_request


def open_clips(config: PretrainConfig) -> tuple[ClipSource, ...]:
    """Opens every source, and refuses those that a stage cannot cut its clips from.

    Args:
        config: The resolved configuration, whose sources are on this machine.

    Returns:
        The sources, in the order of the configuration. Nothing is decoded but the heads of video files that are new.

    Raises:
        ConfigError: A batch that does not fit the sources.
        DataError: A source that is missing or cannot be read, has too few videos, or too short ones.
    """
    # The workers decode; here videos are only counted.
    clips = replace(config.clips, loader="files")
    sources = tuple(open_source(each, clips) for each in clips.all_sources)
    for stage in range(len(config.stages)):
        ClipMixture(clips, stage_request(config, stage), sources=sources)
    return sources


def check_masks(config: PretrainConfig, module: Pretraining) -> None:
    """Refuses masks whose shares leave nothing to see or nothing to predict on the patches of a stage.

    Args:
        config: The resolved configuration.
        module: Its encoder, which knows its patches.

    Raises:
        ConfigError: Names the stage.
    """
    for number, stage in enumerate(config.stages):
        masks = config.masks_of(number)
        grid = module.token_grid(stage.num_frames, stage.image_size, stage.image_size)
        for share in masks.sets if isinstance(masks, ShareMaskConfig | BlockMaskConfig) else ():
            try:
                places_of(share, grid)
            except ConfigError as error:
                raise ConfigError(f"stages.{number}: {error}") from error
