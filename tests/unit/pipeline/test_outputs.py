"""A stage's record is the same before it is stored and after it is read."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from pipeline.outputs import ObjectRef, PublishOutput, StageOutput, StageOutputs
from pipeline.states import Stage
from tests.outputs import encoded_part, enhanced, generated, recorded, scored

RECORDS: dict[Stage, StageOutput] = {
    Stage.ENHANCE: enhanced("a quick fox"),
    Stage.GENERATE: generated(facts={"denoise_steps": 3, "a generator's own": [1]}, sound=None),
    Stage.ENCODE: encoded_part("media/a.mp4"),
    Stage.SCORE: scored().model_copy(update={"replaced": {"sidecar": ObjectRef(key="k", sha256="0", size=1)}}),
    Stage.PUBLISH: PublishOutput(video="v", poster="p", strip="s", sidecar="c"),
}


def test_records_come_out_of_rows_as_they_went_in() -> None:
    rows = {stage: json.loads(json.dumps(record.as_json())) for stage, record in RECORDS.items()}

    outputs = StageOutputs.from_rows({**rows, Stage.SCREEN: None})

    assert recorded(outputs) == {stage.value for stage in RECORDS}
    for stage, record in RECORDS.items():
        assert getattr(outputs, stage.value) == record
        assert getattr(outputs, stage.value).as_json() == rows[stage], "what was not recorded is not written"


@pytest.mark.parametrize("stage", Stage)
def test_every_stage_has_a_model_that_takes_nothing_else(stage: Stage) -> None:
    assert StageOutputs.from_rows({stage: {}}) == StageOutputs()
    with pytest.raises(ValidationError, match="no_such_field"):
        StageOutputs.from_rows({stage: {"no_such_field": 1}})
