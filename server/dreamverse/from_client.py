"""What Dreamverse's page sends on ``/ws`` (FastVideo's ``apps/dreamverse``, snapshot 2f3d4074).

Messages are JSON objects that name their kind in ``type``. ``preset_id`` names a story, not a model.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from server.stream.wire import FilledPrompts, FromClient, MessageUnion, Prompt, StorableText, Switch


class ProjectInit(FromClient):
    """Begins the session, or with ``project_init_v1`` another project in it."""

    type: Literal["session_init_v2", "project_init_v1"]
    preset_id: str | None = Field(None, max_length=200)
    preset_label: str | None = Field(None, max_length=200)
    curated_prompts: FilledPrompts = Field(default_factory=list)
    initial_rollout_prompt: StorableText | None = None
    initial_image: dict[str, Any] | None = None
    single_clip_mode: bool = False
    enhancement_enabled: bool = True
    auto_extension_enabled: bool = False
    loop_generation_enabled: bool = False
    rewrite_temperature: float | None = Field(None, ge=0, le=2)


class AppendPrompt(FromClient):
    """Asks for the next segment."""

    type: Literal["append_prompt"]
    prompt: Prompt
    prompt_id: str | None = Field(None, max_length=200)


class SimpleGenerate(FromClient):
    """Asks for one clip, which goes on from nothing."""

    type: Literal["simple_generate"]
    prompt: Prompt
    prompt_id: str | None = Field(None, max_length=200)
    preset_id: str | None = Field(None, max_length=200)
    preset_label: str | None = Field(None, max_length=200)
    initial_image: dict[str, Any] | None = None
    enhancement_enabled: bool = True


class RewriteSeedPrompts(FromClient):
    """Has a language model rewrite the seed prompts, or those of the window that is sent."""

    type: Literal["rewrite_seed_prompts"]
    rewrite_instruction: StorableText = ""
    prompt_window_prompts: FilledPrompts = Field(default_factory=list)
    rewrite_temperature: float | None = Field(None, ge=0, le=2)


class SetEnhancement(Switch):
    """Switches the enhancement of the client's prompts."""

    type: Literal["set_enhancement"]


class SetAutoExtension(Switch):
    """Has a language model write the next prompt where none is left."""

    type: Literal["set_auto_extension"]


class SetLoopGeneration(Switch):
    """Has the seed prompts begin anew where none is left."""

    type: Literal["set_loop_generation"]


class SetGenerationPaused(FromClient):
    """Holds the next segment back, or lets it go on."""

    type: Literal["set_generation_paused"]
    paused: bool


class SetRewriteModel(FromClient):
    """Asks for a language model; the server's own stays."""

    type: Literal["set_rewrite_model"]
    rewrite_model: str | None = Field(None, max_length=200)


class SetRewriteTemperature(FromClient):
    """Sets how freely prompts are rewritten."""

    type: Literal["set_rewrite_temperature"]
    rewrite_temperature: float | None = Field(None, ge=0, le=2)


class ResetToSeedPrompts(FromClient):
    """Begins the seed prompts anew, from nothing."""

    type: Literal["reset_to_seed_prompts"]


class RestartGeneration(FromClient):
    """Begins anew after the most segments were made."""

    type: Literal["restart_generation"]


class EndProjectKeepSession(FromClient):
    """Ends the project; the connection stays for another."""

    type: Literal["end_project_keep_session"]


class Leave(FromClient):
    """Ends the session."""

    type: Literal["leave"]


ClientMessage = Annotated[
    ProjectInit
    | AppendPrompt
    | SimpleGenerate
    | RewriteSeedPrompts
    | SetEnhancement
    | SetAutoExtension
    | SetLoopGeneration
    | SetGenerationPaused
    | SetRewriteModel
    | SetRewriteTemperature
    | ResetToSeedPrompts
    | RestartGeneration
    | EndProjectKeepSession
    | Leave,
    Field(discriminator="type"),
]
CLIENT_MESSAGES: MessageUnion[ClientMessage] = MessageUnion(ClientMessage)
