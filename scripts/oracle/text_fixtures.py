#!/usr/bin/env python3
"""Writes tests/fixtures/text: what the `tokenizers` package and transformers' chat templates make of a table of texts and
conversations.

    pip install transformers==5.23.0 tokenizers gguf==0.19.0 numpy==2.* jinja2==3.1.6
    python scripts/oracle/text_fixtures.py --model SmolLM2-135M-Instruct.Q4_1.gguf

Templates that may not be distributed are checked without being committed: `--templates DIR --out FILE` writes cases for
the `*.jinja` in DIR, `ATP_TEMPLATE_CASES=FILE cargo test --lib other_templates -- --ignored` runs them.
"""
import argparse
import datetime
import json
from pathlib import Path

import gguf
from jinja2.exceptions import TemplateError
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX as QWEN_2
from transformers.utils import chat_template_utils

OUT = Path(__file__).parents[2] / "tests/fixtures/text"

TEXTS = [
    "", " ", "   ", "\n", "\r\n\r\n", "\t\ta\n \n  b", "Hello, world!", " leading", "trailing ",
    "I'm sure we'LL say they'd've gone; it's O'Neil's.",
    "1", "12", "123", "1234567890", "3.14159 + 2,000,000 = ?", "a1b22c333", "x²+½ ٣٤ ④",
    "def f(x):\n    return x ** 2  # square\n\n\nprint(f(3))\n", "if (a&&b){c+=1;}//!", "a.b::c->d[e]{f}", "https://x.y/z?q=1&r=%20",
    "naïve café coöperate", "nai\u0308ve cafe\u0301", "日本語のテキスト、中文文本。", "Привет, мир! ¿Qué?", "हिन्दी ไทย עברית", "🙂👍🏽👩‍👩‍👧 emoji",
    "\u00a0nbsp\u2003em\u200bzero", "ﬁ ligature Å K", "tab\tafter", "x" * 60, "  two  spaces   three    four", "A" + " " * 17 + "B",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<|endoftext|>", "a<|im_end|>b", " <|im_end|> ", "<|im_end|", "<|IM_END|>", "<|im_end|><|im_end|>",
    '{"choice": "A"}', '```json\n{"choice": "report the fault"}\n```', "<think>\nhm 42\n</think>\n\nok", "\x07bell \x00nul \x1b[0m", "\U000f1234 private",
]

SYSTEM, USER, ASSISTANT, TOOL = ({"role": role} for role in ("system", "user", "assistant", "tool"))


def say(role: dict, content: str) -> dict:
    return {**role, "content": content}


THOUGHT = "<think>\nFirst 1 < 2 & so on.\n</think>\n\nThe answer."
CONVERSATIONS = {
    "question": [say(USER, "Hi there")],
    "system": [say(SYSTEM, "  Be brief.\n"), say(USER, "Hi"), say(ASSISTANT, "Hello."), say(USER, " Bye \n")],
    "answered": [say(USER, "Hi"), say(ASSISTANT, "Hello.")],
    "users in a row": [say(USER, "One"), say(USER, "Two"), say(USER, "Three")],
    "thoughts in the history": [say(USER, "Q1"), say(ASSISTANT, THOUGHT), say(USER, "Q2"), say(ASSISTANT, THOUGHT)],
    "thoughts before a question": [say(USER, "Q1"), say(ASSISTANT, THOUGHT), say(USER, "Q2")],
    "empty thoughts": [say(USER, "Q1"), say(ASSISTANT, "<think>\n\n</think>\n\nA"), say(USER, "Q2"), say(ASSISTANT, "<think>\n\n</think>\n\nB")],
    "tools": [say(USER, "2+2?"), say(ASSISTANT, "<think>\ncall\n</think>\n\n<tool>python</tool>"), say(TOOL, "4"), say(TOOL, '{"ok": true}'), say(ASSISTANT, "4")],
    "tool last": [say(USER, "2+2?"), say(ASSISTANT, "call"), say(TOOL, "4 \"é\" <b>")],
    "tool response by the user": [say(USER, "Q"), say(ASSISTANT, THOUGHT), say(USER, "<tool_response>\n4\n</tool_response>")],
    "late system": [say(USER, "a"), say(SYSTEM, "now\nthis"), say(USER, "b")],
    "system alone": [say(SYSTEM, "Be brief.")],
    "text": [say(USER, '{é banana n\t"q" \\ <x>&\n\x1c \n'), say(ASSISTANT, "nn 12"), say(USER, "")],
    "empty contents": [say(SYSTEM, ""), say(USER, ""), say(ASSISTANT, "")],
}
OPTIONS = [{"add_generation_prompt": generate, "thinking": thinking} for generate, thinking in ((True, None), (True, True), (True, False), (False, None))]
# The values of `pythonisms` are long; these conversations have all kinds of them.
FEW = ("system", "users in a row", "tool last", "text")
DATE = datetime.datetime(2025, 10, 4)
BOS, EOS = "<|begin|>", "<|end|>"


class FixedDatetime(datetime.datetime):
    """`strftime_now` must say the same every day."""

    @classmethod
    def now(cls, tz=None):
        return DATE


