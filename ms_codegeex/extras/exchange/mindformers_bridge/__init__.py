"""The model families under mindformers' own `Trainer`: `register()` makes them known to its YAML files.

Importing this package is cheap and changes nothing; mindformers is imported only where it is needed."""

from __future__ import annotations

from ms_codegeex.base.errors import UserError


def register() -> None:
    """Register every family's configuration and model, the train step and the data loader with mindformers. A second
    call does nothing. docs/exchange.md lists the names for a YAML file. `UserError` without mindformers."""
    try:
        from mindformers.tools.register import MindFormerModuleType, MindFormerRegister
    except ModuleNotFoundError as error:
        remedy = "run `pip install 'ms-codegeex[mindformers]'` (docs/exchange.md)"
        raise UserError(f"mindformers: {error}; {remedy}") from None

    from ms_codegeex.extras.exchange.mindformers_bridge.dataset import packed_sequences
    from ms_codegeex.extras.exchange.mindformers_bridge.models import family_classes
    from ms_codegeex.extras.exchange.mindformers_bridge.wrapper import PortableTrainOneStepCell
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
