"""Requests made up from the OpenAPI description: none of 2,000 ends in a server error, and answers are as described."""

from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from over_http import served

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed (.ci/toolchains installs it)")
CASES = 2000


@pytest.mark.slow
def test_no_made_up_request_is_a_server_error():
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    statuses: Counter[int] = Counter()
    with served(deadline=20.0, text="x = 1\n", slots=4) as server:
        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        operations = [result.ok() for result in schema.get_all_operations()]
        assert {one.path for one in operations} >= {"/v1/completions", "/infill", "/v1/code/fix", "/tokenize"}
        described = [schemathesis.checks.status_code_conformance, schemathesis.checks.response_schema_conformance]
        made_up = st.one_of([one.as_strategy(generation_mode=mode) for one in operations for mode in modes])

        @seed(1)
        @settings(
            max_examples=CASES,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(made_up)
        def ask(case):
            response = case.call()
            statuses[response.status_code] += 1
            assert response.status_code < 500, case.as_curl_command()
            if response.headers["content-type"][0] == "application/json":  # else server-sent events, or Prometheus'
                case.validate_response(response, checks=described)

        ask()
        assert server.backend.idle
    assert statuses.total() >= CASES and statuses[200] > 100 and statuses[400] > 100, statuses
