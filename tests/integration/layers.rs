//! The modules import in one direction, in the order that the crate's own documentation gives; no file is too long.
//!
//! The order is read from `src/lib.rs`. What `#[cfg(test)]` modules at the end of a file use is left out: tests may
//! borrow a type from above.

use std::fs;
use std::path::Path;

/// Most lines a source file may have.
const LONGEST: usize = 600;

/// The layers as `src/lib.rs` documents them, the highest first.
fn order(lib: &str) -> Vec<String> {
    lib.lines()
        .skip_while(|line| *line != "//! ```text")
        .skip(1)
        .take_while(|line| *line != "//! ```")
        .filter_map(|line| line.strip_prefix("//! ")?.split_whitespace().next())
        .map(str::to_string)
        .collect()
}

/// The code of a file: comments, strings and the test module at its end become spaces, line breaks stay.
fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out: Vec<u8> = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text.as_bytes()[at..];
        let length = if rest.starts_with(b"//") {
            rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            block_comment(rest)
        } else if let Some(length) = string(rest, out.last().copied()) {
            length
        } else {
            out.push(bytes[at]);
            at += 1;
            continue;
        };
        out.extend(
            rest[..length]
                .iter()
                .map(|&b| if b == b'\n' { b'\n' } else { b' ' }),
        );
        at += length;
    }
    let code = String::from_utf8_lossy(&out).into_owned();
    match code.find("#[cfg(test)]\nmod ") {
        Some(tests) => code[..tests].to_string(),
        None => code,
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The length of the string or character literal that begins here, if one does.
fn string(rest: &[u8], before: Option<u8>) -> Option<usize> {
    let in_word = before.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    if rest[0] == b'r' && !in_word {
        let hashes = rest[1..].iter().take_while(|&&b| b == b'#').count();
        if rest.get(1 + hashes) == Some(&b'"') {
            let end = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
            let body = &rest[2 + hashes..];
            let close = body.windows(end.len()).position(|window| window == end);
            return Some(close.map_or(rest.len(), |at| 2 + hashes + at + end.len()));
        }
    }
    if rest.starts_with(b"'\"'") {
        return Some(3);
    }
    if rest[0] != b'"' {
        return None;
    }
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return Some(at + 1),
            _ => at += 1,
        }
    }
    Some(rest.len())
}

/// The first names of the paths that stand after `crate::` or after enough `super::` to reach the root, with the byte
/// at which they stand. `depth` is the module's distance from the root.
fn imports(code: &str, depth: usize) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        // `$crate::` and `crate::` after a path separator are the same root; `my_crate::` is not.
        let before = code[..at].bytes().next_back();
        if !before.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_') {
            first_names(code, at + "crate::".len(), &mut found);
        }
    }
    let climb = "super::".repeat(depth);
    for (at, _) in code.match_indices(&climb) {
        if depth > 0 && !code[..at].ends_with("super::") {
            first_names(code, at + climb.len(), &mut found);
        }
    }
    found
}

/// The name at `at`, or each first name of the group there.
fn first_names(code: &str, at: usize, found: &mut Vec<(usize, String)>) {
    let name = |text: &str| -> String {
        let text = text.trim_start();
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
        text[..end.unwrap_or(text.len())].to_string()
    };
    if !code[at..].starts_with('{') {
        found.push((at, name(&code[at..])));
        return;
    }
    let (mut depth, mut item) = (0, at + 1);
    for (offset, c) in code[at..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if (c == ',' && depth == 1) || depth == 0 {
            let text = &code[item..at + offset];
            let start = item + text.len() - text.trim_start().len();
            if !text.trim().is_empty() {
                found.push((start, name(text)));
            }
            item = at + offset + 1;
        }
        if depth == 0 {
            return;
        }
    }
}

/// The imports of one file that go up, each as `path:line: …`. `path` is relative to `src`.
fn violations(path: &str, text: &str, order: &[String]) -> Vec<String> {
    let parts: Vec<&str> = path.trim_end_matches(".rs").split('/').collect();
    let rank = |layer: &str| order.iter().position(|other| other == layer);
    let Some(own) = rank(parts[0]) else {
        return Vec::new();
    };
    let depth = parts.iter().filter(|part| **part != "mod").count();
    let code = code(text);
    let mut found: Vec<(usize, String)> = imports(&code, depth)
        .into_iter()
        .filter(|(_, name)| rank(name).is_some_and(|other| other < own))
        .map(|(at, name)| {
            let line = code[..at].matches('\n').count() + 1;
            let layer = parts[0];
            (
                line,
                format!("src/{path}:{line}: `{layer}` imports `{name}`, which is above it"),
            )
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, text)| text).collect()
}

