# One image for every vgen service. TORCH is `cpu`, or the CUDA build that the GPU workers' driver supports (`cu126`).
FROM python:3.11-slim-bookworm

ARG TORCH=cpu
# Where torch's builds are, a folder for each; without it, where pip looks anyhow (pip.conf, or build argument
# PIP_INDEX_URL). No index has to be named here.
ARG TORCH_INDEX=
ARG PIP_INDEX_URL

RUN useradd --uid 10001 --create-home --home-dir /var/lib/vgen vgen \
    && install -d -o vgen -g vgen /var/lib/vgen/cache /var/lib/vgen/beat
WORKDIR /opt/vgen

# torch first: it is most of the image, and changes least. Its build is named, so that no other one is taken instead.
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX/$TORCH"} \
    "torch==$(sed -n 's/^torch==//p' constraints.txt)+${TORCH}"

# Then what vgen needs, so that a change of vgen's own code makes neither layer anew.
COPY pyproject.toml ./
RUN python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
    extras = project["optional-dependencies"]; \
    print(*project["dependencies"], *extras["generate"], *extras["eval"], *extras["serve"], sep="\n")' \
    > requirements.txt \
    && pip install --no-cache-dir --constraint constraints.txt --requirement requirements.txt

COPY . .
RUN pip install --no-cache-dir --no-deps .

ENV PYTHONUNBUFFERED=1 \
    VGEN_HOME=/var/lib/vgen \
    VGEN_CACHE_DIR=/var/lib/vgen/cache \
    HF_HOME=/var/lib/vgen/cache/huggingface

USER vgen
WORKDIR /var/lib/vgen
CMD ["vgen", "--help"]
