"""A tree of frozen dataclasses with dotted keys: flattened, and changed through `override`.

Leaves are text, numbers and truth values; a `Component` is a leaf group whose keywords depend on
which loss or backbone it names.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from types import MappingProxyType
from typing import Any, TypeVar, get_type_hints

from facerec.domains import Scalar
from facerec.values import ConfigError, typed

T = TypeVar("T")
Args = Mapping[str, Scalar]


@dataclass(frozen=True)
class Component:
    """Which loss or backbone, with which of its keywords; hashable and picklable."""

    name: str
    args: Mapping[str, Scalar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "args", MappingProxyType(dict(self.args)))

    def __hash__(self) -> int:
        return hash((self.name, tuple(sorted(self.args.items()))))

    def __reduce__(self) -> tuple[type[Component], tuple[str, dict[str, Scalar]]]:
        return Component, (self.name, dict(self.args))


def component(
    name: str,
    *,
    check: Callable[[str, Args], None],
    keywords: Callable[[str, Args], Args],
) -> Any:
    """Declare a `Component` field of a tree.

    Args:
        name: The default component's name.
        check: Raises ValueError for an unknown name or keyword, or a value out of range.
        keywords: From a name and the keywords given so far to all keywords with their defaults.
    """
    return field(
        default_factory=lambda: Component(name), metadata={"check": check, "keywords": keywords}
    )


def flatten(config: Any) -> dict[str, Scalar]:
    """Give every dotted key with its value, the defaults of the chosen loss and backbone too.

    `override(type(config)(), flatten(config))` is a config that trains alike.
    """
    return _flatten(config, "")


def _flatten(node: Any, prefix: str) -> dict[str, Scalar]:
    flat: dict[str, Scalar] = {}
    for item in fields(node):
        value, key = getattr(node, item.name), f"{prefix}{item.name}"
        if isinstance(value, Component):
            known = {**item.metadata["keywords"](value.name, value.args), **value.args}
            flat |= {f"{key}.name": value.name, **{f"{key}.{k}": v for k, v in known.items()}}
        elif is_dataclass(value):
            flat |= _flatten(value, f"{key}.")
        else:
            flat[key] = value
    return flat


def override(config: T, changes: Mapping[str, Scalar]) -> T:
    """Give a config with some dotted keys changed.

    A string given for a key of another type is read as text (`"0.4"` for `loss.margin`). A new
    `loss.name` or `backbone.name` drops the keywords of the old one; keywords given in the same
    call belong to the new one.

    Raises:
        ConfigError: For an unknown key (with the nearest one), a wrong type, a value out of range.
    """
    tree: dict[str, Any] = {}
    for key, value in changes.items():
        node, *path = tree, *key.split(".")
        for part in path[:-1]:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise _unknown(config, key)
        if path[-1] in node:  # both a group of keys and a key
            raise _unknown(config, key)
        node[path[-1]] = value
    changed: T = _override(config, tree, "", config)
    return changed


def _override(node: Any, tree: Mapping[str, Any], prefix: str, root: Any) -> Any:
    types = get_type_hints(type(node))
    keywords = {item.name: item.metadata.get("keywords") for item in fields(node)}
    new: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if name not in types:
            raise _unknown(
                root, key if not isinstance(value, dict) else f"{key}.{next(iter(value))}"
            )
        current = getattr(node, name)
        if isinstance(current, Component):
            new[name] = _override_component(current, value, key, keywords[name])
        elif is_dataclass(current):
            if not isinstance(value, dict):
                inside = ", ".join(f"{key}.{item.name}" for item in fields(current))
                raise ConfigError(f"{key} = {value!r}: is a group of keys: {inside}")
            new[name] = _override(current, value, f"{key}.", root)
        elif isinstance(value, dict):
            raise _unknown(root, f"{key}.{next(iter(value))}")
        else:
            new[name] = typed(key, value, types[name])
    return in_section(prefix.rstrip("."), lambda: replace(node, **new))


def _override_component(current: Component, value: Any, key: str, keywords: Any) -> Component:
    if not isinstance(value, dict):
        raise ConfigError(f"{key} = {value!r}: did you mean {key}.name={value}?")
    name = str(value.get("name", current.name))
    args = dict(current.args) if name == current.name else {}
    args |= {k: v for k, v in value.items() if k != "name"}
    try:
        known = keywords(name, args)
    except ValueError as error:
        raise _of_component(key, args, error) from None
    for k, v in args.items():  # texts are read by the type of the keyword's default
        if isinstance(v, str) and k in known:
            args[k] = typed(f"{key}.{k}", v, type(known[k]))
    return Component(name, args)


def _of_component(key: str, args: Args, error: ValueError) -> ConfigError:
    """The error of a component's name, or of a keyword that decides which others there are."""
    word = str(error).split(" ")[0]
    return ConfigError(f"{key}.{error}" if word in args else f"{key}.name: {error}")


def check_components(config: Any) -> None:
    """Check the names and keywords of a tree's components.

    Raises:
        ConfigError: Naming the dotted key, the value and the nearest right choice.
    """
    for item in fields(config):
        value = getattr(config, item.name)
        if isinstance(value, Component):
            try:
                item.metadata["keywords"](value.name, value.args)
            except ValueError as error:
                raise _of_component(item.name, value.args, error) from None
            in_section(item.name, lambda: item.metadata["check"](value.name, value.args))  # noqa: B023


def parse(items: Iterable[str]) -> dict[str, Scalar]:
    """Read `key=value` words into the changes that `override` takes; values stay text.

    Raises:
        ConfigError: For a word without a key or an equals sign, or a key that comes twice.
    """
    changes: dict[str, Scalar] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise ConfigError(f"{item!r}: expected key=value, such as loss.margin=0.4")
        if key in changes:
            raise ConfigError(f"{key}: given twice, {changes[key]!r} and {value!r}")
        changes[key] = value
    return changes


def _unknown(config: Any, key: str) -> ConfigError:
    known = list(flatten(config))
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if not near:  # the last part alone: margin -> loss.margin
        near = [k for k in known if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]][:1]
    hint = f"Did you mean {near[0]}?" if near else f"Keys begin with {_groups(config)}."
    return ConfigError(f"{key}: no such key. {hint}")


def _groups(config: Any) -> str:
    return ", ".join(item.name for item in fields(config))


def in_section(section: str, check: Callable[[], T]) -> T:
    """Run a check whose errors do not know in which section of the tree they stand."""
    try:
        return check()
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{section}.{error}" if section else str(error)) from None
