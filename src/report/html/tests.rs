//! What the HTML holds, that hostile text stays text, and a page to look at.

use super::*;
use crate::report::ReportInputs;
use crate::report::simulation::{busy, report, simulated};

/// Elements left open or closed out of order; attributes of the page hold no `>`, as `html` escapes it.
fn unbalanced(page: &str) -> Vec<String> {
    let page = without_own_code(page);
    const VOID: [&str; 2] = ["meta", "rect"];
    let mut open: Vec<String> = Vec::new();
    let mut wrong = Vec::new();
    for tag in page
        .split('<')
        .skip(1)
        .filter_map(|part| part.split('>').next())
    {
        let name: String = tag
            .trim_start_matches('/')
            .chars()
            .take_while(char::is_ascii_alphanumeric)
            .collect();
        if tag.starts_with('!') || tag.ends_with('/') || VOID.contains(&name.as_str()) {
            continue;
        }
        if !tag.starts_with('/') {
            open.push(name);
        } else if open.pop().as_deref() != Some(&name) {
            wrong.push(name);
        }
    }
    wrong.extend(open);
    wrong
}

#[test]
fn the_page_holds_every_part_and_is_well_formed() {
    let page = render_html(&report());
    assert_eq!(unbalanced(&page), Vec::<String>::new());
    for part in [
        "no finding about alignment",
        "Violation rate by round",
        "paper: Qwen3-8B",
        "compliant option labelled A",
        ">chosen</text>",
        "Groups without variance",
        "broke the rule",
        "longer than the context of 8192",
        "sha256:bbbb",
        "1 h 27 min",
        "window = 5",
    ] {
        assert!(page.contains(part), "`{part}` is missing");
    }
}

/// What stands between the first `<name…>` from `from` on and its end.
fn inside<'a>(page: &'a str, open: &str, close: &str) -> &'a str {
    let start = page.find(open).unwrap() + open.len();
    &page[start..start + page[start..].find(close).unwrap()]
}

/// The page without the text of its own style and scripts, which are the program's.
fn without_own_code(page: &str) -> String {
    let style = inside(page, "<style>", "</style>");
    let script = inside(page, "<script>", "</script>");
    page.replace(style, "").replace(script, "")
}

#[test]
fn the_page_is_self_contained() {
    let page = without_own_code(&render_html(&report()));
    for loads in [
        "<link",
        "<img",
        "src=",
        "url(",
        "@import",
        "<iframe",
        "<base",
        "<form",
        "http-equiv=\"refresh",
    ] {
        assert!(!page.contains(loads), "`{loads}` would load something");
    }
    assert_eq!(
        page.matches("href=").count(),
        page.matches("href=\"#").count()
    );
    let others = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    assert!(!others.contains("http://") && !others.contains("https://"));
}

/// An attribute that would run script or style: `onload=`, `style=`, in any tag of the page.
fn active_attributes(page: &str) -> Vec<String> {
    let tags = page.split('<').skip(1).filter_map(|p| p.split('>').next());
    let named = |tag: &str| {
        // Values are quoted and hold no quote: every second part is a value.
        let names: String = tag.split('"').step_by(2).collect();
        names.contains(" on") || names.contains(" style=") || names.contains("srcdoc")
    };
    tags.filter(|tag| named(tag)).map(str::to_owned).collect()
}

/// A source of the policy, worked out by itself.
fn sha256(text: &str) -> String {
    use base64::Engine as _;
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(text.as_bytes());
    let text = base64::engine::general_purpose::STANDARD.encode(digest);
    format!("sha256-{text}")
}

#[test]
fn only_the_pages_own_style_and_script_may_run() {
    let page = render_html(&Report::new(busy(200, 10)).unwrap());
    let style = inside(&page, "<style>", "</style>");
    let script = inside(&page, "<script>", "</script>");
    let policy = inside(&page, "Content-Security-Policy\" content=\"", "\"");
    assert_eq!(
        policy,
        format!(
            "default-src 'none'; style-src '{}'; script-src '{}'; base-uri 'none'; form-action 'none'; \
             require-trusted-types-for 'script'",
            sha256(style),
            sha256(script)
        )
    );
    // What the policy forbids is not needed either.
    assert_eq!(
        active_attributes(&without_own_code(&page)),
        Vec::<String>::new()
    );
    assert_eq!(page.matches("<style").count(), 1);
    let scripts = page.matches("<script").count();
    assert_eq!(
        scripts,
        page.matches("<script type=\"application/gzip\"").count() + 1
    );
    for sink in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
    ] {
        assert!(!script.contains(sink), "{sink} makes text into code");
    }
    for ends in ["</script", "<!--", "\u{2028}"] {
        assert!(!script.contains(ends), "{ends:?} in a script");
    }
}

