use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::*;
use crate::text::Speaker;

/// Written by scripts/oracle/text_fixtures.py with transformers' own renderer.
#[derive(Deserialize)]
struct Cases {
    bos: String,
    eos: String,
    date: (u16, u8, u8),
    conversations: BTreeMap<String, Vec<Message>>,
    templates: Vec<Template>,
}

#[derive(Deserialize)]
struct Template {
    name: String,
    source: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    conversation: String,
    add_generation_prompt: bool,
    thinking: Option<bool>,
    text: Option<String>,
    error: Option<String>,
}

/// How many cases there are, and those that differ.
fn compare(path: &Path) -> (usize, Vec<String>) {
    let cases: Cases = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let (year, month, day) = cases.date;
    let date = Date::new(year, month, day).unwrap();
    let (mut count, mut different) = (0, Vec::new());
    for Template {
        name,
        source,
        cases: table,
    } in cases.templates
    {
        let template = ChatTemplate::new(&source, Some(&cases.bos), Some(&cases.eos));
        for case in table {
            let options = RenderOptions {
                add_generation_prompt: case.add_generation_prompt,
                thinking: case.thinking,
                date,
            };
            let messages = &cases.conversations[&case.conversation];
            let got = match &template {
                Ok(template) => template
                    .render(messages, &options)
                    .map_err(|e| e.to_string()),
                Err(e) => Err(e.to_string()),
            };
            let same = match (&got, &case.text, &case.error) {
                (Ok(got), Some(expected), _) => got == expected,
                (Err(got), _, Some(expected)) => got.contains(expected),
                _ => false,
            };
            count += 1;
            if !same {
                let expected = case.text.ok_or(case.error);
                different.push(format!(
                    "{name}, {}, {options:?}:\n{got:?}\n{expected:?}",
                    case.conversation
                ));
            }
        }
    }
    (count, different)
}

#[track_caller]
fn agrees(path: &Path) {
    let (count, different) = compare(path);
    assert!(
        different.is_empty(),
        "{} of {count} differ:\n{}",
        different.len(),
        different.join("\n\n")
    );
    assert!(count > 100);
}

#[test]
fn templates_render_as_transformers_renders_them() {
    let fixture = "tests/fixtures/text/template_cases.json";
    agrees(&Path::new(env!("CARGO_MANIFEST_DIR")).join(fixture));
}

/// For templates that may not be distributed: see scripts/oracle/text_fixtures.py.
#[test]
#[ignore = "needs a file of cases in ATP_TEMPLATE_CASES"]
fn other_templates_render_as_transformers_renders_them() {
    agrees(&PathBuf::from(
        std::env::var_os("ATP_TEMPLATE_CASES").unwrap(),
    ));
}

fn render(source: &str) -> Result<String, TextError> {
    let messages = [Message::new(Speaker::User, "hi")];
    ChatTemplate::new(source, None, Some("</s>"))?.render(&messages, &RenderOptions::prompt())
}

#[test]
fn what_is_not_passed_is_undefined() {
    let source = "{{ bos_token is defined }} {{ eos_token }} {{ enable_thinking is defined }} {{ tools is none }}";
    assert_eq!(render(source).unwrap(), "False </s> False True");
}

/// The date does not come from the clock, also inside a macro.
#[test]
fn the_date_is_the_callers() {
    let source = "{% macro today() %}{{ strftime_now('%d %b %Y') }}{% endmacro %}{{ today() }}";
    assert_eq!(render(source).unwrap(), "26 Jul 2024");
    assert!(
        render("{{ strftime_now('%Q') }}")
            .unwrap_err()
            .to_string()
            .contains("%Q")
    );
}

#[test]
fn errors_say_what_and_where() {
    let message = |source: &str| render(source).unwrap_err().to_string();
    let broken = message("ok\n{% if %}\n");
    assert!(
        broken.contains("chat template") && broken.contains(":2"),
        "{broken}"
    );
    assert!(message("{% for m in messages %}").contains("chat template"));
    assert!(message("\n\n{{ raise_exception('No tools here') }}").contains("No tools here"));
    assert!(message("\n\n{{ raise_exception('No tools here') }}").contains(":3"));
    assert!(message("{{ missing.field }}").contains("undefined"));
    assert!(message("{{ messages | nope }}").contains("nope"));
    assert!(message("{{ messages.nope() }}").contains("nope"));
    assert!(message("{{ 'a'.rsplit('') }}").contains("separator"));
    assert!(message("{{ missing | tojson }}").contains("tojson"));
    assert!(message("{{ 1 | tojson(colour=1) }}").contains("colour"));
    assert!(message("{% include 'other' %}").contains("other"));
}

#[test]
fn a_template_cannot_flood() {
    let flood = "{% for i in range(90000) %}{{ 'xxxxxxxxxxxxxxxx' * 64 }}{% endfor %}";
    assert!(
        render(flood)
            .unwrap_err()
            .to_string()
            .contains("writes more than")
    );
    assert!(render("{{ 'x' * 1000000000000 }}").is_err());
    assert!(render("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}").is_err());
    assert!(render("{{ range(100000000) | list | length }}").is_err());
    assert!(
        render("{{ ''[::-1] }}")
            .unwrap_err()
            .to_string()
            .contains("reader fail")
    );
    assert_eq!(render("{{ 'aaa'.count('') }}").unwrap(), "4");
}

#[test]
fn generation_tags_write_nothing() {
    assert_eq!(
        render("a\n{%- generation %}b{%- endgeneration -%}\n c").unwrap(),
        "abc"
    );
    assert_eq!(
        render("{% set x = 1 %}{% generation %}{% set x = 2 %}{% endgeneration %}{{ x }}").unwrap(),
        "1"
    );
    assert_eq!(render("{{ '{% generation' }}").unwrap(), "{% generation");
    assert!(render("{% generation").is_err());
}

/// Whatever the source, compiling and rendering end with a result.
#[test]
fn torn_templates_do_not_panic() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/text/templates");
    for file in std::fs::read_dir(folder).unwrap() {
        let source = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for (cut, _) in source.char_indices().step_by(7) {
            let _ = render(&source[..cut]);
            let _ = render(&source[cut..]);
        }
    }
}
