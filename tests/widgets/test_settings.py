from importlib import import_module
from pathlib import Path

from npe2 import PluginManifest

import napari_medverse
from napari_medverse.widgets.session_commands import DOCKS
from napari_medverse.widgets.settings import Preferences, preferences

MANIFEST = Path(napari_medverse.__file__).with_name("napari.yaml")


def test_defaults_are_the_manifests(plugin_settings, npe2pm):
    npe2pm.register(PluginManifest.from_file(MANIFEST))
    assert preferences() == Preferences()


def test_what_the_user_sets_counts(plugin_settings, npe2pm):
    from napari.settings import get_plugin_settings

    npe2pm.register(PluginManifest.from_file(MANIFEST))
    stored = get_plugin_settings("napari-medverse")
    stored.engine.device, stored.engine.memory_limit = "cpu", 64
    stored.preview.debounce = 700
    found = preferences()
    assert (found.device, found.memory_limit, found.debounce) == ("cpu", 64, 700)


def test_an_unknown_plugin_has_defaults(plugin_settings, npe2pm):
    assert preferences() == Preferences()


def test_every_widget_command_can_be_imported():
    manifest = PluginManifest.from_file(MANIFEST)
    commands = {c.id: c for c in manifest.contributions.commands}
    widgets = manifest.contributions.widgets
    assert {w.display_name for w in widgets} == set(DOCKS)
    for widget in widgets:
        module, name = commands[widget.command].python_name.split(":")
        # A session names the docks to open again by these titles.
        assert getattr(import_module(module), name).title == widget.display_name
    for items in manifest.contributions.menus.values():
        assert all(item.command in commands for item in items)