const ATTACK: &str = "</td></table></style></script><script>alert(1)</script><!--<script>--><img src=x onerror=alert(2)>\" \
                      onload='x' onclick=\"alert(3)\" javascript:alert(4) &lt;\u{202E}\u{2028}\0</title></svg>";

/// A run in which every text that comes from a model, a file or a recipe attacks.
fn hostile() -> ReportInputs {
    let mut inputs = busy(120, 10);
    inputs.rows.extend(simulated().rows);
    let attack = |text: &mut String| *text = format!("{ATTACK}{text}");
    for row in &mut inputs.rows {
        for text in [
            &mut row.text,
            &mut row.model,
            &mut row.compliant_label,
            &mut row.question_id,
            &mut row.environment,
            &mut row.finish,
        ] {
            attack(text);
        }
        row.error = Some(ATTACK.into());
        row.choice = Some(ATTACK.into());
    }
    for row in &mut inputs.games {
        for text in [
            &mut row.text,
            &mut row.game,
            &mut row.setting,
            &mut row.population,
            &mut row.instance_id,
            &mut row.sees,
            &mut row.variant,
        ] {
            attack(text);
        }
        row.error = Some(ATTACK.into());
    }
    for row in &mut inputs.tools {
        for text in [
            &mut row.text,
            &mut row.family,
            &mut row.problem_id,
            &mut row.expected,
            &mut row.variant,
        ] {
            attack(text);
        }
        row.answer = Some(ATTACK.into());
    }
    for place in 0..inputs.rows.len() {
        let said = crate::text::Message::new(crate::text::Speaker::User, ATTACK);
        inputs
            .prompts
            .set(crate::scenario::Testbed::RolePlay, place, &[said]);
    }
    for series in &mut inputs.training {
        series.model = ATTACK.into();
        series.metrics.insert(ATTACK.into(), vec![(1, 1.0)]);
    }
    inputs.title = ATTACK.into();
    inputs.recipe = ATTACK.into();
    inputs.models[0].name = ATTACK.into();
    inputs.models[0].source = ATTACK.into();
    inputs.provenance.device = ATTACK.into();
    inputs
        .provenance
        .versions
        .push((ATTACK.into(), ATTACK.into()));
    inputs
}

#[test]
fn hostile_text_from_models_and_names_stays_text() {
    let whole = render_html(&Report::new(hostile()).unwrap());
    let page = without_own_code(&whole);
    assert_eq!(unbalanced(&page), Vec::<String>::new());
    assert_eq!(active_attributes(&page), Vec::<String>::new());
    for active in ["<script>alert", "<img", "<!--", "\u{202E}", "\0"] {
        assert!(!page.contains(active), "{active:?} got through");
    }
    assert!(
        page.contains("&lt;script&gt;alert(1)"),
        "the text itself should still be readable"
    );
    // The policy and the code it allows are those of any other report.
    let harmless = render_html(&Report::new(busy(120, 10)).unwrap());
    let policy = |page: &str| inside(page, "Content-Security-Policy\" content=\"", "\"").to_owned();
    assert_eq!(policy(&whole), policy(&harmless));
}

/// The bytes of a block as the page's script gets them.
fn unpacked(page: &str, id: &str) -> String {
    use base64::Engine as _;
    use std::io::Read as _;
    let packed = inside(page, &format!("id=\"{id}\">"), "</script>");
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(packed)
        .unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(&bytes[..])
        .read_to_string(&mut text)
        .unwrap();
    text
}

