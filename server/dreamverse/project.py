"""A project: the prompts of one video of a connection, and how far it has come. A connection may have several."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from server.dreamverse import from_client as c
from server.dreamverse import from_server as m
from server.stream.init_image import InitImage


@dataclass(frozen=True, slots=True)
class Submission:
    """A prompt that the client sent."""

    prompt_id: str
    prompt: str


@dataclass(frozen=True, slots=True)
class Chosen:
    """The prompt of the next segment."""

    prompt: str
    source: m.Source
    prompt_id: str | None = None
    seed_prompt_index: int | None = None
    chosen_at: float = field(default_factory=time.monotonic)


@dataclass
class Project:
    """What the client has asked for, and what was made of it."""

    preset_id: str | None
    preset_label: str | None
    seeds: list[str]
    """The seed prompts, one a segment."""
    rollout_prompt: str = ""
    """A text of which a language model makes the seed prompts first."""
    enhancement: bool = False
    auto_extension: bool = False
    loop: bool = False
    single_clip: bool = False
    paused: bool = False
    image: InitImage | None = None
    iteration: int = 1
    """How often the seed prompts were begun."""
    place: int = 0
    """The seed prompt that is next."""
    segment: int = 0
    """The last segment that was begun, from 1; 0: none."""
    generated: int = 0
    """Segments that count towards the most that may be."""
    made_in_round: int = 0
    """Segments that were made since the seed prompts were begun."""
    last_prompt: str | None = None
    received: deque[Submission] = field(default_factory=deque)
    ready: deque[Chosen] = field(default_factory=deque)
    after_restart: Submission | None = None
    """A prompt of the client that is to be enhanced once the project has begun anew."""
    restart: str | None = None
    """Why it begins anew before its next segment; None: it does not."""
    waits_for_rewrite: bool = False
    """Nothing is made before the seed prompts were rewritten, or the generation is restarted."""
    holds_for_rewrite: bool = False
    """The next segment waits for the rewrite that was asked for while one is made."""
    started: bool = False
    """Whether the client was told of a stream that has not ended."""
    told_blocked: bool = False
    failed_extension: int | None = None
    """The segment for which no language model wrote a prompt."""

    @classmethod
    def of(cls, init: c.ProjectInit, image: InitImage | None, *, can_write: bool) -> Project:
        rollout = (init.initial_rollout_prompt or "").strip()
        waits = bool(rollout) and not init.single_clip_mode and not init.curated_prompts
        return cls(
            preset_id=init.preset_id,
            preset_label=init.preset_label,
            seeds=list(init.curated_prompts),
            rollout_prompt=rollout,
            enhancement=init.enhancement_enabled and can_write,
            auto_extension=init.auto_extension_enabled and can_write,
            loop=init.loop_generation_enabled,
            single_clip=init.single_clip_mode,
            paused=waits,
            image=image,
            iteration=0 if waits or init.type == "project_init_v1" else 1,
            waits_for_rewrite=waits,
        )

    @property
    def total_segments(self) -> int:
        return max(self.segment, len(self.seeds))

    def take(self) -> Chosen | None:
        """Return the next prompt that nobody has to write; after a restart the first seed prompt comes first."""
        if self.ready and not (self.segment == 0 and self.seeds and self.place == 0):
            return self.ready.popleft()
        if self.place < len(self.seeds):
            self.place += 1
            return Chosen(self.seeds[self.place - 1], "curated", seed_prompt_index=self.place - 1)
        return None

    def begin_anew(self) -> tuple[int, int]:
        """Start from the first seed prompt and from nothing; return how many raw and ready prompts are dropped."""
        dropped = len(self.received), len(self.ready)
        self.received.clear()
        self.ready.clear()
        self.place = self.segment = self.made_in_round = 0
        self.iteration += 1
        self.restart = self.failed_extension = self.last_prompt = None
        self.waits_for_rewrite = self.holds_for_rewrite = self.told_blocked = False
        if self.after_restart is not None:
            self.received.append(self.after_restart)
            self.after_restart = None
        return dropped
