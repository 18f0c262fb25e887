"""Logs calls of a chat API with logprobs, request and response a line, as a proxy beside an agent would.

Three conversations, their histories growing: words, words that are streamed, and tools. tests/served_calls.jsonl.gz was
made so, of SmolLM2-135M-Instruct behind vLLM 0.32.0 with --enable-auto-tool-choice --tool-call-parser hermes.

    python scripts/log_served_calls.py http://localhost:8000/v1 MODEL > calls.jsonl
"""

import json
import sys
import urllib.request
from typing import Any

TOOL = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Look a word up in an encyclopaedia.",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
    },
}
# As text, so that a small model goes on in the same way.
EXAMPLES = ("cat", "oak")
SHOWN = [
    message
    for word in EXAMPLES
    for message in (
        {"role": "user", "content": f"Look up the word {word}."},
        {
            "role": "assistant",
            "content": f'<tool_call>\n{{"name": "search", "arguments": {{"word": "{word}"}}}}\n</tool_call>',
        },
    )
]
CONVERSATIONS = [
    (False, [], "Think, then act, one line each.", ["Where is the Café Central?", "And the 🦉 of Athens?", "Thanks."]),
    (True, [], "You are terse.", ["Name three rivers.", "Which is the longest, and why do you think so?"]),
    (False, [TOOL], "You look words up.", ["Look up the word owl.", "Now look up the word river."]),
]


def main(base: str, model: str) -> None:
    for is_streamed, tools, system, questions in CONVERSATIONS:
        messages: list[dict[str, Any]] = [{"role": "system", "content": system}, *(SHOWN if tools else [])]
        for number, question in enumerate(questions):
            messages.append({"role": "user", "content": question})
            request = {"model": model, "messages": messages, "logprobs": True, "top_logprobs": 20, "seed": number}
            request |= {"max_tokens": 48, "temperature": 0.7, "stream": is_streamed} | (
                {"tools": tools} if tools else {}
            )
            response = ask(base, request)
            print(json.dumps({"request": request, "response": response}, ensure_ascii=False))
            said = spoken(response) if is_streamed else response["choices"][0]["message"]
            messages.append({key: said[key] for key in ("role", "content", "tool_calls") if said.get(key)})
            messages[-1].setdefault("content", None)
            messages += [
                {"role": "tool", "tool_call_id": call["id"], "content": "Found nothing."}
                for call in said.get("tool_calls") or ()
            ]


def ask(base: str, request: dict[str, Any]) -> Any:
    url, data = f"{base.rstrip('/')}/chat/completions", json.dumps(request).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, {"Content-Type": "application/json"})) as answer:
        text = answer.read().decode()
    return text if request["stream"] else json.loads(text)


def spoken(events: str) -> dict[str, Any]:
    chunks = [json.loads(line[5:]) for line in events.splitlines() if line.startswith("data: {")]
    return {"role": "assistant", "content": "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)}


if __name__ == "__main__":
    main(*sys.argv[1:])
