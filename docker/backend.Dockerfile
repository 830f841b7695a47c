# The backend: no torch, no GPU. Build from the repository's root:
#   docker build -f docker/backend.Dockerfile -t saymask-backend .
FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/saymask
COPY docker/backend.lock ./
RUN /opt/saymask/bin/pip install --no-cache-dir --require-hashes -r backend.lock
COPY pyproject.toml README.md LICENSE ./
COPY saymask ./saymask
COPY backend ./backend
COPY worker ./worker
RUN /opt/saymask/bin/pip install --no-cache-dir --no-deps .

FROM python:3.11-slim
RUN useradd --uid 10001 --create-home saymask && install -d -o saymask /data /models
COPY --from=build /opt/saymask /opt/saymask
ENV PATH=/opt/saymask/bin:$PATH PYTHONUNBUFFERED=1 SAYMASK_HOST=0.0.0.0 SAYMASK_DATA_DIR=/data
USER 10001
VOLUME /data
EXPOSE 9090
HEALTHCHECK --start-period=60s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9090/live', timeout=2)"]
CMD ["saymask", "serve"]
