"""What servers say when they refuse, word for word, and where it is recorded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from proxy.errors import UpstreamRejected
from proxy.upstream.port import Json

SYSTEM = {"role": "system", "content": "Be brief."}
DEVELOPER = {"role": "developer", "content": "Use SI units."}
USER = {"role": "user", "content": "How tall is K2?"}
ASSISTANT = {"role": "assistant", "content": "8611 m."}
#: A member of every kind, where a refusal has none of its own.
VALUES: dict[str, Any] = {
    "stream": True,
    "stream_options": {"include_usage": True},
    "n": 2,
    "logprobs": True,
    "top_logprobs": 5,
    "max_tokens": 64,
    "max_completion_tokens": 64,
    "temperature": 0.7,
    "seed": 7,
    "frequency_penalty": 0.5,
    "reasoning_effort": "low",
}


def body(*members: str, messages: Iterable[Any] = (USER,), **values: Any) -> Json:
    """What is sent: the named members as in `VALUES`."""
    return {"model": "m", "messages": list(messages), **{m: VALUES[m] for m in members}, **values}


def rejected(
    message: str, *, status: int = 400, code: str | None = None, param: str | None = None
) -> UpstreamRejected:
    return UpstreamRejected(message, status=status, code=code, param=param)


#: What servers say, what was sent, and the features that are to be learned from it.
WORDS: list[tuple[UpstreamRejected, Json, set[str]]] = [
    # OpenAI, o-series: github.com/ITSpecialist111/ai_automation_suggester/issues/38
    (
        rejected(
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            code="unsupported_parameter",
            param="max_tokens",
        ),
        body("max_tokens"),
        {"max_tokens"},
    ),
    # The same by way of Copilot, without param: github.com/caozhiyuan/copilot-api/issues/164
    (
        rejected(
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            code="invalid_request_body",
        ),
        body("max_tokens", "max_completion_tokens"),
        {"max_tokens"},
    ),
    # OpenAI, o1-mini: github.com/TheR1D/shell_gpt/issues/636
    (
        rejected(
            "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
            code="unsupported_value",
            param="messages[0].role",
        ),
        body("temperature", messages=[SYSTEM, USER]),
        {"system"},
    ),
    # OpenAI, o1-mini: github.com/langchain-ai/langchain/issues/28895
    (
        rejected(
            "Unsupported value: 'messages[0].role' does not support 'developer' with this model.",
            code="unsupported_value",
            param="messages[0].role",
        ),
        body(messages=[DEVELOPER, USER]),
        {"developer"},
    ),
    # OpenAI, o1: github.com/animalnots/BetterChatGPT-PLUS/issues/62
    (
        rejected(
            "Unsupported value: 'stream' does not support true with this model. "
            "Only the default (false) value is supported.",
            code="unsupported_value",
            param="stream",
        ),
        body("stream", "stream_options"),
        {"stream"},
    ),
    # The same by way of LiteLLM: github.com/RooCodeInc/Roo-Code/issues/274
    (
        rejected(
            "litellm.BadRequestError: OpenAIException - Error code: 400 - {'error': {'message': "
            "\"Unsupported value: 'stream' does not support true with this model. Only the default "
            "(false) value is supported.\", 'type': 'invalid_request_error', 'param': 'stream', "
            "'code': 'unsupported_value'}}\nReceived Model Group=o1-mini\n"
            "Available Model Group Fallbacks=None"
        ),
        body("stream", "stream_options"),
        {"stream"},
    ),
    # OpenAI, o3: github.com/chatboxai/chatbox/issues/2263
    (
        rejected(
            "Your organization must be verified to stream this model. Please go to: "
            "https://platform.openai.com/settings/organization/general and click on Verify "
            "Organization.",
            code="unsupported_value",
            param="stream",
        ),
        body("stream", "stream_options"),
        {"stream"},
    ),
    # Gemini by way of Cody: github.com/sourcegraph/cody/issues/4566
    (
        rejected('Invalid JSON payload received. Unknown name "stream": Cannot find field.'),
        body("stream"),
        {"stream"},
    ),
    # Azure OpenAI: github.com/Pythagora-io/gpt-pilot/issues/1022
    (
        rejected(
            "Unrecognized request argument supplied: stream_options. Please contact us through an "
            "Azure support request at: https://go.microsoft.com/fwlink/?linkid=2213926 for "
            "further questions."
        ),
        body("stream", "stream_options"),
        {"stream_options"},
    ),
    # Azure OpenAI: github.com/guidance-ai/guidance/issues/89
    (
        rejected("Unrecognized request argument supplied: logprobs"),
        body("logprobs", "top_logprobs"),
        {"logprobs"},
    ),
    # Azure OpenAI: github.com/eth-sri/lmql/issues/307
    (
        rejected(
            "logprobs, best_of and echo parameters are not available on gpt-35-turbo model. "
            "Please remove the parameter and try again."
        ),
        body("logprobs"),
        {"logprobs"},
    ),
    # Azure OpenAI, with status 422: github.com/spring-projects/spring-ai/issues/5016
    (
        rejected("The deployment doesn't support logprobs request parameter.", status=422),
        body("logprobs"),
        {"logprobs"},
    ),
    # Groq: github.com/groq/groq-python/issues/25
    (rejected("`logprobs` is not supported with this model"), body("logprobs"), {"logprobs"}),
    # Groq, of another member: github.com/fanenr/chatbot/issues/21
    (
        rejected("property 'top_logprobs' is unsupported, did you mean 'logprobs'?"),
        body("logprobs", "top_logprobs"),
        {"logprobs"},
    ),
    # Gemini: github.com/mscraftsman/generative-ai/issues/135
    (
        rejected("Logprobs is not enabled for models/gemini-2.5-pro"),
        body("logprobs"),
        {"logprobs"},
    ),
    # Groq: github.com/stanfordnlp/dspy/issues/1155 (in its picture)
    (rejected("'n' : number must be at most 1"), body("n"), {"n"}),
    # DeepSeek: github.com/vibrantlabsai/ragas/issues/1072
    (rejected("Invalid n value (currently only n = 1 is supported)"), body("n"), {"n"}),
    # llama.cpp, examples/server/utils.hpp and tools/server/utils.hpp
    (rejected("Only one completion choice is allowed"), body("n"), {"n"}),
    # A fork of llama.cpp's server
    (rejected("Illegal param: only one completion choice is allowed"), body("n"), {"n"}),
    # LiteLLM: github.com/kaiko-ai/eva/issues/895, there of ['seed']
    (
        rejected(
            "litellm.UnsupportedParamsError: openai does not support parameters: ['n'], for "
            "model=m. To drop these, set `litellm.drop_params=True` or for proxy:\n\n"
            "`litellm_settings:\n drop_params: true`\n. \n If you want to use these params "
            "dynamically send allowed_openai_params=['n'] in your request."
        ),
        body("n", "temperature"),
        {"n"},
    ),
    # LiteLLM, older: github.com/BerriAI/litellm/issues/6919
    (
        rejected(
            "litellm.UnsupportedParamsError: together_ai does not support parameters: {'n': 2}, "
            "for model=meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo. To drop these, set "
            "`litellm.drop_params=True`"
        ),
        body("n"),
        {"n"},
    ),
    # LiteLLM, oldest: github.com/BerriAI/litellm/issues/514
    (rejected("LiteLLM.Exception: Unsupported parameters passed: n."), body("n"), {"n"}),
    # A model of ByteDance's: github.com/vibrantlabsai/ragas/pull/2354
    (
        rejected(
            "Reasoning model does not support n > 1, logit_bias, logprobs, top_logprobs "
            "Request id: xxx",
            code="InvalidParameter",
        ),
        body("n", "logprobs", "top_logprobs", "temperature"),
        {"n", "logprobs"},
    ),
    # Mistral: github.com/editor-code-assistant/eca/issues/231
    (
        rejected(
            "{'detail': [{'type': 'extra_forbidden', 'loc': ['body', 'max_completion_tokens'], "
            "'msg': 'Extra inputs are not permitted', 'input': 32000}]}",
            status=422,
        ),
        body("max_completion_tokens", "temperature"),
        {"max_completion_tokens"},
    ),
    # vLLM: github.com/gpustack/gpustack/issues/429
    (
        rejected(
            "[{'type': 'extra_forbidden', 'loc': ('body', 'stream_options'), 'msg': 'Extra inputs "
            "are not permitted', 'input': {'include_usage': True}}]"
        ),
        body("stream", "stream_options"),
        {"stream_options"},
    ),
    # vLLM with Gemma's chat template: github.com/vllm-project/vllm/pull/2964
    (rejected("System role not supported"), body(messages=[SYSTEM, USER]), {"system"}),
    # The same where a server hands "developer" to the template as "system".
    (rejected("System role not supported"), body(messages=[DEVELOPER, USER]), {"system"}),
    # Chat templates of Mistral 7B v0.1 and others: any repository of theirs on huggingface.co
    (
        rejected("Conversation roles must alternate user/assistant/user/assistant/..."),
        body(messages=[SYSTEM, USER, ASSISTANT, USER]),
        {"system"},
    ),
    # DeepSeek: github.com/BenedictKing/ccx/issues/149
    (
        rejected(
            "Failed to deserialize the JSON body into the target type: messages[1].role: unknown "
            "variant `developer`, expected one of `system`, `user`, `assistant`, `tool`, "
            "`latest_reminder` at line 1 column 30930",
            code="invalid_request_error",
        ),
        body(messages=[SYSTEM, DEVELOPER, USER]),
        {"developer"},
    ),
    # DeepSeek: github.com/vm0-ai/vm0/issues/15388
    (
        rejected(
            "Failed to deserialize the JSON body into the target type: messages[1].role: unknown "
            "variant `system`, expected `user` or `assistant` at line 1 column 33985"
        ),
        body(messages=[USER, SYSTEM]),
        {"system"},
    ),
    # DeepSeek elsewhere: github.com/bramses/chatgpt-md/issues/189
    (
        rejected(
            "Input tag 'developer' found using 'role' does not match any of the expected tags: "
            "'system', 'user', 'assistant', 'tool'"
        ),
        body(messages=[DEVELOPER, USER]),
        {"developer"},
    ),
    # DashScope: github.com/can1357/oh-my-pi/issues/843
    (
        rejected(
            "developer is not one of ['system', 'assistant', 'user', 'tool', 'function'] - "
            "'messages.[6].role'"
        ),
        body(messages=[SYSTEM, DEVELOPER, USER]),
        {"developer"},
    ),
    # Z.ai: github.com/vastsa/PI-Desktop/issues/30
    (
        rejected("[1214] Incorrect role information"),
        body(messages=[DEVELOPER, USER]),
        {"developer"},
    ),
    # Cerebras: github.com/anomalyco/opencode/issues/6648, there of maxTokens and thinking
    (
        rejected(
            "body.seed: property 'body.seed' is unsupported\n"
            "body.frequency_penalty: property 'body.frequency_penalty' is unsupported",
            code="wrong_api_format",
            param="validation_error",
        ),
        body("seed", "frequency_penalty", "temperature"),
        {"seed", "frequency_penalty"},
    ),
    # Gemini: github.com/Vali-98/ChatterUI/issues/227
    (
        rejected(
            'Invalid JSON payload received. Unknown name "frequency_penalty": Cannot find field.\n'
            'Invalid JSON payload received. Unknown name "seed": Cannot find field.'
        ),
        body("seed", "frequency_penalty", "temperature"),
        {"seed", "frequency_penalty"},
    ),
    # OpenAI, o-series: github.com/OpenHands/OpenHands/issues/4131
    (
        rejected(
            "Unsupported value: 'temperature' does not support 0.7 with this model. "
            "Only the default (1) value is supported.",
            code="unsupported_value",
            param="temperature",
        ),
        body("temperature", "seed"),
        {"temperature"},
    ),
    # OpenAI, o3-mini: github.com/npiv/chatblade/issues/100
    (
        rejected(
            "Unsupported parameter: 'temperature' is not supported with this model.",
            code="unsupported_parameter",
            param="temperature",
        ),
        body("temperature", "seed"),
        {"temperature"},
    ),
    # jsonschema, which several servers check with
    (
        rejected("Additional properties are not allowed ('seed' was unexpected)"),
        body("seed", "temperature"),
        {"seed"},
    ),
]

#: Complaints about values, combinations and other people's members: nothing to learn from.
OTHERS: list[tuple[UpstreamRejected, Json]] = [
    # OpenAI, API reference
    (rejected("temperature must be between 0 and 2", param="temperature"), body("temperature")),
    (
        rejected(
            "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got "
            "3 instead.",
            code="decimal_above_max_value",
            param="temperature",
        ),
        body("temperature", "n"),
    ),
    (
        rejected(
            "max_tokens is too large: 100000. This model supports at most 16384 completion "
            "tokens, whereas you provided 100000.",
            code="invalid_value",
            param="max_tokens",
        ),
        body("max_tokens"),
    ),
    (
        rejected(
            "This model's maximum context length is 8192 tokens. However, you requested 9000 "
            "tokens (1000 in the messages, 8000 in the completion).",
            code="context_length_exceeded",
            param="messages",
        ),
        body("max_tokens", "n", "stream", messages=[SYSTEM, USER]),
    ),
    # Together: github.com/stanford-crfm/helm/pull/2325
    (
        rejected("5 is greater than the maximum of 1 - 'logprobs'", param="logprobs"),
        body("logprobs"),
    ),
    # vLLM, sampling_params.py
    (rejected("n must be 1 when using greedy sampling, got 2."), body("n", "temperature")),
    # Bounds of no server in particular
    (rejected("n values greater than 8 are not allowed"), body("n")),
    (rejected("n must be at most 10"), body("n")),
    # Cerebras: github.com/egoist/chatwise-releases/issues/1442
    (
        rejected(
            "messages.1.assistant.name: property 'messages.1.assistant.name' is unsupported",
            code="wrong_api_format",
            param="validation_error",
        ),
        body(messages=[SYSTEM, USER], name="x"),
    ),
    # Chat templates of Mistral's: the turns are wrong, not the instructions.
    (
        rejected(
            "After the optional system message, conversation roles must alternate "
            "user/assistant/user/assistant/..."
        ),
        body(messages=[SYSTEM, USER, ASSISTANT, USER]),
    ),
    (
        rejected("Conversation roles must alternate user/assistant/user/assistant/..."),
        body(messages=[SYSTEM, USER, USER]),
    ),
    # Qwen's: some of these are refused, but not the role.
    (rejected("System message must be at the beginning."), body(messages=[USER, SYSTEM])),
    # DeepSeek: github.com/fruitbars/simple-one-api/issues/96
    (
        rejected(
            "Failed to deserialize the JSON body into the target type: messages[1].role: unknown "
            "variant `model`, expected one of `system`, `user`, `assistant`, `tool`"
        ),
        body(messages=[SYSTEM, {"role": "model", "content": "x"}]),
    ),
    # Azure's content filter: github.com/compl-ai/compl-ai/issues/20
    (
        rejected(
            "The response was filtered due to the prompt triggering Azure OpenAI's content "
            "management policy. Please modify your prompt and retry.",
            code="content_filter",
            param="prompt",
        ),
        body("temperature", "n", "stream", "logprobs", messages=[SYSTEM, USER]),
    ),
    # Z.ai, which names nothing: github.com/CherryHQ/cherry-studio/issues/4142
    (
        rejected("API 调用参数有误，请检查文档。"),
        body("temperature", "n", "stream", messages=[SYSTEM, USER]),
    ),
]
