"""Our model families under mindformers' own `Trainer`: `register()` makes its YAML files find them.

Importing this package is light and changes nothing; mindformers is imported by what needs it.
"""

from __future__ import annotations

from ms_codegeex.errors import UserError


def register() -> None:
    """Make mindformers' registry know every family's configuration and model, our train step and our data loader.

    Twice is as good as once. The names for a YAML file are in docs/mindformers.md. `UserError` without mindformers.
    """
    try:
        from mindformers.tools.register import MindFormerModuleType, MindFormerRegister
    except ModuleNotFoundError as error:
        raise UserError(
            f"mindformers: {error}; run `pip install 'ms-codegeex[mindformers]'` (docs/mindformers.md)"
        ) from None

    from ms_codegeex.mindformers_bridge.dataset import packed_sequences
    from ms_codegeex.mindformers_bridge.models import family_classes
    from ms_codegeex.mindformers_bridge.wrapper import PortableTrainOneStepCell
    from ms_codegeex.models.registry import FAMILIES

    def add(cls: type, kind: str, name: str) -> None:
        if name not in MindFormerRegister.registry.get(kind, {}):
            MindFormerRegister.register_cls(cls, kind, alias=name)

    for family in FAMILIES:
        config, model = family_classes(family)
        add(config, MindFormerModuleType.CONFIG, config.__name__)
        add(model, MindFormerModuleType.MODELS, model.__name__)
    add(PortableTrainOneStepCell, MindFormerModuleType.WRAPPER, "PortableTrainOneStepCell")
    add(packed_sequences, MindFormerModuleType.DATASET_LOADER, "PackedSequences")
