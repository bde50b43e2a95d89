"""The output of `vgen eval … --json`."""

from typing import Any

from pydantic import Field

from service.views.base import View


class MetricView(View):
    """One metric."""

    name: str
    title: str
    state: str = Field(description="ready, weights missing or external.")
    missing: list[str] = Field(description="Weight files that are not here, and where they were looked for.")
    needs: list[str] = Field(description="reference, prompt, auxiliary, weights, gpu.")
    low: float | None = Field(description="Least value possible; null is unbounded.")
    high: float | None
    better: str = Field(description="higher or lower.")
    pooling: str = Field(description="mean: every clip once; weighted: by its frames or frame pairs.")
    version: int


class EvalListView(View):
    """The metrics and groups."""

    metrics: list[MetricView]
    groups: dict[str, list[str]]


class ClipScoresView(View):
    """One clip's scores, in the shape of `--output`."""

    video: str
    entry: int | None = Field(description="The suite's entry it belongs to, if it is a suite's clip.")
    seed: int | None
    prompt: str | None = Field(description="The prompt that it was scored with, if there is one.")
    pixels: str | None = Field(
        description="sha256 of the decoded frames, or, of a cluster's clips, of all that is seen and heard; "
        "null when it could not be read."
    )
    sound: str | None = Field(default=None, description="sha256 of the sound's packets; null without sound.")
    sha256: str | None = Field(description="sha256 of the file; null where it was not read here.")
    inputs: str | None = Field(
        description="sha256 of what its scores depend on beside the file: prompt, reference, what the suite says of it."
    )
    scores: dict[str, Any] = Field(
        description="By metric: its name, score (null when not scored) and details (the reason, or weight and scorer)."
    )


NO_CLIP_SCORES: dict[str, None] = dict.fromkeys(("entry", "seed", "prompt", "pixels", "sha256", "inputs"))
"""The fields of a ``ClipScoresView`` that a record of a score file may lack."""


class MeanView(View):
    """One metric over a run's clips."""

    metric: str
    scored: int
    not_scored: int
    mean: float | None
    failed: int = Field(description="Clips that failed it, where it is a check.")


class EvalRunStateView(View):
    """An evaluation run."""

    id: str
    batch_id: str
    kind: str = Field(description="batch, suite or nightly.")
    state: str = Field(description="open, complete, or incomplete: a clip is missing or was not scored.")
    metrics: list[str]
    suite: dict[str, Any] | None = Field(description="The suite: sha256 of its file, entries, whether it is VBench's.")
    expected: int = Field(description="Clips.")
    summary: dict[str, Any] = Field(description="The clips and scores that were missing; of a nightly, its verdict.")
    steps: dict[str, dict[str, int]] = Field(description="Its steps by model family and state. Empty in lists.")
    created_at: str
    finished_at: str | None
    scores: list[MeanView] = Field(description="Empty in lists.")


class EvalRunsView(View):
    """Evaluation runs, newest first."""

    runs: list[EvalRunStateView]


class LeftOutView(View):
    """A metric of a group that cannot be computed here."""

    name: str
    reason: str


class EvalRunView(View):
    """What `eval run` found."""

    clips: list[ClipScoresView]
    left_out: list[LeftOutView]


class WeightFileView(View):
    """One weight file."""

    name: str
    status: str = Field(description="official, other or missing; of `list`: found or missing.")
    path: str | None
    sha256: str | None = Field(description="Null where it was not read.")
    size: int = Field(description="Bytes of the official file.")
    licence: str
    url: str
    used_by: list[str]
    problem: str | None


class EvalWeightsView(View):
    """The weight files."""

    directory: str | None
    files: list[WeightFileView]


class DimensionView(View):
    """One dimension of a run."""

    name: str
    value: float | None = Field(
        description="A value of 0 to 1, as the official code gives it; null without a scored clip."
    )
    normalised: float | None
    scored: int = Field(description="Clips with a score.")
    not_scored: int


class EvalAggregateView(View):
    """VBench's summary of score files."""

    dimensions: list[DimensionView]
    quality: float | None = Field(description="Null unless all 7 quality dimensions are there.")
    semantic: float | None = Field(description="Null unless all 9 semantic dimensions are there.")
    total: float | None = Field(description="Null unless all 16 are there.")
    missing: list[str]
    notices: list[str]


class EvalExportView(View):
    """What `eval export` laid out."""

    folder: str
    files: dict[str, int] = Field(description="Files by dimension.")


class EvalImportView(View):
    """What `eval import` read."""

    scores: str = Field(description="The score file that has them now.")
    imported: dict[str, int] = Field(description="Scored clips by dimension.")
    not_scored: dict[str, int]
    notices: list[str] = Field(description="Dimensions whose official value is not that of its own clips.")


