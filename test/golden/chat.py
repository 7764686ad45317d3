"""Chats by transformers' apply_chat_template: the templates in chat/, which are our own, with the
small tokenizers of token_ids.py. Writes chat/chats.json; README.md describes it.

    python test/golden/chat.py
"""

import json
from pathlib import Path

from jinja2 import TemplateError
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
FIRST = 440  # id of the first further token, as in test/model/text-models.ts

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "read_file",
            "description": 'Reads a file <b>as it is</b>: it\'s "raw"',
            "parameters": {
                "type": "object",
                "properties": {"path": {"type": "string"}, "lines": {"type": "integer"}},
                "required": ["path"],
            },
        },
    }
]


def user(content):
    return {"role": "user", "content": content}


def system(content):
    return {"role": "system", "content": content}


def assistant(content, *calls, **keys):
    message = {"role": "assistant", "content": content, **keys}
    if calls:
        functions = [{"name": name, "arguments": arguments} for name, arguments in calls]
        message["tool_calls"] = [{"type": "function", "function": each} for each in functions]
    return message


def tool(content):
    return {"role": "tool", "content": content}


CODE = "    for name in names:\n        print(name)\n\n"
PLAIN = [
    {"messages": [user("def area(")]},
    {"messages": [user("  blanks around  \n\n")]},
    {"messages": [user("")]},
    {"messages": [user("one"), assistant("two"), user("three\n\nfour")]},
    {"messages": [user(CODE), assistant(CODE), user("漢字 🎉 e\u0301 \ue000")]},
    {"messages": [user("one"), assistant("tw")], "add_generation_prompt": False},
]
SYSTEM = [
    {"messages": [system("You write code.\n"), user("go on")]},
    {"messages": [system("You write code."), user("a"), assistant("b"), user("c")]},
]
CALL = ("read_file", {"path": "lib/a.ts", "lines": 3})
CALLS = [
    {"messages": [user("read it")], "tools": TOOLS},
    {"messages": [system("Careful."), user("read it")], "tools": TOOLS},
    {
        "messages": [user("read it"), assistant("", CALL), tool("export {};\n"), user("and?")],
        "tools": TOOLS,
    },
]
THOUGHTS = [
    {"messages": [user("why"), assistant("<think>\nsince\n</think>\n\n  since"), user("so")]},
    {"messages": [user("why"), assistant("<think>\n\n  as\n</think>\n\n\tx")]},
    {"messages": [user("why"), assistant("", CALL, ("stop", "{}")), tool("a"), tool("b")]},
    {"messages": [user("why")], "variables": {"enable_thinking": False}},
    {"messages": [user("why")], "variables": {"enable_thinking": True}},
]
DATE = {"date_string": "26 Jul 2024"}

CHATS = {
    "chatml": {
        "tokenizer": "newlines",
        "tokens": ["<|im_start|>", "<|im_end|>"],
        "names": {"eos_token": "<|im_end|>"},
        "cases": PLAIN + SYSTEM,
    },
    "llama3": {
        "tokenizer": "newlines",
        "tokens": ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "names": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        "cases": [
            {**case, "variables": DATE}
            for case in PLAIN
            + SYSTEM
            + CALLS
            + [
                {"messages": [user("x"), tool({"a": [1, 2.5, True, None]})]},
                {"messages": [user("x"), assistant("", CALL, CALL)]},
            ]
        ],
    },
    "gemma": {
        "tokenizer": "sentencepiece",
        "tokens": ["<start_of_turn>", "<end_of_turn>"],
        "names": {"bos_token": "<s>", "eos_token": "</s>"},
        "cases": PLAIN
        + SYSTEM
        + [
            {"messages": [user([{"type": "text", "text": " a "}, {"type": "text", "text": "b"}])]},
            {"messages": [user("a"), user("b")]},
        ],
    },
    "mistral": {
        "tokenizer": "sentencepiece",
        "tokens": ["[INST]", "[/INST]"],
        "names": {"bos_token": "<s>", "eos_token": "</s>"},
        "cases": PLAIN + SYSTEM + [{"messages": [user("a"), tool("b")]}],
    },
    "qwen3": {
        "tokenizer": "newlines",
        "tokens": [
            "<|im_start|>",
            "<|im_end|>",
            *(
                {"content": text, "special": False}
                for text in ("<think>", "</think>", "<tool_call>", "</tool_call>")
            ),
        ],
        "names": {"eos_token": "<|im_end|>"},
        "cases": PLAIN + SYSTEM + CALLS + THOUGHTS,
    },
}


def tokenizer_of(name, tokens, names):
    """The small tokenizer with further tokens, and their ids in place of those it gives them."""
    folder = HERE / "tokenizer" / name
    fast = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, **names)
    ids = {}
    for place, token in enumerate(tokens):
        content, special = (token, True) if isinstance(token, str) else token.values()
        added = AddedToken(content, special=special, normalized=False)
        tokenizer.add_tokens([added], special_tokens=special)
        ids[tokenizer.convert_tokens_to_ids(content)] = FIRST + place
    return tokenizer, ids


def run(tokenizer, ids, template, case):
    options = {key: case[key] for key in ("tools", "add_generation_prompt") if key in case}
    options = {"add_generation_prompt": True, **options, **case.get("variables", {})}
    options |= {"chat_template": template, "conversation": case["messages"]}
    try:
        text = tokenizer.apply_chat_template(tokenize=False, **options)
    except TemplateError as error:
        return {**case, "error": str(error)}
    found = tokenizer.apply_chat_template(tokenize=True, return_dict=False, **options)
    return {**case, "text": text, "ids": [ids.get(id, id) for id in found]}


def main():
    chats = {}
    for name, chat in CHATS.items():
        template = (HERE / "chat" / f"{name}.jinja").read_text(encoding="utf-8")
        tokenizer, ids = tokenizer_of(chat["tokenizer"], chat["tokens"], chat["names"])
        cases = [run(tokenizer, ids, template, case) for case in chat["cases"]]
        chats[name] = {**chat, "cases": cases}
    path = HERE / "chat" / "chats.json"
    path.write_text(json.dumps(chats, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
