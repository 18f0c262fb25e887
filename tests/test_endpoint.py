import socket
import time

import pytest

from sadstream.endpoint import Endpoint, request, served_model
from sadstream.errors import EndpointError
from tests.servers import send, serving


def quick(url, **changes):
    return Endpoint(url, **{"timeout": 5.0, "tries": 3, "wait": 0.001, **changes})


def test_a_passing_failure_is_tried_again_with_longer_waits():
    codes = [429, 503, 200]
    slept = []
    with serving(lambda handler, path, body: send(handler, {"ok": body}, code=codes.pop(0))) as url:
        assert request(quick(url, wait=1.0), "/x", {"a": 1}, sleep=slept.append) == {"ok": {"a": 1}}
    assert len(slept) == 2
    assert 0.8 <= slept[0] <= 1.2 < 1.6 <= slept[1] <= 2.4


def test_a_refusal_is_not_repeated_and_says_why():
    asked = []

    def refuse(handler, path, body):
        asked.append(path)
        send(handler, {"error": {"message": "prompt_logprobs of 32 is greater than max allowed: 20"}}, code=400)

    with serving(refuse) as url, pytest.raises(EndpointError, match=r"refused \(400\): .* max allowed: 20") as caught:
        request(quick(url), "/completions", {})
    assert asked == ["/completions"]
    assert "--top-k" in caught.value.hint


def test_a_server_that_is_not_there_is_named():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(EndpointError, match=r"no answer after 3 tries: .*refused"):
        request(quick(url), "/models", None)


def test_a_server_that_stalls_is_given_up():
    with (
        serving(lambda handler, path, body: time.sleep(0.5)) as url,
        pytest.raises(EndpointError, match="no answer after 2 tries: timed out"),
    ):
        request(quick(url, timeout=0.05, tries=2), "/x", {})


def test_an_answer_that_is_cut_off_is_asked_for_again():
    n_asked = []

    def cut(handler, path, body):
        n_asked.append(1)
        if len(n_asked) > 1:
            send(handler, {"ok": True})
            return
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"ok"')
        handler.close_connection = True

    with serving(cut) as url:
        assert request(quick(url), "/x", {}) == {"ok": True}


def test_nonsense_is_shown_in_a_line():
    with (
        serving(lambda handler, path, body: send(handler, b"<html>\nhello\n" + b"x" * 1000)) as url,
        pytest.raises(EndpointError, match=r"not JSON: <html> hello x+ ...$"),
    ):
        request(quick(url), "/x", {})


def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serving(lambda handler, path, body: send(handler, handler.headers["Authorization"])) as url:
        assert request(quick(url), "/x", {}) == "Bearer secret"


def test_a_missing_key_is_hinted_at():
    with (
        serving(lambda handler, path, body: send(handler, {"message": "no key"}, code=401)) as url,
        pytest.raises(EndpointError) as caught,
    ):
        request(quick(url), "/x", {})
    assert "OPENAI_API_KEY" in caught.value.hint


def test_the_only_model_is_taken_and_another_is_named():
    with serving(lambda handler, path, body: send(handler, {"data": [{"id": "m"}]})) as url:
        assert served_model(quick(url)) == "m"
        with pytest.raises(EndpointError, match="serves m, not n"):
            served_model(quick(url), "n")


def test_what_is_no_address_is_said():
    with pytest.raises(EndpointError, match="not an address"):
        request(quick("localhost"), "/x", {})
