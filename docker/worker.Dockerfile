# The worker, on a GPU (NVIDIA's runtime; torch brings CUDA along) or a CPU. Build from the
# repository's root:
#   docker build -f docker/worker.Dockerfile -t saymask-worker .
# The weights are not in the image: `saymask-worker models pull` puts them into the volume /cache.
FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/saymask
COPY docker/worker.lock ./
RUN /opt/saymask/bin/pip install --no-cache-dir --require-hashes -r worker.lock
COPY pyproject.toml README.md LICENSE ./
COPY saymask ./saymask
COPY backend ./backend
COPY worker ./worker
RUN /opt/saymask/bin/pip install --no-cache-dir --no-deps .

FROM python:3.11-slim
RUN useradd --uid 10001 --create-home saymask && install -d -o saymask /cache /models
COPY --from=build /opt/saymask /opt/saymask
ENV PATH=/opt/saymask/bin:$PATH PYTHONUNBUFFERED=1 SAYMASK_CACHE_DIR=/cache HOME=/cache \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001
VOLUME /cache
HEALTHCHECK --start-period=180s CMD ["saymask-worker", "health"]
CMD ["saymask-worker", "run"]
