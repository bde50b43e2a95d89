"""Make providers from ``VGEN_ENHANCE_PROVIDERS``."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pipeline.enhancers.openai_compatible import OpenAICompatibleProvider
from pipeline.errors import SettingsError


@dataclass(frozen=True, slots=True)
class KnownProvider:
    """A public service; base URLs and names of models are those of its own documentation."""

    base_url: str
    key_variable: str
    model_names: Mapping[str, str] = field(default_factory=dict)
    """The provider's name for each model of the setting: its own name for it, or, where it serves none, the one
    of its own that comes nearest, so that the default of the setting works with each of them."""


KNOWN_PROVIDERS = {
    "cerebras": KnownProvider("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    "groq": KnownProvider("https://api.groq.com/openai/v1", "GROQ_API_KEY", {"gpt-oss-120b": "openai/gpt-oss-120b"}),
    "openai": KnownProvider("https://api.openai.com/v1", "OPENAI_API_KEY", {"gpt-oss-120b": "gpt-5-mini"}),
}


def make_provider(entry: str) -> OpenAICompatibleProvider:
    """Make one provider of ``name``, ``name=base_url``, each with an optional ``#model``.

    A known name may be given another base URL; it keeps its key variable.

    Raises:
        SettingsError: the name is unknown, or the URL is not http(s).
    """
    address, _, model = entry.strip().partition("#")
    name, _, base_url = (part.strip() for part in address.partition("="))
    provider = KNOWN_PROVIDERS.get(name)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name) or (provider is None and not base_url):
        raise SettingsError(
            f"VGEN_ENHANCE_PROVIDERS: {name!r} is not a provider; use {', '.join(KNOWN_PROVIDERS)} or name=base_url"
        )
    if base_url and (urlsplit(base_url).scheme not in ("http", "https") or not urlsplit(base_url).hostname):
        raise SettingsError(f"VGEN_ENHANCE_PROVIDERS: the base URL of {name!r} must be http://… or https://…")
    return OpenAICompatibleProvider(
        name,
        base_url or (provider.base_url if provider else ""),
        key_variable=provider.key_variable if provider else f"VGEN_ENHANCE_KEY_{name.upper().replace('-', '_')}",
        key_required=provider is not None,
        model=model.strip() or None,
        model_names=provider.model_names if provider and not base_url else None,
        reasoning_effort="low" if provider and not base_url else None,
    )
