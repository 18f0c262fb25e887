"""Raw-log formats, one module per family; all of one shape, listed in one table.

A format recognises a decoded JSON record (or, for plain text, a sample of the file) by its content and reads it into
drafts of trajectories.
"""

from sadstream.formats import (
    anthropic,
    atif,
    claude_code,
    codex,
    crewai,
    gemini,
    gemini_cli,
    inspect_ai,
    intercode,
    langchain,
    langsmith,
    llamafactory,
    message_lines,
    mini_swe_agent,
    native,
    notebook,
    openai_calls,
    openai_chat,
    openclaw,
    openhands,
    otel,
    pi_session,
    plain_text,
    qwen_code,
    react_chat,
    responses,
    sharegpt,
    smolagents,
    swe_agent,
    tags,
    toolbench,
    transcript,
    webvoyager,
)
from sadstream.formats.kinds import Format, RecordFormat, SessionFormat, SessionRecord, TextFormat

__all__ = ["FORMATS", "NAMES", "Format", "RecordFormat", "SessionFormat", "SessionRecord", "TextFormat"]

# Tried in this order: what is told by more stands before what is told by less.
FORMATS: tuple[Format, ...] = (
    *native.FORMATS,
    *notebook.FORMATS,
    *gemini.FORMATS,
    *qwen_code.FORMATS,
    *gemini_cli.FORMATS,
    *toolbench.FORMATS,
    *intercode.FORMATS,
    *otel.FORMATS,
    *openclaw.FORMATS,
    *webvoyager.FORMATS,
    *crewai.FORMATS,
    *smolagents.FORMATS,
    *swe_agent.FORMATS,
    *mini_swe_agent.FORMATS,
    *openhands.FORMATS,
    *atif.FORMATS,
    *langsmith.FORMATS,
    *langchain.FORMATS,
    *claude_code.FORMATS,
    *codex.FORMATS,
    *pi_session.FORMATS,
    *anthropic.FORMATS,
    *responses.FORMATS,
    *openai_chat.TAGGED_FORMATS,
    *inspect_ai.FORMATS,
    *llamafactory.FORMATS,
    *react_chat.FORMATS,
    *sharegpt.FORMATS,
    *openai_calls.FORMATS,
    *openai_chat.FORMATS,
    *message_lines.FORMATS,
    *tags.FORMATS,
    *transcript.FORMATS,
    *tags.TEXT_FORMATS,
    *plain_text.FORMATS,
)
NAMES: tuple[str, ...] = tuple(f.name for f in FORMATS)
