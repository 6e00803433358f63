"""The real client asks what it asked when that was recorded; tests/hub/transcript.py says how to record anew."""

import json

from tests.hub.transcript import RECORDED, transcript


def test_the_client_speaks_the_recorded_protocol() -> None:
    recorded, found = json.loads(RECORDED.read_text(encoding="utf-8")), transcript()
    for part in ("push", "pull"):
        assert [each["request"] for each in found[part]] == [each["request"] for each in recorded[part]]
    assert found == recorded, "the client's protocol changed: see tests/hub/transcript.py"
