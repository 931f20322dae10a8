//! Line charts on logarithmic axes: [`Chart`], and [`page`], which puts several into one file.

use std::fmt::{self, Write};

use super::scale::{LogScale, short};

/// The size of one chart in the file.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 380.0;

/// The room for lines: the rest is for titles, ticks and, on the right, names.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 590.0;
const TOP: f64 = 58.0;
const BOTTOM: f64 = 322.0;

/// Names at the ends of the lines are at least this far apart.
const LINE_HEIGHT: f64 = 16.0;

/// Colours that are told apart also by those who see few, on white and on black.
const STYLE: &str = "\
svg{font:13px system-ui,-apple-system,'Segoe UI',sans-serif}\
.ground{fill:#fff}.ink{fill:#1f2328}.soft{fill:#59636e}.grid{stroke:#d9dee3}\
.line{fill:none;stroke-width:1.8}.ours{stroke-width:3.2}.bold{font-weight:600}.title{font-size:15px;font-weight:600}\
.l0{stroke:#0b5cad}.f0{fill:#0b5cad}.l1{stroke:#b35900}.f1{fill:#b35900}.l2{stroke:#12805c}.f2{fill:#12805c}\
.l3{stroke:#a8347b}.f3{fill:#a8347b}.l4{stroke:#6e7781}.f4{fill:#6e7781}.l5{stroke:#7a5cc4}.f5{fill:#7a5cc4}\
.l6{stroke:#1391a8}.f6{fill:#1391a8}\
@media (prefers-color-scheme:dark){\
.ground{fill:#0d1117}.ink{fill:#e6edf3}.soft{fill:#9aa4af}.grid{stroke:#2b323b}\
.l0{stroke:#6cb2ff}.f0{fill:#6cb2ff}.l1{stroke:#f0a35e}.f1{fill:#f0a35e}.l2{stroke:#4cc79b}.f2{fill:#4cc79b}\
.l3{stroke:#ee8fc6}.f3{fill:#ee8fc6}.l4{stroke:#a5b0bb}.f4{fill:#a5b0bb}.l5{stroke:#b8a2f2}.f5{fill:#b8a2f2}\
.l6{stroke:#5fd0e4}.f6{fill:#5fd0e4}}";

/// How many colours there are.
const COLOURS: usize = 7;

/// A line.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name, written at its end.
    pub name: String,
    /// The number of its colour. The same contender has the same one in every chart.
    pub colour: usize,
    /// Whether it is drawn thick.
    pub is_ours: bool,
    /// Its points, from left to right; both values positive.
    pub points: Vec<(f64, f64)>,
}

/// A chart of lines.
#[derive(Clone, Debug)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// What the vertical axis is, with its unit, and what is better.
    pub y_label: String,
    /// What the horizontal axis is.
    pub x_label: String,
    /// The places with a name on the horizontal axis, which is logarithmic, too.
    pub x_ticks: Vec<(f64, String)>,
    /// The lines.
    pub series: Vec<Series>,
}

/// One file with these charts below each other.
#[must_use]
pub fn page(charts: &[Chart]) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_page(&mut out, charts);
    out
}

fn write_page(out: &mut String, charts: &[Chart]) -> fmt::Result {
    let height = HEIGHT * charts.len() as f64;
    writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">"#
    )?;
    let titles: Vec<&str> = charts.iter().map(|chart| chart.title.as_str()).collect();
    writeln!(out, "<title>{}</title>", escaped(&titles.join("; ")))?;
    writeln!(out, "<style>{STYLE}</style>")?;
    writeln!(
        out,
        r#"<rect class="ground" width="{WIDTH}" height="{height}"/>"#
    )?;
    for (at, chart) in charts.iter().enumerate() {
        writeln!(
            out,
            r#"<g transform="translate(0 {})">"#,
            HEIGHT * at as f64
        )?;
        chart.write(out)?;
        writeln!(out, "</g>")?;
    }
    writeln!(out, "</svg>")
}

