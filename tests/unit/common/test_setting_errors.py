"""Errors name a setting as the reader knows it."""

from tailrace.common.setting_errors import SettingUnusable
from tailrace.errors import ConfigurationError


def test_settings_are_named_as_the_reader_knows_them() -> None:
    error = SettingUnusable("{0} {path}: {1}", "audit_log", "state_dir", path="/{0}")
    assert str(error) == "audit_log /{0}: state_dir"
    assert error.setting == "audit_log"
    assert error.text({"audit_log": "-a", "state_dir": "-s"}) == "-a /{0}: -s"
    assert isinstance(error, ConfigurationError)
