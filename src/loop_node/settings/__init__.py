"""The operator's settings: one table of environment variables, read once, the only reader of the environment."""

from loop_node.settings.printing import SettingRow, settings_markdown, settings_table, settings_text
from loop_node.settings.reading import read_process_settings, read_settings
from loop_node.settings.variables import VARIABLES, VERBS, WITHOUT_EFFECT, Settings, Variable

__all__ = [
    "VARIABLES",
    "VERBS",
    "WITHOUT_EFFECT",
    "SettingRow",
    "Settings",
    "Variable",
    "read_process_settings",
    "read_settings",
    "settings_markdown",
    "settings_table",
    "settings_text",
]
