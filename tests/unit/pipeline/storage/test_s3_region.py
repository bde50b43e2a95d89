"""The region of S3: vgen's setting, then what Amazon's tools read, in one place for workers and `vgen doctor`."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from pipeline.errors import RefusedError, SettingsError
from pipeline.settings import S3Settings, load_settings
from pipeline.storage.s3 import S3Storage

PROFILES = "[default]\nregion = of-default-profile\n[profile night]\nregion = of-night-profile\n[profile bare]\n"


def region(storage: S3Storage) -> str:
    """The region that the client signs for, from a presigned URL's credential."""
    (credential,) = parse_qs(urlsplit(storage.url("a", expires_s=60)).query)["X-Amz-Credential"]
    return credential.split("/")[2]


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VGEN_S3_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("VGEN_S3_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("VGEN_S3_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    return tmp_path / "config"


@pytest.mark.parametrize(
    ("environment", "profiles", "expected"),
    [
        ({}, False, "us-east-1"),
        ({}, True, "of-default-profile"),
        ({"AWS_PROFILE": "night"}, True, "of-night-profile"),
        ({"AWS_PROFILE": "bare"}, True, "us-east-1"),
        ({"AWS_PROFILE": "night", "AWS_DEFAULT_REGION": "of-variable"}, True, "of-variable"),
        ({"AWS_DEFAULT_REGION": "of-variable"}, False, "of-variable"),
        ({"AWS_REGION": "of-newer-variable", "AWS_DEFAULT_REGION": "of-variable"}, True, "of-newer-variable"),
        ({"VGEN_S3_REGION": "of-vgen", "AWS_REGION": "of-newer-variable", "AWS_PROFILE": "night"}, True, "of-vgen"),
    ],
)
def test_the_region_is_looked_up_as_amazons_tools_do(
    environment: dict[str, str], profiles: bool, expected: str, aws: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if profiles:
        aws.write_text(PROFILES, "utf-8")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert region(S3Storage("bucket", "", load_settings().s3)) == expected


def test_both_endpoints_are_signed_for_the_same_region(aws: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "of-variable")
    monkeypatch.setenv("VGEN_S3_PUBLIC_ENDPOINT_URL", "https://media.example")

    assert region(S3Storage("bucket", "", load_settings().s3)) == "of-variable"


@pytest.mark.parametrize(
    ("environment", "config"),
    [({"AWS_PROFILE": "nobody"}, PROFILES), ({}, "[default\nregion"), ({}, "region = before-any-section\n")],
)
def test_a_profile_that_is_not_there_or_a_file_that_cannot_be_read_is_said(
    environment: dict[str, str], config: str, aws: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws.write_text(config, "utf-8")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(RefusedError, match=r"nobody|config") as caught:
        S3Storage("bucket", "", load_settings().s3).check()
    assert caught.value.code == "storage_misconfigured"


def test_a_region_that_cannot_be_is_refused_by_its_name(aws: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "not a region/")

    with pytest.raises(SettingsError, match=r"region 'not a region/' \(VGEN_S3_REGION\)"):
        S3Storage("bucket", "", S3Settings()).check()
