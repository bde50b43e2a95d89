"""One place reads the settings: values are normalised alike, and every mistake is named with its file and line."""

from __future__ import annotations

import codecs
import os
import random
from pathlib import Path

import pytest

from db.session import Database
from pipeline.errors import SettingsError
from pipeline.settings import Settings, load_settings, notices_of
from pipeline.settings.files import MAX_BYTES
from service.exit_codes import ExitCode, of_error

CORPUS = Path(__file__).parents[2] / "data" / "settings"


def set_by(kind: str, name: str, value: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
    if kind == "environment":
        patch.setenv(name, value)
    elif kind == ".env":
        (folder / ".env").write_text(f"{name}='{value}'\n", "utf-8")
    else:
        group, _, key = name.removeprefix("VGEN_").lower().partition("_")
        is_group = group in ("s3", "encode", "enhance")
        text = f'[{group}]\n{key} = "{value}"\n' if is_group else f'{name.removeprefix("VGEN_").lower()} = "{value}"\n'
        (folder / "vgen.toml").write_text(text, "utf-8")


@pytest.mark.parametrize("kind", ["environment", ".env", "vgen.toml"])
class TestEverySource:
    @pytest.mark.parametrize("value", ["", " ", "\t  "])
    @pytest.mark.parametrize(
        "name", ["VGEN_STORAGE", "VGEN_OWNER", "VGEN_ENCODE_QUALITY", "VGEN_S3_REGION", "VGEN_PRICES"]
    )
    def test_an_empty_value_is_unset(
        self, kind: str, name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        set_by(kind, name, value, tmp_path, monkeypatch)

        assert load_settings() == Settings()
        assert load_settings().encode.quality == 18
        assert load_settings().storage is None

    def test_an_empty_value_hides_no_weaker_source(
        self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "vgen.toml").write_text('owner = "toml"\n', "utf-8")
        if kind != "vgen.toml":
            set_by(kind, "VGEN_OWNER", "  ", tmp_path, monkeypatch)

        assert load_settings().owner == "toml"

    def test_blanks_are_stripped_and_tilde_is_the_home_folder(
        self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        set_by(kind, "VGEN_HOME", "  ~/work ", tmp_path, monkeypatch)

        assert load_settings().home == tmp_path / "work"

    def test_a_wrong_value_is_named_with_its_place(
        self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        set_by(kind, "VGEN_ENCODE_QUALITY", "900", tmp_path, monkeypatch)

        with pytest.raises(
            SettingsError, match="VGEN_ENCODE_QUALITY: Input should be less than or equal to 63"
        ) as error:
            load_settings()
        place = {"environment": "", ".env": ".env:1: ", "vgen.toml": "vgen.toml:2: "}[kind]
        assert str(error.value).startswith(f"{place}VGEN_ENCODE_QUALITY: ")
        assert "900" in str(error.value)

    @pytest.mark.parametrize(
        ("name", "nearest"), [("VGEN_STORGE", "VGEN_STORAGE"), ("VGEN_PRESET_DIR", "VGEN_PRESETS_DIR")]
    )
    def test_a_misspelt_name_is_told_with_the_nearest(
        self, kind: str, name: str, nearest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        set_by(kind, name, "x", tmp_path, monkeypatch)

        (notice,) = notices_of()
        shown = name.removeprefix("VGEN_").lower() if kind == "vgen.toml" else name
        assert notice.endswith(f"{shown} is not a setting; did you mean {nearest}?")
        assert notice.startswith({"environment": name, ".env": ".env:1: ", "vgen.toml": "vgen.toml:1: "}[kind])

    def test_a_misspelt_name_of_a_group_is_refused_with_the_nearest(
        self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        set_by(kind, "VGEN_ENCODE_QUALTY", "20", tmp_path, monkeypatch)

        with pytest.raises(SettingsError, match=r"did you mean (VGEN_ENCODE_QUALITY|encode\.quality)") as error:
            load_settings()
        assert str(error.value).startswith(
            {"environment": "VGEN", ".env": ".env:1: ", "vgen.toml": "vgen.toml:2: "}[kind]
        )

    @pytest.mark.parametrize("value", ["nan", "inf", "1e300", "-inf"])
    def test_a_number_that_no_clock_knows_is_refused(
        self, kind: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        set_by(kind, "VGEN_ENCODE_TIMEOUT_S", value, tmp_path, monkeypatch)

        with pytest.raises(SettingsError, match="VGEN_ENCODE_TIMEOUT_S"):
            load_settings()


def test_keys_of_providers_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/settings.md names VGEN_ENHANCE_KEY_NAME; it stopped every command."""
    monkeypatch.setenv("VGEN_ENHANCE_KEY_MINE", "x")

    load_settings()
    assert notices_of() == []


@pytest.mark.parametrize("name", [".env", "vgen.toml"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (codecs.BOM_UTF16_LE + 'owner="é"\n'.encode("utf-16-le"), ": is UTF-16: save it as UTF-8"),
        (codecs.BOM_UTF16_BE + 'owner="é"\n'.encode("utf-16-be"), ": is UTF-16: save it as UTF-8"),
        ('# first\nowner="é"\n'.encode("latin-1"), ":2: is not UTF-8: save it as UTF-8"),
        (b"# x\n# y\n#\0\n", ":3: holds a NUL character"),
        (b"#" * (MAX_BYTES + 1), ": is larger than 1048576 bytes"),
    ],
)
def test_other_encodings_are_refused(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)

    with pytest.raises(SettingsError) as error:
        load_settings()
    assert f"{name}{message}" in str(error.value)
    assert of_error(error.value) is ExitCode.USAGE


@pytest.mark.parametrize("name", [".env", "vgen.toml"])
def test_a_byte_order_mark_and_windows_newlines_are_read(tmp_path: Path, name: str) -> None:
    line = 'VGEN_OWNER="é"' if name == ".env" else 'owner = "é"'
    (tmp_path / name).write_bytes(codecs.BOM_UTF8 + f"{line}\r\n".encode())

    assert load_settings().owner == "é"
    assert notices_of() == []


@pytest.mark.parametrize("name", [".env", "vgen.toml"])
def test_what_is_not_a_file_is_not_read(tmp_path: Path, name: str) -> None:
    """A pipe would be waited for, and /dev/zero has no end."""
    os.mkfifo(tmp_path / name)
    load_settings()
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    load_settings()
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    load_settings()


@pytest.mark.parametrize(
    ("text", "line"),
    [("owner = \n", 1), ('owner = "x"\n[s3\n', 2), ('a = "b"\na = "c"\n', 2), ("\n\n= 3\n", 3), ('owner = "x', 1)],
)
def test_what_is_not_toml_is_named_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    (tmp_path / "vgen.toml").write_text(text, "utf-8")

    with pytest.raises(SettingsError, match="is not valid TOML"):
        load_settings()
    with pytest.raises(SettingsError, match=f"vgen.toml:{line}: "):
        load_settings()


def test_a_line_of_env_that_is_none_is_told_and_refused_where_it_is_ours(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=1\n\nwhat is this\n", "utf-8")
    load_settings()
    assert notices_of() == [".env:3: is not of the form NAME=value"]

    (tmp_path / ".env").write_text("A=1\n\nVGEN_HOME work\n", "utf-8")
    with pytest.raises(SettingsError, match=r"\.env:3: "):
        load_settings()


@pytest.mark.parametrize("name", ["a%20b", "a?b", "a#b", "a%b", "sp ace", "ü", "a@b:c", "a'b", "a;b&c=d", "%3F"])
def test_sqlite_lies_in_the_home_whatever_that_is_called(tmp_path: Path, name: str) -> None:
    here = tmp_path / "here"
    settings = Settings(home=here / name)

    database = Database(settings.effective_database_url)
    try:
        database.now()
    finally:
        database.close()

    assert [path.name for path in here.iterdir()] == [name]
    assert (here / name / "vgen.sqlite3").is_file()


@pytest.mark.parametrize(
    "url", ["sqlite:///{}/a?b/c.db", "sqlite:///{}/a?b=c", "postgresql://u:p@h:port/x", "sqlite:///{}/f/x.db"]
)
def test_a_database_url_that_means_something_else_is_refused(tmp_path: Path, url: str) -> None:
    (tmp_path / "f").write_text("a file")

    with pytest.raises(SettingsError):
        Database(url.format(tmp_path))


# A fuzzer over both files: whatever they hold, settings are read or refused, and nothing else is raised


def mutated(data: bytes, chance: random.Random) -> bytes:
    pieces = [
        b'"',
        b"'''",
        b"[",
        b"]]",
        b"=",
        b"\n",
        b"\r",
        b"\0",
        b"\xff\xfe",
        b"\\u",
        b"${",
        b"9" * 5000,
        b"#",
        b"{",
        b"VGEN_",
    ]
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(data))
        match chance.randint(0, 3):
            case 0:
                data = data[:at] + chance.choice(pieces) + data[at:]
            case 1:
                data = data[:at] + data[at + chance.randint(1, 20) :]
            case 2:
                data = data[:at] + bytes([chance.randint(0, 255)]) + data[at + 1 :]
            case _:
                other = chance.randint(0, len(data))
                data = data[:at] + data[other : other + 40] + data[at:]
    return data


@pytest.mark.parametrize("file", sorted(CORPUS.iterdir()), ids=lambda file: file.name)
def test_no_settings_file_raises_anything_but_a_settings_error(tmp_path: Path, file: Path) -> None:
    # Given a file of the corpus, and changed forms of it, trusted and not
    chance = random.Random(file.name)
    original = file.read_bytes()
    name = ".env" if file.suffix == ".env" else "vgen.toml"
    for number in range(60):
        (tmp_path / name).write_bytes(original if number == 0 else mutated(original, chance))
        outcome = read(tmp_path if number % 2 else None)
        assert isinstance(outcome, Settings) or of_error(outcome) is ExitCode.USAGE
        assert isinstance(outcome, Settings) or str(outcome)


def read(trusted: Path | None) -> Settings | SettingsError:
    given = {} if trusted is None else {"trusted_folders": str(trusted)}
    try:
        settings = load_settings(**given)
        assert settings.effective_storage
        assert all(notices_of(**given))
    except SettingsError as error:
        return error
    return settings


def test_deep_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vgen.toml").write_text("a = " + "[" * 20_000, "utf-8")

    with pytest.raises(SettingsError):
        load_settings()


def test_settings_are_read_where_the_current_folder_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setenv("VGEN_HOME", str(tmp_path))

    assert load_settings().home == tmp_path
    assert load_settings().kernels_dir == tmp_path / "cache" / "inductor"
    assert notices_of() == []
