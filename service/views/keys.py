"""Views of API keys."""

from pydantic import Field

from db.models import ApiKey
from service.views.base import View, when, when_if_set


class KeyView(View):
    """One key, without its secret."""

    id: str = Field(description="The eight characters after vgen_sk_.")
    name: str
    owner: str = Field(description="Whose batches it makes and sees.")
    scopes: list[str]
    created_at: str = Field(description="ISO 8601, UTC.")
    expires_at: str | None = Field(description="null: it does not end by itself.")
    revoked_at: str | None
    max_active_jobs: int | None = Field(description="How many of its jobs may be open at once; null: any number.")
    max_daily_clips: int | None = Field(description="How many clips it may ask for in 24 hours.")
    max_daily_gpu_seconds: float | None = Field(description="GPU time of what it submits in 24 hours.")
    last_used_at: str | None = Field(description="Written at most once a minute.")


class KeyCreatedView(View):
    """A new key; the only time that it is shown whole."""

    key: KeyView
    secret: str = Field(description="The whole key, as it is sent in Authorization or X-API-Key.")


class KeyListView(View):
    """Keys, oldest first."""

    keys: list[KeyView]


class RevokedView(View):
    """What `keys revoke` did."""

    revoked: list[str] = Field(description="Ids of keys that ended now.")
    unchanged: list[str] = Field(description="Ids of keys that had been revoked before.")


def key_view(key: ApiKey) -> KeyView:
    return KeyView.of(
        key,
        created_at=when(key.created_at),
        expires_at=when_if_set(key.expires_at),
        revoked_at=when_if_set(key.revoked_at),
        max_daily_gpu_seconds=None if key.max_daily_gpu_ms is None else key.max_daily_gpu_ms / 1000,
        last_used_at=when_if_set(key.last_used_at),
    )
