"""Batches from Python: a file, a text or a list of prompts becomes a batch, which is watched, waited for and fetched.

    import vgen

    batch = vgen.submit(["a red fox", {"prompt": "a lighthouse", "seed": 7}])
    batch.wait()
    for clip in batch.results():
        clip.download("clips")

The same over HTTP: ``vgen.connect("https://host", key="vgen_sk_...").submit(...)``.
"""

from vgen.batches.batch import Batch, Clip
from vgen.batches.connection import Connection, connect, submit, submit_async

__all__ = ["Batch", "Clip", "Connection", "connect", "submit", "submit_async"]
