"""How long clips of a preset took on this machine: from rows, else from `vgen bench preset`."""

from collections.abc import Collection, Mapping

from sqlalchemy.orm import Session

from db.reading import clip_times
from db.reading.clip_times import Shape, Times
from pipeline.presets import measured
from pipeline.settings import Settings
from service.views.models import MeasuredClipView


def measured_clips(
    session: Session | None, presets: Collection[str], settings: Settings
) -> Mapping[str, list[MeasuredClipView]]:
    """Return what is known of each preset, the clip that was made most often first.

    Without a session there are no rows. Seconds are those of a generate step: of a clip, or of a long clip's segment.
    """
    views: dict[str, list[MeasuredClipView]] = {name: [] for name in presets}
    for (shape, gpu_type), times in ({} if session is None else clip_times.learn(session, presets)).items():
        views[shape.preset].append(_of_rows(shape, gpu_type, times))
    for name, of_preset in views.items():
        of_preset.sort(key=lambda view: (-view.n, view.gpu_type, view.p50_seconds))
        bench = None if of_preset else measured.read(settings.effective_presets_dir, name)
        if bench is not None:
            of_preset.append(
                MeasuredClipView(
                    **bench.model_dump(exclude={"steps", "seconds"}),
                    num_inference_steps=bench.steps,
                    acceleration=None,
                    basis="bench",
                    n=1,
                    p50_seconds=bench.seconds,
                    p90_seconds=bench.seconds,
                )
            )
    return views


def _of_rows(shape: Shape, gpu_type: str, times: Times) -> MeasuredClipView:
    return MeasuredClipView(
        gpu_type=gpu_type,
        width=shape.width,
        height=shape.height,
        num_frames=shape.num_frames,
        num_inference_steps=shape.steps,
        acceleration=shape.acceleration or None,
        basis="measured",
        n=times.n,
        p50_seconds=times.p50,
        p90_seconds=times.p90,
    )