impl Chart {
    fn write(&self, out: &mut String) -> fmt::Result {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let y_scale = LogScale::around(points().map(|point| point.1));
        let named = self.x_ticks.iter().map(|tick| tick.0);
        let (low, high) = points()
            .map(|point| point.0)
            .chain(named)
            .fold((f64::MAX, f64::MIN), |(low, high), x| {
                (low.min(x), high.max(x))
            });
        let x = |value: f64| {
            let part = (value / low).ln() / (high / low).ln();
            LEFT + (RIGHT - LEFT) * if part.is_finite() { part } else { 0.5 }
        };
        let y = |value: f64| BOTTOM - (BOTTOM - TOP) * y_scale.at(value);

        text(out, "ink title", 16.0, 24.0, "start", &self.title)?;
        text(out, "soft", 16.0, 44.0, "start", &self.y_label)?;
        for tick in y_scale.ticks() {
            let y = y(tick);
            writeln!(
                out,
                r#"<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1}" y2="{y:.1}"/>"#
            )?;
            text(out, "soft", LEFT - 8.0, y + 4.0, "end", &short(tick))?;
        }
        for (tick, name) in &self.x_ticks {
            let x = x(*tick);
            writeln!(
                out,
                r#"<line class="grid" x1="{x:.1}" x2="{x:.1}" y1="{BOTTOM}" y2="{}"/>"#,
                BOTTOM + 5.0
            )?;
            text(out, "soft", x, BOTTOM + 20.0, "middle", name)?;
        }
        let middle = f64::midpoint(LEFT, RIGHT);
        text(out, "soft", middle, BOTTOM + 42.0, "middle", &self.x_label)?;

        // Ours last, so that they lie above the others.
        let mut series: Vec<&Series> = self.series.iter().collect();
        series.sort_by_key(|series| series.is_ours);
        for series in &series {
            let colour = series.colour % COLOURS;
            let ours = if series.is_ours { " ours" } else { "" };
            let places: Vec<String> = series
                .points
                .iter()
                .map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1)))
                .collect();
            writeln!(
                out,
                r#"<polyline class="line l{colour}{ours}" points="{}"/>"#,
                places.join(" ")
            )?;
            for point in &series.points {
                let radius = if series.is_ours { 4.0 } else { 3.0 };
                writeln!(
                    out,
                    r#"<circle class="f{colour}" cx="{:.1}" cy="{:.1}" r="{radius}"><title>{}: {}</title></circle>"#,
                    x(point.0),
                    y(point.1),
                    escaped(&series.name),
                    short(point.1)
                )?;
            }
        }
        let ends = series
            .iter()
            .filter_map(|series| Some((*series, y(series.points.last()?.1))));
        for (series, y) in apart(ends.collect()) {
            let bold = if series.is_ours { " bold" } else { "" };
            let class = format!("f{}{bold}", series.colour % COLOURS);
            text(out, &class, RIGHT + 12.0, y + 4.0, "start", &series.name)?;
        }
        Ok(())
    }
}

/// Moves labels so that none covers another, as little as can be, from the top down and then up from the bottom.
fn apart(mut labels: Vec<(&Series, f64)>) -> Vec<(&Series, f64)> {
    labels.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut free = TOP;
    for label in &mut labels {
        label.1 = label.1.max(free);
        free = label.1 + LINE_HEIGHT;
    }
    let mut free = BOTTOM;
    for label in labels.iter_mut().rev() {
        label.1 = label.1.min(free);
        free = label.1 - LINE_HEIGHT;
    }
    labels
}

fn text(out: &mut String, class: &str, x: f64, y: f64, anchor: &str, text: &str) -> fmt::Result {
    writeln!(
        out,
        r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#,
        escaped(text)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, last: f64) -> Series {
        Series {
            name: name.to_owned(),
            colour: 0,
            is_ours: false,
            points: vec![(1.0, 10.0), (10.0, last)],
        }
    }

    #[test]
    fn names_at_the_ends_never_cover_each_other() {
        let all: Vec<Series> = (0..8).map(|_| series("a", 10.0)).collect();
        let labels = all.iter().map(|series| (series, BOTTOM)).collect();
        let placed = apart(labels);
        for pair in placed.windows(2) {
            assert!(pair[1].1 - pair[0].1 >= LINE_HEIGHT - 1e-9);
        }
        assert!(placed.iter().all(|label| label.1 <= BOTTOM));
    }

    #[test]
    fn a_page_is_one_svg_with_every_name_escaped() {
        let chart = Chart {
            title: "a < b".to_owned(),
            y_label: "us".to_owned(),
            x_label: "n".to_owned(),
            x_ticks: vec![(1.0, "1".to_owned()), (10.0, "10".to_owned())],
            series: vec![series("x & y", 20.0)],
        };
        let page = page(&[chart.clone(), chart]);
        assert!(page.starts_with("<svg "));
        assert_eq!(page.matches("<polyline").count(), 2);
        assert!(page.contains("a &lt; b") && page.contains("x &amp; y"));
        assert!(!page.contains("NaN") && !page.contains("inf"));
    }
}
