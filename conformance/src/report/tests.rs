use super::samples::{each_verdict, report, result};
use super::*;

fn run(seed: u64, [d1, d2]: [Verdict; 2]) -> Report {
    report(seed, &[("D1", d1), ("D2", d2)])
}

fn fail(why: &str) -> Verdict {
    Verdict::Fail(why.to_owned())
}

fn unclear(why: &str) -> Verdict {
    Verdict::Inconclusive(why.to_owned())
}

#[test]
fn repetitions_sum_up_to_the_worst_verdict_with_its_first_reason() {
    let sum = Report::repeated([
        run(7, [Verdict::Pass, Verdict::Pass]),
        run(8, [unclear("x"), Verdict::Pass]),
        run(9, [fail("y"), Verdict::Pass]),
        run(10, [fail("z"), Verdict::Pass]),
    ])
    .unwrap();
    assert_eq!((sum.about.seed, sum.repetitions), (7, Some(4)));
    assert_eq!(sum.about.duration_ms, 100);
    let [d1, d2] = &sum.rules[..] else {
        panic!("{sum:?}")
    };
    assert_eq!((d1.verdict, d1.duration_ms), (VerdictKind::Fail, 40));
    assert_eq!(d1.reason, "repetition 3, seed 9: y");
    assert_eq!((d2.verdict, &*d2.reason), (VerdictKind::Pass, ""));
    assert_eq!((sum.summary.pass, sum.summary.fail), (1, 1));
    assert!(!sum.is_certified());
}

#[test]
fn a_bad_first_repetition_is_named_too() {
    let sum = Report::repeated([run(7, [fail("x"), Verdict::Pass])]).unwrap();
    assert_eq!(sum.rules[0].reason, "repetition 1, seed 7: x");
    assert!(Report::repeated([]).is_none());
}

#[test]
fn the_worst_repetition_keeps_the_command_that_repeats_it() {
    let with = |seed: u64, verdict| {
        let run = run(seed, [verdict, Verdict::Pass]);
        run.reproduced_by("all".to_owned(), |id| format!("{id} {seed}"))
    };
    let sum = Report::repeated([
        with(7, Verdict::Pass),
        with(8, fail("x")),
        with(9, fail("x")),
    ]);
    let sum = sum.unwrap();
    assert_eq!(sum.rules[0].reproduce.as_deref(), Some("D1 8"));
    assert_eq!(sum.rules[1].reproduce, None);
}

#[test]
fn nothing_is_certified_by_rules_that_do_not_apply() {
    let away = || Verdict::NotApplicable("x".to_owned());
    assert!(!run(1, [away(), away()]).is_certified());
    assert!(run(1, [away(), Verdict::Pass]).is_certified());
    assert!(!run(1, [unclear("x"), Verdict::Pass]).is_certified());
}

#[test]
fn the_document_has_its_fixed_shape() {
    let document = run(1, [fail("x"), Verdict::Pass]).to_json();
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    let rule = |id, verdict: &str, reason| {
        let of = result(id, &Verdict::Pass);
        serde_json::json!({
            "id": id, "level": "MUST", "title": of.title, "verdict": verdict, "reason": reason, "duration_ms": 10,
            "section": "D. Delivery", "text": of.text, "needs": [], "faults": [],
        })
    };
    let expected = serde_json::json!({
        "suite_version": SUITE_VERSION, "backend": "b", "backend_version": "1.2.3", "fixture": "f",
        "server_version": "7.0", "seed": 1, "started": "2026-01-02T03:04:05Z", "duration_ms": 25,
        "time_scale": 1.0, "jobs": 1, "shuffled": false, "certified": false,
        "capabilities": {
            "max_payload": 100, "order": "publisher", "counts_loss": true, "replay": false, "failover": false,
        },
        "summary": {"pass": 1, "fail": 1, "inconclusive": 0, "refused": 0, "not_applicable": 0, "known_failure": 0},
        "rules": [rule("D1", "fail", "x"), rule("D2", "pass", "")],
    });
    assert_eq!(document, expected);
}

#[test]
fn a_result_carries_what_its_rule_says_and_needs() {
    let l8 = result("L8", &Verdict::Pass);
    assert_eq!(l8.section, "L. Loss in an outage");
    assert!(
        l8.text.starts_with("[counts loss] When only"),
        "{}",
        l8.text
    );
    assert_eq!(
        (&l8.needs[..], &l8.faults[..]),
        (&["isolate"][..], &["isolate a node".to_owned()][..])
    );
}

