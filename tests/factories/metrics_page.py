"""A /metrics page of two engines, and what it says."""

from __future__ import annotations

from harness.engine.metrics import Load, SpecCounters

PAGE = """\
# HELP process_start_time_seconds Start time of the process since unix epoch in seconds.
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.763719203e+09
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 1.0
vllm:num_requests_running{engine="1",model_name="tiny"} 2.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="tiny"} 0.0
vllm:num_requests_waiting{engine="1",model_name="tiny"} 4.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="tiny"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="tiny"} 0.125
# TYPE vllm:prefix_cache_hits_total counter
vllm:prefix_cache_hits_total{engine="0",model_name="tiny"} 16.0
vllm:prefix_cache_hits_total{engine="1",model_name="tiny"} 0.0
# TYPE vllm:prefix_cache_hits_created gauge
vllm:prefix_cache_hits_created{engine="0",model_name="tiny"} 1.763719210e+09
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="tiny"} 100.0
vllm:prompt_tokens_total{engine="1",model_name="tiny"} 40.0
# TYPE vllm:prompt_tokens_created gauge
vllm:prompt_tokens_created{engine="0",model_name="tiny"} 1.763719210e+09
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="tiny"} 60.0
vllm:generation_tokens_total{engine="1",model_name="tiny"} 30.0
# TYPE vllm:generation_tokens_created gauge
vllm:generation_tokens_created{engine="0",model_name="tiny"} 1.763719210e+09
vllm:generation_tokens_created{engine="1",model_name="tiny"} 1.763719210e+09
# TYPE vllm:request_success_total counter
vllm:request_success_total{engine="0",finished_reason="stop",model_name="tiny"} 3.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="tiny"} 2.0
vllm:request_success_total{engine="0",finished_reason="abort",model_name="tiny"} 1.0
vllm:request_success_total{engine="1",finished_reason="length",model_name="tiny"} 4.0
# TYPE vllm:iteration_tokens_total histogram
vllm:iteration_tokens_total_bucket{engine="0",le="1.0",model_name="tiny"} 5.0
vllm:iteration_tokens_total_bucket{engine="0",le="+Inf",model_name="tiny"} 25.0
vllm:iteration_tokens_total_count{engine="0",model_name="tiny"} 25.0
vllm:iteration_tokens_total_sum{engine="0",model_name="tiny"} 160.0
vllm:iteration_tokens_total_bucket{engine="1",le="+Inf",model_name="tiny"} 11.0
vllm:iteration_tokens_total_count{engine="1",model_name="tiny"} 11.0
vllm:iteration_tokens_total_sum{engine="1",model_name="tiny"} 70.0
# TYPE vllm:spec_decode_num_drafts_total counter
vllm:spec_decode_num_drafts_total{engine="0",model_name="tiny"} 20.0
vllm:spec_decode_num_drafts_total{engine="1",model_name="tiny"} 10.0
# TYPE vllm:spec_decode_num_drafts_created gauge
vllm:spec_decode_num_drafts_created{engine="0",model_name="tiny"} 1.763719210e+09
# TYPE vllm:spec_decode_num_draft_tokens_total counter
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="tiny"} 60.0
vllm:spec_decode_num_draft_tokens_total{engine="1",model_name="tiny"} 30.0
# TYPE vllm:spec_decode_num_accepted_tokens_total counter
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="tiny"} 27.0
vllm:spec_decode_num_accepted_tokens_total{engine="1",model_name="tiny"} 9.0
# TYPE vllm:spec_decode_num_accepted_tokens_per_pos_total counter
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="tiny",position="0"} 15.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="tiny",position="1"} 8.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="tiny",position="2"} 4.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="1",model_name="tiny",position="0"} 5.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="1",model_name="tiny",position="1"} 3.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="1",model_name="tiny",position="2"} 1.0
# TYPE vllm:spec_decode_num_accepted_tokens_per_pos_created gauge
vllm:spec_decode_num_accepted_tokens_per_pos_created{engine="0",model_name="tiny",position="0"} 1.76371921e+09
"""
READ = SpecCounters(
    present=True,
    drafts=30,
    draft_tokens=90,
    accepted=36,
    per_position=(20, 11, 5),
    generated=90,
    prompted=140,
    finished=10,
    iterations=36,
    cached=16,
    running=3,
    waiting=4,
    kv_usage=0.25,
    engines=(
        Load(engine="0", running=1, generated=60, prompted=100, kv_usage=0.25),
        Load(engine="1", running=2, waiting=4, generated=30, prompted=40, kv_usage=0.125),
    ),
    started=1763719203.0,
)