/// All Rust files below a folder with their relative path and text.
fn sources(folder: &Path) -> Vec<(String, String)> {
    fn walk(root: &Path, folder: &Path, files: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                walk(root, &path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(root).expect("a path below the root");
                let text = fs::read_to_string(&path).expect("a readable source");
                files.push((relative.display().to_string(), text));
            }
        }
    }
    let mut files = Vec::new();
    walk(folder, folder, &mut files);
    files.sort();
    files
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn imports_go_down_only() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let order = order(&lib);
    let files = sources(&root().join("src"));
    for module in lib.lines().filter_map(|line| line.strip_prefix("pub mod ")) {
        let module = module.trim_end_matches(';');
        assert!(
            order.iter().any(|layer| layer == module),
            "`{module}` is in no layer: name it in src/lib.rs"
        );
    }
    for layer in &order {
        let present = |(path, _): &(String, String)| {
            path.starts_with(&format!("{layer}/")) || *path == format!("{layer}.rs")
        };
        assert!(
            files.iter().any(present),
            "src/lib.rs names the layer `{layer}`, but there is no such module"
        );
    }
    let found: Vec<String> = files
        .iter()
        .flat_map(|(path, text)| violations(path, text, &order))
        .collect();
    assert!(found.is_empty(), "imports go up:\n{}", found.join("\n"));
}

#[test]
fn no_file_is_too_long() {
    let mut long = Vec::new();
    for folder in ["src", "tests", "benches", "native"] {
        let folder = root().join(folder);
        if folder.is_dir() {
            for (path, text) in sources(&folder) {
                let lines = text.lines().count();
                if lines > LONGEST {
                    long.push(format!("{}/{path}: {lines} lines", folder.display()));
                }
            }
        }
    }
    assert!(
        long.is_empty(),
        "more than {LONGEST} lines:\n{}",
        long.join("\n")
    );
}

#[test]
fn a_made_up_violation_is_found_and_placed() {
    let order: Vec<String> = ["stages", "model", "artifact", "runtime"]
        .map(String::from)
        .into();
    let find = |path: &str, text: &str| violations(path, text, &order);
    let text = "//! Uses [`crate::stages`] in words only.\n\
                use crate::runtime::seed;\n\
                use crate::stages::run;\n";
    assert_eq!(
        find("model/lora.rs", text),
        ["src/model/lora.rs:3: `model` imports `stages`, which is above it"]
    );
    assert_eq!(find("stages/mod.rs", text), [] as [&str; 0]);
    let grouped =
        "use crate::{\n    artifact::{self, file},\n    runtime,\n    stages::{a, b},\n};\n";
    assert_eq!(
        find("model/mod.rs", grouped),
        ["src/model/mod.rs:4: `model` imports `stages`, which is above it"]
    );
    let inline = "fn f() {\n    let s = \"a \\\" crate::stages\";\n    crate::stages::run(r#\"\"\"#, '\"');\n}\n";
    assert_eq!(find("runtime/x.rs", inline).len(), 1);
    assert!(find("runtime/x.rs", inline)[0].contains("x.rs:3:"));
    assert_eq!(find("artifact/mod.rs", "use super::model::A;\n").len(), 1);
    assert_eq!(
        find("artifact/file.rs", "use super::super::model::A;\n").len(),
        1
    );
    assert_eq!(
        find("artifact/file.rs", "use super::model::A;\n").len(),
        0,
        "its own `model`"
    );
    let tests = "/* crate::model /* */ crate::model */\n#[cfg(test)]\nmod tests {\n    use crate::model::A;\n}\n";
    assert_eq!(find("artifact/file.rs", tests).len(), 0);
    assert_eq!(
        find("main.rs", "use crate::stages;\n").len(),
        0,
        "the program is above all"
    );
}

#[test]
fn the_order_is_the_documented_one() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let order = order(&lib);
    assert_eq!(order.first().map(String::as_str), Some("cli"));
    assert_eq!(order.last().map(String::as_str), Some("runtime"));
    assert!(order.len() > 10, "{order:?}");
}
