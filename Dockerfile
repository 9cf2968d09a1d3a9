# The broker in a container. Built in one stage, run from another without a compiler.
#
#   docker build -t ollama-broker .
#   docker run --rm -p 127.0.0.1:50434:50434 -p 127.0.0.1:9434:9434 \
#       -e OLLAMA_HOST=host.docker.internal --add-host host.docker.internal:host-gateway ollama-broker

FROM python:3.11-slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/ollama-broker
ENV PATH=/opt/ollama-broker/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# The pins first: they change more seldom than the code, and their layer is kept.
COPY requirements.txt ./
RUN pip install -r requirements.txt
COPY . .
RUN pip install --no-deps .

FROM python:3.11-slim-bookworm
# What it must know after a restart lies in /var/lib/ollama-broker.
RUN useradd --system --no-create-home --uid 10434 broker \
    && install -d -m 700 -o broker /var/lib/ollama-broker
COPY --from=build /opt/ollama-broker /opt/ollama-broker
COPY packaging/container.toml /etc/ollama-broker/broker.toml
ENV PATH=/opt/ollama-broker/bin:$PATH PYTHONDONTWRITEBYTECODE=1 XDG_STATE_HOME=/var/lib
USER broker
EXPOSE 50434 9434
# A broker without a backend is well: it says so in its status and recovers by itself.
HEALTHCHECK --interval=30s --timeout=10s --start-period=10s \
    CMD ["brokerctl", "status", "--json", "--address", "127.0.0.1:50434"]
# SIGTERM drains for up to 30 s: stop it with `docker stop --time 40`.
STOPSIGNAL SIGTERM
ENTRYPOINT ["brokerd"]
CMD ["--config", "/etc/ollama-broker/broker.toml"]
