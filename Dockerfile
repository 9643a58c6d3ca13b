# The image serves on port 5000 and keeps all data under /data. See docs/operating.md.
#   docker build -t holdfast .
#   docker run -p 5000:5000 -v holdfast:/data holdfast
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
WORKDIR /src
COPY . .
# Build with EXTRAS= to leave tracing out. The last step removes pip: the image does not need it.
ARG EXTRAS=[otel]
RUN python -m venv /opt/holdfast \
    && /opt/holdfast/bin/pip install --no-cache-dir --disable-pip-version-check \
        -c constraints.txt ".${EXTRAS}" \
    && /opt/holdfast/bin/pip uninstall --yes setuptools pip

FROM ${BASE}
ENV PATH=/opt/holdfast/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    HOLDFAST_DATA=/data \
    HOLDFAST_LISTEN=0.0.0.0:5000
EXPOSE 5000
# On SIGTERM the server gives running requests 30 seconds to finish.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["holdfast", "health"]
ENTRYPOINT ["holdfast"]
CMD ["serve"]
ARG UID=10001
RUN groupadd --gid "${UID}" holdfast \
    && useradd --uid "${UID}" --gid "${UID}" --no-create-home --home-dir /data \
        --no-log-init --shell /usr/sbin/nologin holdfast \
    && install -d -o holdfast -g holdfast -m 0700 /data
COPY --from=build /opt/holdfast /opt/holdfast
VOLUME /data
USER holdfast