#[test]
fn the_run_is_named_everywhere() {
    let report = each_verdict();
    let facts = [
        "b",
        "1.2.3",
        "7.0",
        "2026-01-02T03:04:05",
        "seed",
        "max_payload 100, order publisher, counts_loss",
        "suite --seed 7",
        SUITE_VERSION,
    ];
    for document in [report.to_text(), report.to_junit(), report.to_markdown()] {
        // Markdown has its own way to write it.
        let document = document.replace('\\', "");
        for fact in facts {
            assert!(document.contains(fact), "{fact}: {document}");
        }
    }
}

#[test]
fn people_read_sections_then_what_did_not_pass_and_why() {
    let text = each_verdict().to_text();
    let expected = format!("\
backplane conformance {SUITE_VERSION}: b 1.2.3, server 7.0, fixture f, seed 7

D. Delivery
pass         D1       10 ms  {D1}
FAIL         D2       10 ms  {D2}
                  got <\\u{{1b}}[0m> | \"x\" & more
INCONCLUSIVE D3       10 ms  {D3}
                  no server

L. Loss in an outage
refused      L8       10 ms  {L8}
                  it says so
n/a          L6       10 ms  {L6}
                  it has no such fault
known fail   L9       10 ms  {L9}
                  issue 12

FAIL D2 {D2} (MUST)
  found     got <\\u{{1b}}[0m> | \"x\" &
            more
  the rule  Payload bytes arrive unchanged: empty, one byte, NUL and 0xFF, invalid UTF-8, the largest allowed.
  repeat    suite --rule D2

INCONCLUSIVE D3 {D3} (MUST)
  found     no server
  the rule  Publishing where nobody subscribes succeeds.
  repeat    suite --rule D3

1 refused as declared
  L8   it says so

1 not applicable
  L6   it has no such fault

1 known failure
  L9   issue 12

started      2026-01-02T03:04:05Z
declared     max_payload 100, order publisher, counts_loss
run it again suite --seed 7
",
        D1 = title("D1"), D2 = title("D2"), D3 = title("D3"), L6 = title("L6"), L8 = title("L8"), L9 = title("L9"));
    let (head, summary) = text.trim_end().rsplit_once("\n\n").unwrap();
    assert_eq!(format!("{head}\n"), expected.trim_end().to_owned() + "\n");
    assert!(
        summary.starts_with("b is NOT certified (6 of "),
        "{summary}"
    );
    assert!(
        summary.ends_with("rules): 1 passed, 1 failed, 1 inconclusive, 1 refused as declared, 1 not applicable, 1 known failure in 0.0 s"),
        "{summary}"
    );
}

fn title(id: &str) -> &'static str {
    result(id, &Verdict::Pass).title
}

#[test]
fn colour_changes_nothing_but_the_colour() {
    let report = each_verdict();
    let plain = report.to_text();
    assert!(!plain.contains('\x1b'));
    let coloured = text::Paint::new(true).document(&report);
    let mut stripped = String::new();
    for (i, part) in coloured.split('\x1b').enumerate() {
        let text = match i {
            0 => part,
            _ => part.split_once('m').unwrap().1,
        };
        stripped.push_str(text);
    }
    assert_ne!(coloured, plain);
    assert_eq!(stripped, plain);
}

#[test]
fn readers_of_junit_find_a_suite_for_each_section_and_a_case_for_each_rule() {
    let junit = each_verdict().to_junit();
    let document = roxmltree::Document::parse(&junit).unwrap();
    let root = document.root_element();
    assert_eq!(root.tag_name().name(), "testsuites");
    let numbers = |node: roxmltree::Node<'_, '_>| {
        ["tests", "failures", "errors", "skipped"]
            .map(|name| node.attribute(name).unwrap().parse::<usize>().unwrap())
    };
    assert_eq!(numbers(root), [6, 1, 1, 3]);
    assert_eq!(root.attribute("time"), Some("0.060"));
    let suites: Vec<_> = root
        .children()
        .filter(roxmltree::Node::is_element)
        .collect();
    let names: Vec<_> = suites
        .iter()
        .map(|suite| suite.attribute("name").unwrap())
        .collect();
    assert_eq!(names, ["D. Delivery", "L. Loss in an outage"]);
    assert_eq!(
        suites
            .iter()
            .map(|suite| numbers(*suite))
            .collect::<Vec<_>>(),
        [[3, 1, 1, 0], [3, 0, 0, 3]]
    );

    let mut found = Vec::new();
    for suite in suites {
        assert_eq!(suite.attribute("timestamp"), Some("2026-01-02T03:04:05"));
        let mut parts = suite.children().filter(roxmltree::Node::is_element);
        let properties = parts.next().unwrap();
        let property = |name: &str| {
            let mut all = properties
                .children()
                .filter(|one| one.attribute("name") == Some(name));
            all.next().and_then(|one| one.attribute("value"))
        };
        assert_eq!(property("seed"), Some("7"));
        assert_eq!(property("started"), Some("2026-01-02T03:04:05Z"));
        for case in parts {
            assert_eq!(case.tag_name().name(), "testcase");
            let class = case.attribute("classname").unwrap();
            assert!(
                ["b.Delivery", "b.Loss in an outage"].contains(&class),
                "{class}"
            );
            let name = case.attribute("name").unwrap().split(' ').next().unwrap();
            let inside = case.children().find(roxmltree::Node::is_element);
            let inside = inside.map(|node| {
                (
                    node.tag_name().name(),
                    node.attribute("message").unwrap(),
                    node.text().unwrap_or_default(),
                )
            });
            found.push((name, inside));
        }
    }
    let [d1, d2, d3, l8, l6, l9] = &found[..] else {
        panic!("{found:?}")
    };
    assert_eq!(*d1, ("D1", None));
    let (element, message, text) = d2.1.unwrap();
    assert_eq!(
        (element, message),
        ("failure", "got <\\u{1b}[0m> | \"x\" &\nmore")
    );
    assert!(
        text.contains("Payload bytes arrive unchanged") && text.contains("repeat: suite --rule D2"),
        "{text}"
    );
    assert_eq!((d3.1.unwrap().0, d3.1.unwrap().1), ("error", "no server"));
    assert_eq!(
        *l8,
        (
            "L8",
            Some(("skipped", "refused as declared: it says so", ""))
        )
    );
    assert_eq!(
        *l6,
        (
            "L6",
            Some(("skipped", "not applicable: it has no such fault", ""))
        )
    );
    assert_eq!(
        *l9,
        ("L9", Some(("skipped", "known failure: issue 12", "")))
    );
}

#[test]
fn what_is_only_a_should_fails_no_reader_of_junit() {
    let mut report = run(1, [fail("x"), Verdict::Pass]);
    report.rules[0].level = Level::Should;
    assert!(report.is_certified());
    let junit = report.to_junit();
    assert!(junit.contains("failures=\"0\""), "{junit}");
    assert!(
        junit.contains("<skipped message=\"SHOULD, fail: x\"/>"),
        "{junit}"
    );
}

#[test]
fn every_row_of_a_markdown_table_has_its_cells() {
    let markdown = each_verdict().to_markdown();
    assert!(
        markdown.contains("\n## L. Loss in an outage\n\n| Rule | Verdict |"),
        "{markdown}"
    );
    let mut rows = 0;
    for row in markdown.lines().filter(|line| line.starts_with('|')) {
        let cells = row.replace("\\|", "").matches('|').count() - 1;
        assert!(cells == 2 || cells == 4, "{row}");
        rows += usize::from(cells == 4);
    }
    // Two tables with two lines of head each.
    assert_eq!(rows, 6 + 2 * 2);
    let fail = format!(
        "| D2 | **FAIL** | {} | got \\<\\\\u{{1b}}\\[0m\\> \\| \"x\" & more<br>`suite --rule D2` |",
        markdown::escaped(title("D2"))
    );
    assert!(markdown.contains(&fail), "{fail}\n{markdown}");
}

#[test]
fn what_was_not_tried_is_told_once_with_its_reason() {
    let mut report = run(1, [unclear("x"), unclear("not tried: the broker is away")]);
    report.rules[1].tried = false;
    report.broker_lost = Some("it died".to_owned());
    let report = report.reproduced_by("all".to_owned(), |_| "one".to_owned());
    assert_eq!(report.rules[1].reproduce, None);
    let end = text::Paint::PLAIN.end(&report);
    assert!(end.contains("\n1 not tried: it died\n"), "{end}");
    assert!(!end.contains("INCONCLUSIVE D2"), "{end}");
}