class WorstPromptView(View):
    """A prompt that lost."""

    entry: int
    prompt: str | None = Field(description="Null where the scores came without it.")
    seeds: list[int]
    gain: float
    seed: int = Field(description="The seed that lost most, whose clips these are.")
    size: str | None = Field(description="WIDTHxHEIGHT as it was asked for; null where the scores came without it.")
    fps: float | None
    baseline_video: str
    candidate_video: str
    baseline_page: str | None = Field(description="The clip's page, where the setting serve.public_url says.")
    candidate_page: str | None


class MetricComparisonView(View):
    """One metric of two runs. Gains are positive where the candidate is better."""

    name: str
    state: str
    reason: str
    better: str = Field(description="higher or lower.")
    margin: float | None = Field(description="Largest loss accepted; null: shown only, not gated.")
    prompts: int = Field(description="Prompts with scores in both runs.")
    missing: int = Field(description="Clips with a score in one run only.")
    baseline: float | None = Field(description="Mean over prompts of the mean over seeds.")
    candidate: float | None
    gain: float | None
    low: float | None = Field(description="The interval's ends.")
    high: float | None
    p_worse: float | None = Field(description="The p-value of the test that the gain lies below minus the margin.")
    detectable: float | None = Field(description="Loss beyond the margin that would be found 8 times of 10.")
    method: str | None = Field(
        description="t, bootstrap, sign where all prompts differ by the same, or equal where none differs."
    )
    worst: list[WorstPromptView] = Field(description="The five prompts that lost most.")


class ProposalView(View):
    """A metric's margin, and what it leads to."""

    metric: str
    margin: float | None = Field(description="Largest loss accepted, in the metric's units; null: see the reason.")
    option: str | None = Field(description="The same as `--margin` takes it: a bound where it is on a likeness.")
    reason: str | None = Field(description="Why no margin is proposed.")
    prompts: int
    spread: float | None = Field(description="Standard deviation of the prompts' differences between two runs.")
    passes: float | None = Field(description="Share of unchanged nights that are ok by this metric.")
    false_alarms: float | None = Field(description="Share of unchanged nights that are called regressed by it.")
    found: float | None = Field(description="The loss that is found 8 times of 10.")


class EvalCalibrationView(View):
    """Margins that runs of an unchanged model propose."""

    runs: list[str]
    passes: float = Field(description="Share of unchanged nights that are to pass in all metrics together.")
    margins: list[str] = Field(description="As `--margin` takes them.")
    metrics: list[ProposalView]


class SpeedView(View):
    """A speed against the last five runs."""

    preset: str
    gpu_type: str
    measure: str = Field(description="seconds_per_clip or peak_bytes.")
    state: str = Field(description="ok, regressed, or no_calibration with fewer than five runs before.")
    value: float
    median: float | None


class RunFactsView(View):
    """What is known of a run beside its scores."""

    name: str
    first_at: str | None = Field(description="When its first clip was done: ISO 8601, UTC; null where it is not known.")
    last_at: str | None
    clips: int
    prompts: int
    seeds: list[int]
    made: dict[str, str] = Field(
        description="preset, version, model_revision, size, num_frames, fps, settings.…, encode.…, libraries.… and "
        "scorer.…, as text; several where clips differ."
    )


class ComparedRunsView(View):
    """Both runs."""

    baseline: RunFactsView | None = Field(description="Null where a first night has nothing to be compared with.")
    candidate: RunFactsView


class ChangeView(View):
    """A fact about how the clips were made that differs between the runs."""

    name: str = Field(description="A name of `made`.")
    baseline: str | None
    candidate: str | None


class EvalCompareView(View):
    """Two runs compared."""

    state: str = Field(
        description="identical, ok, regressed, inconclusive, no_calibration, incomplete or other_fingerprint."
    )
    meaning: str
    advice: str | None = Field(description="The advice on what to do next; null when there is nothing to do.")
    baseline: str
    candidate: str
    confidence: float = Field(description="The confidence of the intervals.")
    missing_clips: int = Field(description="Clips that are in one run only.")
    runs: ComparedRunsView | None
    changes: list[ChangeView] | None = Field(description="Null where a run says nothing of how it was made.")
    detectable: list[str] = Field(description="What the suite can detect by its number of prompts; of nights.")
    remarks: list[str] = Field(description="What else a reader of the report is told, a sentence each.")
    metrics: list[MetricComparisonView]
    speed: list[SpeedView] = Field(description="Empty: score files say nothing of speed.")
