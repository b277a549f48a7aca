"""A flag for every setting of a training configuration, made from the dataclasses themselves.

What the data decide (their name, size, channels and classes) has no flag. Imports no JAX.
"""

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, make_dataclass
from typing import Annotated, Any, get_origin, get_type_hints

import docstring_parser
import tyro

from cgan_jax.checks import ImageSize
from cgan_jax.config import TrainConfig
from cgan_jax.errors import ConfigError

FROM_DATA = ("dataset", "n_classes", "img_size", "channels")
# In --help, below the commonest flags:
GROUPS = ("optimizer", "penalty", "average", "model", "disc_optimizer")  # the last needs the first
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
        prefix = {"disc_optimizer": "disc", "penalty": "penalty", "average": "average"}
        if self.part not in prefix:
            return self.name
        is_switch = self.name in ("kind", "keep")  # --penalty r1, --average
        return prefix[self.part] if is_switch else f"{prefix[self.part]}_{self.name}"

    @property
    def can_vary(self) -> bool:
        """Whether a sweep may vary it; all of its runs have the same data order and length."""
        fixed = ("epochs", "batch_size", "seed", "schedule_steps")
        is_one_value = get_origin(self.type) is not tuple and self.type is not bool
        return is_one_value and self.flag not in fixed


def settings(config: TrainConfig) -> list[Setting]:
    """The settings that have flags, in the order in which `--help` lists them."""
    optimizer = _settings_of(config.optimizer, "optimizer")
    disc = []
    for setting in optimizer:
        own = getattr(config.disc_optimizer or config.optimizer, setting.name)
        value = None if own == setting.value else own
        flag = setting.name.replace("_", "-")
        text = f"the discriminator's {setting.name}; by default as --{flag}."
        disc.append(Setting("disc_optimizer", setting.name, setting.type | None, value, text))
    parts = [_settings_of(getattr(config, part), part) for part in ("penalty", "average", "model")]
    return [*_settings_of(config, ""), *optimizer, *itertools.chain(*parts), *disc]


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


def with_settings(
    config: TrainConfig, values: dict[Setting, Any], img_size: ImageSize | None = None
) -> TrainConfig:
    """A configuration with other values for its settings.

    Args:
        config: what is not among the values.
        values: of the settings.
        img_size: another image size, which the model's settings must fit.

    Raises:
        ConfigError: a value is impossible.
    """
    parts: dict[str, dict[str, Any]] = {part: {} for part in ("", *GROUPS)}
    for setting, value in values.items():
        if value != setting.value:
            parts[setting.part][setting.name] = value
    if img_size is not None:
        parts["model"]["img_size"] = img_size
    changed: dict[str, Any] = {}
    for part in GROUPS[:-1]:
        with _flags_in_errors(part, values):
            changed[part] = dataclasses.replace(getattr(config, part), **parts[part])
    old, disc = config.optimizer, config.disc_optimizer or config.optimizer
    own = {name: getattr(disc, name) for name in vars(old) if vars(disc)[name] != vars(old)[name]}
    for name, value in parts["disc_optimizer"].items():
        own.pop(name, None)  # None: as the generator's
        own |= {} if value is None else {name: value}
    with _flags_in_errors("disc_optimizer", values):
        changed["disc_optimizer"] = (
            dataclasses.replace(changed["optimizer"], **own) if own else None
        )
    with _flags_in_errors("", values):
        return dataclasses.replace(config, **parts[""], **changed)


@contextlib.contextmanager
def _flags_in_errors(part: str, settings: Iterable[Setting]) -> Iterator[None]:
    """Errors of a part name a setting and its class's default; on a command line, say its flag.

    The default there is the preset's or the run's.
    """
    try:
        yield
    except ConfigError as error:
        name, _, text = str(error).partition(" ")
        for setting in settings:
            if (setting.part, setting.name) == (part, name):
                text = re.sub(r"(?<=the default), [-+.e\d(), ]*(?=\.$)", _default(setting), text)
                raise ConfigError(f"--{setting.flag.replace('_', '-')} {text}") from error
        raise


def _default(setting: Setting) -> str:
    """A setting's value as its flag takes it, after a comma; nothing for None."""
    value = setting.value
    words = value if isinstance(value, tuple) else () if value is None else (value,)
    return ", " * bool(words) + " ".join(map(str, words))


def _settings_of(config: Any, part: str) -> list[Setting]:
    hints, help_of = get_type_hints(type(config)), dict[str, str]()
    for kind in reversed(type(config).__mro__):
        parsed = docstring_parser.parse(kind.__doc__ or "").params
        help_of |= {each.arg_name: " ".join((each.description or "").split()) for each in parsed}
    return [
        Setting(
            part, field.name, hints[field.name], getattr(config, field.name), help_of[field.name]
        )
        for field in dataclasses.fields(config)
        if field.name not in (*FROM_DATA, *GROUPS)
    ]