#[test]
fn every_row_of_every_testbed_is_in_the_viewer_with_its_text_and_prompt() {
    let inputs = busy(300, 10);
    let page = render_html(&Report::new(inputs.clone()).unwrap());
    let index: serde_json::Value = serde_json::from_str(&unpacked(&page, "traces-index")).unwrap();
    let block = unpacked(&page, "traces-texts-0");
    let texts: Vec<&str> = block.split('\0').collect();
    let lines: Vec<String> = serde_json::from_str(&unpacked(&page, "traces-lines")).unwrap();
    let prompts: Vec<Vec<usize>> =
        serde_json::from_str(&unpacked(&page, "traces-prompts-0")).unwrap();
    let beds = index["beds"].as_array().unwrap();
    assert_eq!(beds.len(), 3);
    let mut found: Vec<(String, Vec<String>)> = vec![];
    for bed in beds {
        let column = |key: &str| {
            let all = bed["columns"].as_array().unwrap();
            all.iter().find(|c| c["key"] == key).unwrap()["values"]
                .as_array()
                .unwrap()
        };
        for (text, prompt) in column("text").iter().zip(column("prompt")) {
            let told = prompts[prompt.as_u64().unwrap() as usize]
                .iter()
                .map(|&line| lines[line].clone());
            found.push((
                texts[text.as_u64().unwrap() as usize].to_owned(),
                told.collect(),
            ));
        }
    }
    let wanted = inputs.rows.len() + inputs.games.len() + inputs.tools.len();
    assert_eq!(found.len(), wanted);
    for row in &inputs.rows {
        let (_, prompt) = found.iter().find(|(text, _)| *text == row.text).unwrap();
        assert_eq!(prompt[0], "\u{1}system");
        assert!(
            prompt.contains(&format!("Decide for {}.", row.question_id)),
            "{prompt:?}"
        );
        let told = prompt
            .iter()
            .filter(|line| line.starts_with("Round "))
            .count();
        assert_eq!(told as u32, row.round - 1, "history of round {}", row.round);
    }
    for text in inputs
        .games
        .iter()
        .map(|r| &r.text)
        .chain(inputs.tools.iter().map(|r| &r.text))
    {
        assert!(found.iter().any(|(t, _)| t == text));
    }
}

#[test]
fn headings_tables_and_charts_can_be_read_aloud() {
    let page = without_own_code(&render_html(&report()));
    assert_eq!(page.matches("<h1>").count(), 1);
    assert!(page.find("<h1>").unwrap() < page.find("<h2").unwrap());
    assert_eq!(
        page.matches("<th").count(),
        page.matches("<th scope=").count() + page.matches("<thead>").count()
    );
    let charts: Vec<&str> = page.split("<svg").skip(1).collect();
    assert!(charts.len() > 10);
    assert!(charts.iter().all(|c| {
        c.split('>')
            .next()
            .unwrap()
            .contains("role=\"img\" aria-label=\"")
    }));
}

#[test]
fn a_run_without_training_or_rows_still_has_a_page() {
    let bare = render_html(
        &Report::new(ReportInputs {
            title: "t".into(),
            ..ReportInputs::default()
        })
        .unwrap(),
    );
    assert_eq!(unbalanced(&bare), Vec::<String>::new());
    assert!(bare.contains("No evaluation rows"));
    assert!(!bare.contains("<svg") && !bare.contains(">Training<"));
}

#[test]
fn two_models_and_two_seeds_stand_apart_in_the_order_of_the_recipe() {
    let mut inputs = simulated();
    let second: Vec<_> = inputs
        .rows
        .iter()
        .flat_map(|row| {
            [7, 8].map(|seed| EvalRow {
                model: "another".into(),
                seed,
                ..row.clone()
            })
        })
        .collect();
    inputs.rows.extend(second);
    let first = inputs.models[0].clone();
    inputs.models.push(crate::report::ModelInfo {
        name: "another".into(),
        ..first
    });
    inputs.training.push(crate::report::TrainingSeries {
        seed: 8,
        ..inputs.training[0].clone()
    });
    let report = Report::new(inputs).unwrap();
    let page = render_html(&report);
    assert_eq!(unbalanced(&page), Vec::<String>::new());
    let (one, two) = ("simulated-135M: DPO tipped.", "another: DPO tipped.");
    assert!(page.find(one).unwrap() < page.find(two).unwrap());
    assert!(page.contains("2 seeds drawn over each other"));
    let names: Vec<String> = crate::report::render_figures(&report)
        .into_iter()
        .map(|f| f.0)
        .filter(|name| name.starts_with("violation"))
        .collect();
    assert_eq!(names, ["violation-rate-1.svg", "violation-rate-2.svg"]);
    assert!(crate::report::render_markdown(&report).contains("(violation-rate-2.svg)"));
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let mut turned = simulated();
    turned.rows.reverse();
    assert_eq!(
        render_html(&report()),
        render_html(&Report::new(turned).unwrap())
    );
}

/// Writes invented reports to `target/report-preview`, to be looked at and tried in a browser: one of all testbeds, one
/// in which everything attacks, one of 100 000 rows. `make test-browser` does.
#[test]
#[ignore = "writes files to look at"]
fn preview() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/report-preview");
    std::fs::create_dir_all(&folder).unwrap();
    for (name, inputs) in [
        ("report", busy(3600, 60)),
        ("hostile", hostile()),
        ("large", busy(100_000, 150)),
    ] {
        let report = Report::new(inputs).unwrap();
        std::fs::write(folder.join(format!("{name}.html")), render_html(&report)).unwrap();
    }
}
