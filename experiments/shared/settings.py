"""A flag for every setting of a training configuration, made from the dataclasses themselves.

What the data decide (their name, size, channels and classes) has no flag. Imports no JAX.
"""

import dataclasses
from dataclasses import dataclass, make_dataclass
from typing import Annotated, Any, get_origin, get_type_hints

import docstring_parser
import tyro

from cgan_jax.config import OptimizerConfig, TrainConfig

FROM_DATA = ("dataset", "n_classes", "img_size", "channels")
GROUPS = ("optimizer", "model", "disc_optimizer")  # in --help, below the commonest flags
Field = tuple[str, Any, Any]  # as `dataclasses.make_dataclass` takes it


@dataclass(frozen=True)
class Setting:
    """One setting of a configuration.

    Attributes:
        part: the field of TrainConfig that holds it; "" for TrainConfig itself.
        name: its field there.
        type: what it may be.
        value: what it is.
        help: its description, from the dataclass's docstring.
    """

    part: str
    name: str
    type: Any
    value: Any
    help: str

    @property
    def flag(self) -> str:
        """The flag's name, unique among all settings, with underscores."""
        return f"disc_{self.name}" if self.part == "disc_optimizer" else self.name

    @property
    def can_vary(self) -> bool:
        """Whether a sweep may vary it; all of its runs have the same data order and length."""
        fixed = ("epochs", "batch_size", "seed")
        return get_origin(self.type) is not tuple and self.flag not in fixed


def settings(config: TrainConfig) -> list[Setting]:
    """The settings that have flags, in the order in which `--help` lists them."""
    optimizer = _settings_of(config.optimizer, "optimizer")
    disc = []
    for setting in optimizer:
        own = getattr(config.disc_optimizer or config.optimizer, setting.name)
        value = None if own == setting.value else own
        text = f"the discriminator's {setting.name}; by default as --{setting.name}."
        disc.append(Setting("disc_optimizer", setting.name, setting.type | None, value, text))
    return [*_settings_of(config, ""), *optimizer, *_settings_of(config.model, "model"), *disc]


def flag_fields(config: TrainConfig, *, several: bool = False) -> list[Field]:
    """The fields of a flags class with a flag for each setting.

    Args:
        config: gives the defaults.
        several: whether a setting that can vary takes several values.
    """
    fields: dict[str, list[Field]] = {"": [], **{group: [] for group in GROUPS}}
    for setting in settings(config):
        kind, default = setting.type, setting.value
        if several and setting.can_vary:
            kind, default = tuple[kind, ...], (default,)  # type: ignore[valid-type]
        text = setting.help[0].upper() + setting.help[1:]
        annotated: Any = Annotated[kind, tyro.conf.arg(help=text)]
        fields[setting.part].append((setting.flag, annotated, dataclasses.field(default=default)))
    groups = {group: make_dataclass(group, fields[group], frozen=True) for group in GROUPS}
    return fields[""] + [
        (name, kind, dataclasses.field(default_factory=kind)) for name, kind in groups.items()
    ]


def given(flags: Any, setting: Setting) -> Any:
    """The value that parsed flags have for a setting."""
    return getattr(getattr(flags, setting.part) if setting.part else flags, setting.flag)


def with_settings(config: TrainConfig, values: dict[Setting, Any]) -> TrainConfig:
    """A configuration with other values for its settings.

    Raises:
        ConfigError: a value is impossible.
    """
    parts: dict[str, dict[str, Any]] = {"": {}, "optimizer": {}, "disc_optimizer": {}, "model": {}}
    for setting, value in values.items():
        parts[setting.part][setting.name] = value
    own = {name: value for name, value in parts["disc_optimizer"].items() if value is not None}
    optimizer = OptimizerConfig(**parts["optimizer"])
    return dataclasses.replace(
        config,
        **parts[""],
        optimizer=optimizer,
        disc_optimizer=dataclasses.replace(optimizer, **own) if own else None,
        model=dataclasses.replace(config.model, **parts["model"]),
    )


def _settings_of(config: Any, part: str) -> list[Setting]:
    hints = get_type_hints(type(config))
    parsed = docstring_parser.parse(type(config).__doc__ or "")
    help_of = {each.arg_name: " ".join((each.description or "").split()) for each in parsed.params}
    return [
        Setting(part, field.name, hints[field.name], value, help_of[field.name])
        for field in dataclasses.fields(config)
        if field.name not in (*FROM_DATA, "disc_optimizer")
        and not dataclasses.is_dataclass(value := getattr(config, field.name))
    ]
