use std::path::PathBuf;

use super::*;
use crate::text::Speaker;

fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn smollm2() -> TextCodec {
    let file = path(".deps/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
    TextCodec::from_gguf(&GgufFile::open(file).unwrap()).unwrap()
}

/// The template that comes with the model, against transformers: scripts/oracle/text_fixtures.py.
#[test]
fn the_real_models_chat_agrees_with_transformers() {
    let codec = smollm2();
    let fixture = std::fs::read_to_string(path("tests/fixtures/text/smollm2_chat.json")).unwrap();
    let fixture: Value = serde_json::from_str(&fixture).unwrap();
    let cases = fixture["templates"][0]["cases"].as_array().unwrap();
    assert!(cases.len() > 20);
    for case in cases {
        let conversation = case["conversation"].as_str().unwrap();
        let messages: Vec<Message> =
            serde_json::from_value(fixture["conversations"][conversation].clone()).unwrap();
        let options = RenderOptions {
            add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
            ..RenderOptions::default()
        };
        let text = codec.render(&messages, &options).unwrap();
        assert_eq!(text, case["text"].as_str().unwrap(), "{conversation}");
        let ids = codec.encode_chat(&messages, &options).unwrap();
        assert_eq!(ids, codec.tokenizer().encode(&text).unwrap());
    }
}

#[test]
fn a_turn_ends_at_the_first_stop() {
    let codec = smollm2();
    assert_eq!(codec.stop_ids(), [2]);
    let ids = codec
        .tokenizer()
        .encode("<|im_start|>Yes.<|im_end|>\n<|im_start|>user")
        .unwrap();
    assert_eq!(codec.decode_turn(&ids).unwrap(), "Yes.");
    assert_eq!(codec.decode_turn(&ids[..2]).unwrap(), "Yes");
    assert_eq!(codec.decode_turn(&[]).unwrap(), "");
}

/// A copy of the fixture directory with some files written anew; `None` takes one away.
fn directory(files: &[(&str, Option<&str>)]) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(path("tests/fixtures/text/directory")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    for (name, content) in files {
        match content {
            Some(content) => std::fs::write(copy.path().join(name), content).unwrap(),
            None => std::fs::remove_file(copy.path().join(name)).unwrap(),
        }
    }
    copy
}

fn read(files: &[(&str, Option<&str>)]) -> Result<TextCodec, TextError> {
    TextCodec::from_dir(directory(files).path())
}

fn hello(codec: &TextCodec) -> String {
    let messages = [Message::new(Speaker::User, "Hi")];
    codec.render(&messages, &RenderOptions::prompt()).unwrap()
}

#[test]
fn a_directory_gives_the_default_template_and_every_stop() {
    let codec = read(&[]).unwrap();
    assert_eq!(
        hello(&codec),
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    );
    let id = |token: &str| codec.tokenizer().token_to_id(token).unwrap();
    // The end of the text from the configuration, the end of the turn from the template.
    assert_eq!(codec.stop_ids(), [id("<|endoftext|>"), id("<|im_end|>")]);
    assert_eq!(
        (codec.tokenizer().bos(), codec.tokenizer().eos()),
        (None, Some(id("<|endoftext|>")))
    );

    let think = id("<think>");
    for stop in [
        format!("{think}"),
        format!("[{think}, {}]", id("<|endoftext|>")),
    ] {
        let generation = format!("{{\"eos_token_id\": {stop}}}");
        let codec = read(&[("generation_config.json", Some(&generation))]).unwrap();
        assert_eq!(
            codec.stop_ids(),
            [id("<|endoftext|>"), id("<|im_end|>"), think]
        );
    }
}

#[test]
fn a_template_file_goes_before_the_configuration() {
    let template = "{{ eos_token }}{{ messages[0].content }}";
    let codec = read(&[("chat_template.jinja", Some(template))]).unwrap();
    assert_eq!(hello(&codec), "<|endoftext|>Hi");
    let config = r#"{"eos_token": "<|endoftext|>", "chat_template": "one {{ bos_token }}"}"#;
    let map = r#"{"bos_token": {"content": "<|im_start|>"}}"#;
    let codec = read(&[
        ("tokenizer_config.json", Some(config)),
        ("special_tokens_map.json", Some(map)),
    ]);
    assert_eq!(hello(&codec.unwrap()), "one <|im_start|>");
}

#[test]
fn the_fixture_gguf_names_two_stops() {
    let file = GgufFile::open(path("tests/fixtures/text/qwen2.gguf")).unwrap();
    let codec = TextCodec::from_gguf(&file).unwrap();
    assert_eq!(codec.stop_ids().len(), 2);
}

#[test]
fn a_directory_that_lacks_something_is_refused_by_name() {
    const CONFIG: &str = "tokenizer_config.json";
    let eos = r#"{"eos_token": "<|endoftext|>", "chat_template": 5}"#;
    let unnamed =
        r#"{"eos_token": "<|endoftext|>", "chat_template": [{"name": "rag", "template": ""}]}"#;
    let broken = r#"{"eos_token": "<|endoftext|>", "chat_template": "{% if %}"}"#;
    let no_end = r#"{"chat_template": "{{ messages[0].content }}"}"#;
    for (name, content, words) in [
        ("tokenizer.json", None, "tokenizer.json"),
        (CONFIG, None, "no chat template"),
        (CONFIG, Some("{}"), "no chat template"),
        (CONFIG, Some("[]"), "expected a JSON object"),
        (CONFIG, Some("{\"eos"), "not JSON"),
        (
            CONFIG,
            Some(r#"{"eos_token": "</s>"}"#),
            "`eos_token`: expected a token of tokenizer.json, got \"</s>\"",
        ),
        (CONFIG, Some(r#"{"eos_token": 7}"#), "`eos_token`"),
        (
            CONFIG,
            Some(eos),
            "`chat_template`: expected a string or a list, got 5",
        ),
        (CONFIG, Some(unnamed), "one named `default`"),
        (CONFIG, Some(broken), "chat template"),
        (CONFIG, Some(no_end), "no token that ends a turn"),
        (
            "generation_config.json",
            Some(r#"{"eos_token_id": 100000}"#),
            "`eos_token_id`",
        ),
        (
            "generation_config.json",
            Some(r#"{"eos_token_id": [0, -1]}"#),
            "`eos_token_id`",
        ),
        ("chat_template.jinja", Some("{% endfor %}"), "chat template"),
    ] {
        let message = read(&[(name, content)]).unwrap_err().to_string();
        assert!(message.contains(words), "{name} {content:?}: {message}");
    }
    assert!(
        TextCodec::from_dir("no/such/model")
            .unwrap_err()
            .to_string()
            .contains("no/such/model")
    );
}