def render(source: str, messages: list, options: dict) -> dict:
    extra = {} if options["thinking"] is None else {"enable_thinking": options["thinking"]}
    chat_template_utils.datetime = FixedDatetime
    try:
        [text], _ = chat_template_utils.render_jinja_template(
            [messages], chat_template=source, add_generation_prompt=options["add_generation_prompt"], bos_token=BOS, eos_token=EOS, **extra
        )
    except Exception as error:
        # Only what the template itself raises reads the same everywhere.
        return {"error": str(error) if type(error) is TemplateError else ""}
    return {"text": text}


def template_cases(sources: dict) -> dict:
    """What transformers renders, or the exception it raises, for every template and conversation."""
    templates = []
    for name, source in sorted(sources.items()):
        cases = []
        for title, messages in CONVERSATIONS.items():
            if name == "pythonisms" and title not in FEW:
                continue
            for options in OPTIONS:
                if options["thinking"] is not None and "enable_thinking" not in source:
                    continue
                cases.append({"conversation": title, **options, **render(source, messages, options)})
        templates.append({"name": name, "source": source, "cases": cases})
    return {"bos": BOS, "eos": EOS, "date": [DATE.year, DATE.month, DATE.day], "conversations": CONVERSATIONS, "templates": templates}


def tokenizer_cases(tokenizer: Tokenizer, texts: list) -> list:
    cases = []
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        cases.append({
            "text": text, "ids": ids,
            "kept": tokenizer.decode(ids, skip_special_tokens=False), "skipped": tokenizer.decode(ids, skip_special_tokens=True),
        })
    return cases


def write(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")
    print(path, path.stat().st_size)


def smollm2(model: Path) -> None:
    """The real model's tokenizer, as its own tokenizer.json describes it: digits apart, then byte-level."""
    fields = gguf.GGUFReader(model).fields
    tokens, types, merges = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type", "merges"))
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, [tuple(merge.split(" ")) for merge in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token, kind in zip(tokens, types) if kind == 3])
    write(OUT / "smollm2_tokens.json", tokenizer_cases(tokenizer, TEXTS))
    source = fields["tokenizer.chat_template"].contents()
    cases = template_cases({"smollm2": source})
    del cases["templates"][0]["source"]  # it is in the model's file
    write(OUT / "smollm2_chat.json", cases)


# The pattern of Llama 3's tokenizer.json; transformers has Qwen's in its source.
LLAMA_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def small_bpe(pre: str) -> Tokenizer:
    """A byte-level BPE of a few hundred tokens, trained on the texts above, that cuts words by the rule `pre`."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    pattern = {"qwen2": QWEN_2, "llama-bpe": LLAMA_3}[pre]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=480, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([json.dumps(CONVERSATIONS), *TEXTS, "123 1234 12 20251004 " * 20], trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=False), AddedToken("</think>", special=False, normalized=False)])
    return tokenizer


def without_a_merge(tokenizer: Tokenizer) -> Tokenizer:
    """The same without the last merge that makes a word of the texts, as Llama 3 has tokens that no merges lead to: the
    word is one token where merges are ignored for whole words, and several otherwise."""
    described = json.loads(tokenizer.to_str())
    merges = described["model"]["merges"]
    parts = {part for merge in merges for part in merge}
    for merge in reversed([m for m in merges if "".join(m) not in parts]):
        described["model"]["merges"] = [m for m in merges if m != merge]
        described["model"]["ignore_merges"] = False
        merging = Tokenizer.from_str(json.dumps(described))
        described["model"]["ignore_merges"] = True
        ignoring = Tokenizer.from_str(json.dumps(described))
        if any(merging.encode(text).ids != ignoring.encode(text).ids for text in TEXTS):
            print(f"no merge leads to {''.join(merge)!r}")
            return ignoring
    raise SystemExit("no such merge")


def write_gguf(path: Path, tokenizer: Tokenizer, pre: str) -> None:
    described = json.loads(tokenizer.to_str())
    added = {token["id"]: token["special"] for token in described["added_tokens"]}
    tokens = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([{None: 1, True: 3, False: 4}[added.get(i)] for i in range(len(tokens))])
    writer.add_token_merges([" ".join(merge) for merge in described["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.token_to_id("<|endoftext|>"))
    writer.add_eot_token_id(tokenizer.token_to_id("<|im_end|>"))
    writer.add_chat_template((OUT / "templates/thinking.jinja").read_text())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--templates", type=Path, help="a folder of templates to check instead")
    parser.add_argument("--out", type=Path, help="where their cases go")
    arguments = parser.parse_args()
    folder = arguments.templates or OUT / "templates"
    sources = {path.stem: path.read_text() for path in sorted(folder.glob("*.jinja"))}
    write(arguments.out or OUT / "template_cases.json", template_cases(sources))
    if arguments.templates:
        return
    if arguments.model is None:
        parser.error("--model is needed")
    smollm2(arguments.model)
    for pre in ("qwen2", "llama-bpe"):
        tokenizer = small_bpe(pre)
        if pre == "llama-bpe":
            tokenizer = without_a_merge(tokenizer)
        write_gguf(OUT / f"{pre}.gguf", tokenizer, pre)
        write(OUT / f"{pre}_tokens.json", tokenizer_cases(tokenizer, TEXTS))
        if pre == "qwen2":
            (OUT / "directory").mkdir(exist_ok=True)
            tokenizer.enable_truncation(16)
            tokenizer.save(str(OUT / "directory/tokenizer.json"), pretty=False)


if __name__ == "__main__":
    main()
