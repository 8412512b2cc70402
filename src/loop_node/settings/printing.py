"""The table as people read it: with the values in force, and as README has it. Secrets are masked."""

from typing import Any

from attrs import frozen

from loop_node.settings.variables import VARIABLES, VERBS, WITHOUT_EFFECT, Settings, Variable

__all__ = ["SettingRow", "settings_markdown", "settings_table", "settings_text"]


@frozen
class SettingRow:
    """One setting in force, ready to print."""

    name: str
    value: str
    source: str
    purpose: str


def settings_table(settings: Settings) -> list[SettingRow]:
    """Every setting in force and where it came from."""
    return [
        SettingRow(variable.name, _value(settings, field), settings.sources.get(field, "default"), variable.purpose)
        for field, variable in VARIABLES.items()
    ]


def settings_text(settings: Settings) -> str:
    """The table of `loop-node settings`, one line a variable."""
    rows = [SettingRow("NAME", "VALUE", "FROM", "PURPOSE"), *settings_table(settings)]
    name_width, value_width, source_width = (
        max(len(cell) for cell in column)
        for column in zip(*((row.name, row.value, row.source) for row in rows), strict=True)
    )
    return "\n".join(
        f"{row.name:{name_width}}  {row.value:{value_width}}  {row.source:{source_width}}  {row.purpose}"
        for row in rows
    )


def settings_markdown() -> str:
    """The table of README, with the lines that follow it."""
    header = ["| Variable | Default | Accepted | Used by | Purpose |", "| --- | --- | --- | --- | --- |"]
    rows = [f"| {' | '.join(_cell(text) for text in _columns(variable))} |" for variable in VARIABLES.values()]
    ignored = [f"`{name}` is accepted and has no effect: {reason}." for name, reason in WITHOUT_EFFECT.items()]
    return "\n".join([*header, *rows, "", *ignored]) + "\n"


def _value(settings: Settings, field: str) -> str:
    value = getattr(settings, field)
    if VARIABLES[field].secret and value is not None:
        return "***"
    return _spelled(value) or VARIABLES[field].default_rule or "-"


def _spelled(value: Any) -> str:
    """A value as one would write it into the environment; "" for none."""
    match value:
        case None:
            return ""
        case bool():
            return "1" if value else "0"
        case float():
            return f"{value:.15g}"
        case tuple():
            return ",".join(value)
        case _:
            text = str(value)
            return text if text.isprintable() else text.encode("unicode_escape").decode()


def _columns(variable: Variable) -> tuple[str, ...]:
    names = [f"`{variable.name}`"]
    if variable.alias:
        names.append(f"(`{variable.alias}`)")
    if variable.from_file:
        names.append(f"or `{variable.name}_FILE`")
    verbs = "all" if variable.verbs == VERBS else ", ".join(variable.verbs)
    return " ".join(names), _default(variable), variable.kind.accepted, verbs, variable.purpose


def _default(variable: Variable) -> str:
    if variable.default_rule:
        return variable.default_rule
    by_verb = ", ".join(f"{verb} {_spelled(value)}" for verb, value in variable.by_verb.items())
    default = _spelled(variable.default) or "none"
    return f"{default} ({by_verb})" if by_verb else default


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
