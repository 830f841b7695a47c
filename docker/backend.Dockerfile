# The backend: no torch, no GPU. Build from the repository's root:
#   docker build -f docker/backend.Dockerfile -t saymask-backend .
FROM python:3.11-slim
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY saymask ./saymask
COPY backend ./backend
COPY worker ./worker
RUN pip install --no-cache-dir '.[postgresql]'
ENV SAYMASK_HOST=0.0.0.0 SAYMASK_DATA_DIR=/data
VOLUME /data
EXPOSE 9090
CMD ["saymask", "serve"]
