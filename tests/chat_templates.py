"""Chat templates: SmolLM2's own, others written after what the model families document, and a tokenizer for each."""

from typing import Any, NamedTuple

from tests.tiny import make_tokenizer


class Family(NamedTuple):
    """A chat template and the special tokens that it writes."""

    name: str
    template: str
    specials: tuple[str, ...]


# SmolLM2-135M-Instruct's own, as its tokenizer has it: Hugging Face, Apache License 2.0.
SMOLLM2 = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""

# ChatML without tools or thinking, and without a system message of its own.
CHATML = """{%- for m in messages -%}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""

# Hermes: ChatML, tools and calls between tags, a tool's turn of its own.
HERMES = """{{- '<s>' -}}
{%- if tools -%}
{{- '<|im_start|>system\\nYou may call functions. <tools>' -}}
{%- for tool in tools -%}{{- '\\n' + (tool | tojson) -}}{%- endfor -%}
{{- '\\n</tools><|im_end|>\\n' -}}
{%- endif -%}
{%- for m in messages -%}
{%- if m.role == 'tool' -%}
{%- if loop.index0 == 0 or messages[loop.index0 - 1].role != 'tool' -%}{{- '<|im_start|>tool\\n' -}}{%- endif -%}
{{- '<tool_response>\\n' + m.content + '\\n</tool_response>' -}}
{{- '\\n' if not loop.last and messages[loop.index0 + 1].role == 'tool' else '<|im_end|>\\n' -}}
{%- else -%}
{{- '<|im_start|>' + m.role -}}
{%- if m.content -%}{{- '\\n' + m.content -}}{%- endif -%}
{%- for call in m.tool_calls or [] -%}
{{- '\\n<tool_call>\\n{"arguments": ' + (call.function.arguments | tojson) + ', "name": "' + call.function.name -}}
{{- '"}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""

# Qwen3: thinking before the last question is dropped; the last message always has a thinking block.
QWEN3 = """{%- if tools -%}
{{- '<|im_start|>system\\n' -}}
{%- if messages[0].role == 'system' -%}{{- messages[0].content + '\\n\\n' -}}{%- endif -%}
{{- '# Tools\\n<tools>' -}}
{%- for tool in tools -%}{{- '\\n' + (tool | tojson) -}}{%- endfor -%}
{{- '\\n</tools><|im_end|>\\n' -}}
{%- elif messages[0].role == 'system' -%}
{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' -}}
{%- endif -%}
{%- set ns = namespace(last=messages | length - 1, searching=true) -%}
{%- for m in messages[::-1] -%}
{%- set at = messages | length - 1 - loop.index0 -%}
{%- if ns.searching and m.role == 'user' and not (m.content.startswith('<tool_response>')
      and m.content.endswith('</tool_response>')) -%}
{%- set ns.searching = false -%}{%- set ns.last = at -%}
{%- endif -%}
{%- endfor -%}
{%- for m in messages -%}
{%- if m.role == 'user' or (m.role == 'system' and not loop.first) -%}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}
{%- elif m.role == 'assistant' -%}
{%- set content = m.content -%}{%- set thought = '' -%}
{%- if m.reasoning_content is string -%}
{%- set thought = m.reasoning_content -%}
{%- elif '</think>' in content -%}
{%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') -%}
{%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
{{- '<|im_start|>assistant\\n' -}}
{%- if loop.index0 > ns.last and (loop.last or thought) -%}
{{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') -}}
{%- else -%}{{- content -}}{%- endif -%}
{%- for call in m.tool_calls or [] -%}
{%- if not loop.first or content -%}{{- '\\n' -}}{%- endif -%}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' -}}
{%- if call.function.arguments is string -%}{{- call.function.arguments -}}
{%- else -%}{{- call.function.arguments | tojson -}}{%- endif -%}
{{- '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- elif m.role == 'tool' -%}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' -%}{{- '<|im_start|>user' -}}{%- endif -%}
{{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' -}}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' -%}{{- '<|im_end|>\\n' -}}{%- endif -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""

# Llama 3: everything trimmed, today's date, one call a message and then no words, a call as bare JSON.
LLAMA3 = """{{- '<|begin_of_text|>' -}}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday: ' + strftime_now('%d %b %Y') + '\\n\\n' -}}
{%- if tools -%}{%- for tool in tools -%}{{- (tool | tojson(indent=4)) + '\\n\\n' -}}{%- endfor -%}{%- endif -%}
{%- if messages[0].role == 'system' -%}{{- messages[0].content | trim -}}{%- endif -%}
{{- '<|eot_id|>' -}}
{%- for m in messages -%}
{%- if m.role == 'system' and loop.first -%}
{%- elif m.role == 'tool' -%}
{{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + (m.content | tojson) + '<|eot_id|>' -}}
{%- elif m.tool_calls -%}
{%- if m.tool_calls | length != 1 -%}{{- raise_exception('This model only supports single tool-calls at once!') -}}
{%- endif -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + m.tool_calls[0].function.name -}}
{{- '", "parameters": ' + (m.tool_calls[0].function.arguments | tojson) + '}<|eot_id|>' -}}
{%- else -%}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + (m.content | trim) + '<|eot_id|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}"""

# Mistral: user and assistant alternate or it raises, the system message stands in the first question, ids of nine
# characters, no prompt for a turn of the agent.
MISTRAL = """{{- '<s>' -}}
{%- set system = messages[0].content if messages[0].role == 'system' else '' -%}
{%- set rest = messages[1:] if system else messages -%}
{%- set ns = namespace(user=true) -%}
{%- for m in rest -%}
{%- if m.role in ('user', 'assistant') and not m.tool_calls -%}
{%- if (m.role == 'user') != ns.user -%}
{{- raise_exception('After the optional system message, roles must alternate user/assistant') -}}
{%- endif -%}
{%- set ns.user = not ns.user -%}
{%- elif m.role == 'system' -%}
{{- raise_exception('Only user and assistant roles are supported') -}}
{%- endif -%}
{%- endfor -%}
{%- for m in rest -%}
{%- if m.role == 'user' -%}
{%- if tools and loop.last -%}{{- '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' -}}{%- endif -%}
{{- '[INST]' + (system + '\\n\\n' if system and loop.first else '') + m.content + '[/INST]' -}}
{%- elif m.role == 'tool' -%}
{{- '[TOOL_RESULTS]{"content": ' + (m.content | tojson) + '}[/TOOL_RESULTS]' -}}
{%- elif m.tool_calls -%}
{{- '[TOOL_CALLS][' -}}
{%- for call in m.tool_calls -%}
{%- if call.id | length != 9 -%}{{- raise_exception('Tool call IDs should be 9 alphanumeric characters') -}}
{%- endif -%}
{{- '{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) + '}' -}}
{{- ', ' if not loop.last else ']</s>' -}}
{%- endfor -%}
{%- else -%}{{- ' ' + (m.content | trim) + '</s>' -}}{%- endif -%}
{%- endfor -%}"""

# DeepSeek-R1: the prompt begins the thinking, and a message loses everything up to </think>.
R1 = """{{- '<s>' -}}
{%- for m in messages -%}{%- if m.role == 'system' -%}{{- m.content -}}{%- endif -%}{%- endfor -%}
{%- for m in messages -%}
{%- if m.role == 'user' -%}{{- '<|User|>' + m.content -}}
{%- elif m.role == 'assistant' and m.content is not none -%}
{{- '<|Assistant|>' + m.content.split('</think>')[-1] + '<|end_of_sentence|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|Assistant|><think>\\n' -}}{%- endif -%}"""

FAMILIES = {
    family.name: family
    for family in (
        Family("smollm2", SMOLLM2, ("<|im_start|>", "<|im_end|>", "<|endoftext|>")),
        Family("chatml", CHATML, ("<|im_start|>", "<|im_end|>")),
        Family("hermes", HERMES, ("<s>", "<|im_start|>", "<|im_end|>")),
        Family("qwen3", QWEN3, ("<|im_start|>", "<|im_end|>")),
        Family("llama3", LLAMA3, ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
        Family(
            "mistral",
            MISTRAL,
            (
                *("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
                *("[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
            ),
        ),
        Family("deepseek-r1", R1, ("<s>", "<|User|>", "<|Assistant|>", "<|end_of_sentence|>")),
    )
}


def chat_tokenizer(name: str) -> Any:
    """A tiny tokenizer with a family's template and special tokens."""
    family = FAMILIES[name]
    tokenizer = make_tokenizer(adds_bos=False)
    tokenizer.add_special_tokens({"additional_special_tokens": list(family.specials)})
    tokenizer.chat_template = family.template
    return tokenizer
