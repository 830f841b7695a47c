# The worker, on a GPU (nvidia runtime) or a CPU. Build from the repository's root:
#   docker build -f docker/worker.Dockerfile -t saymask-worker .
FROM python:3.11-slim
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY saymask ./saymask
COPY backend ./backend
COPY worker ./worker
RUN pip install --no-cache-dir '.[worker]'
ENV SAYMASK_CACHE_DIR=/cache
VOLUME /cache
CMD ["sh", "-c", "saymask-worker models pull && exec saymask-worker run"]
