"""What the files of a folder may set that somebody else may have made."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from pipeline.errors import SettingsError
from pipeline.settings import Settings, load_settings, notices_of
from pipeline.settings.folder_trust import RULES, Rule, SettingPath, is_trusted
from pipeline.settings.sources import known_paths, variable
from vgen import read_config

DANGEROUS: dict[SettingPath, str] = {
    ("trusted_folders",): ".",
    ("umask",): "000",
    ("database_url",): "postgresql+psycopg://them/rows",
    ("database_listen_url",): "postgresql+psycopg://them/rows",
    ("broker_url",): "redis://them/0",
    ("stream", "chunks_url"): "redis://them/1",
    ("storage",): "s3://theirs",
    ("home",): "../elsewhere",
    ("handoff_dir",): "/dev/shm/theirs",
    ("cache_dir",): "cache",
    ("presets_dir",): "presets",
    ("eval", "weights_dir"): "weights",
    ("input_roots",): "/",
    ("enhance", "system_prompt_dir"): "../notes",
    ("nightly", "suite"): "/etc/passwd",
    ("fetch", "networks"): "0.0.0.0/0",
    ("enhance", "providers"): "openai=http://127.0.0.1:8767/v1",
    ("s3", "endpoint_url"): "http://them",
    ("s3", "public_endpoint_url"): "http://them",
    ("s3", "access_key_id"): "theirs",
    ("s3", "secret_access_key"): "theirs",
    ("safety", "classifier"): "/nonexistent",
    ("safety", "threshold"): "1.0",
    ("safety", "policy"): "open",
    ("retention", "days"): "0",
    ("retention", "history_days"): "0",
    ("retention", "sessions_days"): "0",
    ("retention", "inputs_days"): "0",
    ("serve", "redirect"): "true",
    ("serve", "public_pages"): "true",
    ("serve", "public_url"): "https://them",
    ("serve", "flower_url"): "https://them",
    ("sweep", "orphan_age_h"): "0",
    ("sweep", "checkpoint_age_h"): "0",
}
HARMLESS: dict[SettingPath, str] = {
    ("home",): "work",
    ("storage",): "clips",
    ("handoff_dir",): "./frames",
    ("input_roots",): "pictures:./videos",
    ("enhance", "providers"): "cerebras,openai#gpt-oss-120b",
    ("enhance", "system_prompt_dir"): "words",
    ("nightly", "suite"): "suite.json",
    ("preset",): "mochi-1",
    ("encode", "quality"): "20",
    ("worker", "lease_s"): "60",
    ("prices",): "h200=3.5",
}


def value_of(settings: Settings, path: SettingPath) -> Any:
    value: Any = settings
    for name in path:
        value = getattr(value, name)
    return value


def write(folder: Path, kind: str, path: SettingPath, value: str) -> None:
    if kind == ".env":
        (folder / ".env").write_text(f"{variable(path)}={value}\n", "utf-8")
    else:
        table = f"[{path[0]}]\n" if len(path) > 1 else ""
        (folder / "vgen.toml").write_text(f"{table}{path[-1]} = {json.dumps(value)}\n", "utf-8")


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose owner screens prompts."""
    monkeypatch.setenv("VGEN_SAFETY_POLICY", "closed")


