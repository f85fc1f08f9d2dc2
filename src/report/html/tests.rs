//! What the HTML holds, that hostile text stays text, and a page to look at.

use super::*;
use crate::report::ReportInputs;
use crate::report::simulation::{report, simulated};

/// Elements left open or closed out of order; attributes of the page hold no `>`, as `html` escapes it.
fn unbalanced(page: &str) -> Vec<String> {
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

#[test]
fn the_page_is_self_contained() {
    let page = render_html(&report());
    for loads in [
        "<script", "<link", "<img", "src=", "href=", "url(", "@import", "<iframe",
    ] {
        assert!(!page.contains(loads), "`{loads}` would load something");
    }
    let others = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    assert!(!others.contains("http://") && !others.contains("https://"));
}

#[test]
fn hostile_text_from_models_and_names_stays_text() {
    let attack = "</td></table></style><script>alert(1)</script><img src=x onerror=alert(2)>\" onload='x' &lt;\u{202E}\0";
    let mut inputs = simulated();
    for row in &mut inputs.rows {
        row.text = attack.into();
        row.error = row.error.as_ref().map(|_| attack.into());
        row.model = attack.into();
        row.compliant_label = format!("{attack}{}", row.compliant_label);
        row.question_id = format!("{attack}{}", row.question_id);
    }
    for series in &mut inputs.training {
        series.model = attack.into();
        series.metrics.insert(attack.into(), vec![(1, 1.0)]);
    }
    inputs.title = attack.into();
    inputs.recipe = attack.into();
    inputs.models[0].name = attack.into();
    inputs.models[0].source = attack.into();
    inputs.provenance.device = attack.into();
    inputs
        .provenance
        .versions
        .push((attack.into(), attack.into()));
    let page = render_html(&Report::new(inputs).unwrap());
    assert_eq!(unbalanced(&page), Vec::<String>::new());
    for active in [
        "<script",
        "<img",
        "onerror=alert(2)>",
        "\" onload",
        "\u{202E}",
        "\0",
    ] {
        assert!(!page.contains(active), "{active:?} got through");
    }
    assert!(
        page.contains("&lt;script&gt;alert(1)"),
        "the text itself should still be readable"
    );
}

#[test]
fn headings_tables_and_charts_can_be_read_aloud() {
    let page = render_html(&report());
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

/// Writes the invented report to `target/report-preview`, to be looked at in a browser:
/// `cargo test --lib preview -- --ignored`.
#[test]
#[ignore = "writes files to look at"]
fn preview() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/report-preview");
    std::fs::create_dir_all(&folder).unwrap();
    let report = report();
    std::fs::write(folder.join("report.html"), render_html(&report)).unwrap();
    std::fs::write(
        folder.join("report.md"),
        crate::report::render_markdown(&report),
    )
    .unwrap();
    for (name, svg) in crate::report::render_figures(&report) {
        std::fs::write(folder.join(name), svg).unwrap();
    }
}
