# One image for every vgen service. TORCH is `cpu`, or the CUDA build that the GPU workers' driver supports (`cu128`).
FROM python:3.11-slim

ARG TORCH=cpu

RUN useradd --uid 10001 --create-home --home-dir /var/lib/vgen vgen
WORKDIR /opt/vgen

# torch first: it is most of the image, and changes least.
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt --index-url "https://download.pytorch.org/whl/${TORCH}" \
    --extra-index-url https://pypi.org/simple torch

COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt . \
    && install -d -o vgen -g vgen /var/lib/vgen/cache

ENV PYTHONUNBUFFERED=1 \
    VGEN_HOME=/var/lib/vgen \
    VGEN_CACHE_DIR=/var/lib/vgen/cache \
    HF_HOME=/var/lib/vgen/cache/huggingface

USER vgen
WORKDIR /var/lib/vgen
CMD ["vgen", "--help"]