@pytest.fixture(autouse=True)
def _no_preset_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would win over that of a folder."""
    monkeypatch.delenv("VGEN_PRESET")


def test_every_rule_has_an_example_and_is_of_a_setting() -> None:
    assert set(RULES) == set(DANGEROUS)
    assert set(RULES) <= set(known_paths(Settings).values())


@pytest.mark.parametrize("kind", [".env", "vgen.toml"])
@pytest.mark.parametrize("path", DANGEROUS, ids=variable)
def test_what_is_dangerous_is_ignored_and_told_once(
    tmp_path: Path, site: None, monkeypatch: pytest.MonkeyPatch, kind: str, path: SettingPath
) -> None:
    # Given a folder's file that sets it, and what holds without the file
    plain = value_of(load_settings(), path)
    write(tmp_path, kind, path, DANGEROUS[path])

    # Then it is as without the file, and people are told where it stands and how to allow it
    assert value_of(load_settings(), path) == plain
    if variable(path) != "VGEN_SAFETY_POLICY":  # the environment has that one anyhow
        ignored, how = notices_of()
        assert ignored.startswith(
            f"{kind}:{2 if kind == 'vgen.toml' and len(path) > 1 else 1}: {variable(path)} is ign"
        )
        assert f"VGEN_TRUSTED_FOLDERS={tmp_path}" in how

    # And it counts where the folder is trusted
    monkeypatch.setenv("VGEN_TRUSTED_FOLDERS", str(tmp_path))
    assert path[0] == "trusted_folders" or notices_of() == []
    if variable(path) not in ("VGEN_SAFETY_POLICY", "VGEN_TRUSTED_FOLDERS"):
        assert value_of(load_settings(), path) != plain


@pytest.mark.parametrize("kind", [".env", "vgen.toml"])
@pytest.mark.parametrize("path", HARMLESS, ids=variable)
def test_what_is_harmless_counts(tmp_path: Path, kind: str, path: SettingPath) -> None:
    plain = value_of(load_settings(), path)

    write(tmp_path, kind, path, HARMLESS[path])

    assert value_of(load_settings(), path) != plain
    assert notices_of() == []


@pytest.mark.parametrize(
    "value", ["../x", "/x", "~/x", "a/../../x", "link", "link/below", "s3://theirs", "file:///etc", "http://x"]
)
def test_a_place_outside_the_folder_is_refused_however_it_is_written(tmp_path: Path, value: str) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)

    write(folder, "vgen.toml", ("storage",), value)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert load_settings().storage is None


@pytest.mark.parametrize(
    "value", ["openai=http://x", "openai = http://x", "cerebras,mine=https://x#m", "x=http://a,openai", "http://x"]
)
def test_no_spelling_of_a_providers_host_counts(tmp_path: Path, value: str) -> None:
    write(tmp_path, ".env", ("enhance", "providers"), value)

    assert load_settings().enhance.providers == ()


@pytest.mark.parametrize(
    "text",
    [
        'enhance = {{ providers = ["openai={url}"] }}',
        'enhance.providers = "openai={url}"',
        '["enhance"]\n"providers" = "openai={url}"',
        "[enhance]\nproviders = '''openai={url}'''",
    ],
)
def test_no_form_of_toml_gets_by(tmp_path: Path, text: str) -> None:
    (tmp_path / "vgen.toml").write_text(text.format(url="http://x/v1"), "utf-8")

    assert load_settings().enhance.providers == ()
    assert any("VGEN_ENHANCE_PROVIDERS is ignored" in notice for notice in notices_of())


@pytest.mark.parametrize(
    "line", ['VGEN_ENHANCE={"providers": "openai=http://x"}', "export vgen_enhance_providers='openai=http://x'"]
)
def test_no_form_of_a_variable_gets_by(tmp_path: Path, line: str) -> None:
    (tmp_path / ".env").write_text(line + "\n", "utf-8")

    assert load_settings().enhance.providers == ()


def test_a_folder_cannot_read_the_environment_into_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    (tmp_path / ".env").write_text("VGEN_OWNER=x${OPENAI_API_KEY}${OTHER:-y}\n", "utf-8")

    assert load_settings().owner == "xy"
    monkeypatch.setenv("VGEN_TRUSTED_FOLDERS", str(tmp_path))
    assert load_settings().owner == "xsk-secrety"


def test_the_users_own_file_may_set_everything_and_trust_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a file in the user's own configuration
    own = tmp_path / "config" / "vgen"
    own.mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (own / "vgen.toml").write_text('database_url = "postgresql+psycopg://db/vgen"\npreset = "mochi-1"\n', "utf-8")
    (tmp_path / "vgen.toml").write_text('broker_url = "redis://b/0"\npreset = "ltx-2"\n', "utf-8")

    # Then it counts, below the folder's where that may set it
    assert load_settings().database_url == "postgresql+psycopg://db/vgen"
    assert (load_settings().preset, load_settings().broker_url) == ("ltx-2", None)

    # And the folder's counts wholly once that file trusts it
    with (own / "vgen.toml").open("a") as file:
        file.write(f"trusted_folders = [{json.dumps(str(tmp_path))}]\n")
    assert load_settings().broker_url == "redis://b/0"


def test_only_the_folder_itself_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")

    assert is_trusted(tmp_path / "a", [tmp_path / "link"])
    assert is_trusted(tmp_path, ["."])
    assert not is_trusted(tmp_path / "a" / "b", [tmp_path / "a"])
    assert not is_trusted(tmp_path, [tmp_path / "a"])


def test_a_folder_may_add_screening_where_the_site_has_none(tmp_path: Path) -> None:
    write(tmp_path, "vgen.toml", ("safety", "classifier"), "words.bin")

    assert load_settings().safety.classifier == Path("words.bin")


def test_the_settings_of_a_run_file_are_those_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a run's file from somebody else
    (tmp_path / "theirs").mkdir()
    file = tmp_path / "theirs" / "run.yaml"
    file.write_text(
        "request: {prompt: a fox}\nsettings: {fetch: {networks: 0.0.0.0/0}, encode: {quality: 20}, cache_dir: x}\n",
        "utf-8",
    )

    # Then only what its folder may set counts
    settings = read_config(file).settings
    assert (settings.fetch.networks, settings.encode.quality, settings.cache_dir) == ((), 20, None)
    assert "VGEN_FETCH_NETWORKS is ignored" in caplog.text

    # But for what the caller says, and where the folder is trusted
    assert read_config(file, [("settings.cache_dir", "y")]).settings.cache_dir == Path("y")
    monkeypatch.setenv("VGEN_TRUSTED_FOLDERS", str(file.parent))
    assert len(read_config(file).settings.fetch.networks) == 1


def test_rules_name_all_settings_that_hold_a_place_or_a_secret() -> None:
    """A new setting of these kinds must get a rule."""
    unruled = []
    for name, path in known_paths(Settings).items():
        model: type[BaseModel] = Settings if len(path) == 1 else Settings.model_fields[path[0]].annotation  # type: ignore[assignment]
        kind = str(model.model_fields[path[-1]].annotation)
        if any(word in kind for word in ("Path", "Secret", "Network")) or name.endswith(("_URL", "_DIR")):
            unruled += [] if path in RULES else [name]

    assert unruled == []
    assert all(rule in Rule and reason for rule, reason in RULES.values())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_not_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vgen").mkdir()
    file = tmp_path / "vgen" / "vgen.toml"
    file.write_text('umask = "000"\n', "utf-8")
    os.chown(file, 12345, 12345)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    with pytest.raises(SettingsError, match="belongs to user 12345"):
        load_settings()


def test_kernels_of_a_home_in_the_current_folder_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are code, and the home may have come with the folder."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    assert load_settings().kernels_dir == Path.home() / ".cache" / "vgen" / "inductor"
    monkeypatch.setenv("VGEN_CACHE_DIR", "cache")
    assert load_settings().kernels_dir == tmp_path / "cache" / "inductor"
    monkeypatch.delenv("VGEN_CACHE_DIR")
    monkeypatch.setenv("VGEN_HOME", str(tmp_path.parent / "home"))
    assert load_settings().kernels_dir == tmp_path.parent / "home" / "cache" / "inductor"


@pytest.mark.parametrize(
    "text",
    [
        "A0=" + "x" * 100 + "\n" + "".join(f"A{i}=${{A{i - 1}}}${{A{i - 1}}}\n" for i in range(1, 60)),
        "A=" + "${" * 100_000,
        "A=" + "${A}" * 100_000,
        "A=${" + "x" * 900_000,
    ],
    ids=["grows at each line", "never closed", "many", "long"],
)
def test_references_in_an_env_file_take_no_memory_and_no_time(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them took minutes, or all of the memory, at every command in that folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(text)

    with pytest.raises(SettingsError, match=r"\.env:\d+: A\d*: a value with \$\{NAME\}"):
        load_settings()


def test_references_in_an_env_file_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("NAME=me\nVGEN_OWNER=${NAME}-${OTHER:-x}\n")

    assert load_settings().owner == "me-x"
