//! Bars as SVG, which pages show as they are.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::report::{Report, TARGETS};

const WIDTH: f64 = 720.0;
const LABELS: f64 = 300.0;
const NUMBERS: f64 = 70.0;
const BAR: f64 = 22.0;

struct Bar {
    label: String,
    value: f64,
    text: String,
    color: &'static str,
}

/// Raw operations are grey, those of the daemon blue.
const RAW: &str = "#8a8f98";
const OURS: &str = "#2f6fde";

/// Writes the plots of `docs/performance.md`, of the last round.
pub fn write(report: &Report, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let Some(round) = report.rounds.last() else { return Ok(()) };
    let is_raw = |name: &str| {
        ["echo", "kv.put", "diy", "replicated raw", "publish"]
            .iter()
            .any(|raw| name.starts_with(raw))
    };
    let color = |name: &str| if is_raw(name) { RAW } else { OURS };
    let rates = round.rows.iter().map(|(name, row)| Bar {
        label: (*name).to_owned(),
        value: row.per_second,
        text: format!("{:.0} k/s", row.per_second / 1e3),
        color: color(name),
    });
    let writes = ["kv.put", "connect", "diy", "diy on redis", "replicated raw", "batch"];
    let rates = rates.filter(|bar| writes.contains(&bar.label.as_str())).collect::<Vec<_>>();
    fs::write(folder.join("writes.svg"), bars("Writes per second", &rates))?;
    let cpu = round.rows.iter().filter(|(name, _)| writes.contains(name)).map(|(name, row)| {
        let all = row.cpu_us.client + row.cpu_us.daemon + row.cpu_us.nats;
        let (label, color) = ((*name).to_owned(), color(name));
        Bar { label, value: all, text: format!("{all:.0} µs"), color }
    });
    let title = "Processor time per write, all processes together";
    fs::write(folder.join("cpu.svg"), bars(title, &cpu.collect::<Vec<_>>()))?;
    let met = TARGETS.iter().filter_map(|target| {
        let value = *target.values(report).last()?;
        let color = if target.is_met(value) { OURS } else { RAW };
        Some(Bar { label: target.name.to_owned(), value, text: format!("{value:.2}"), color })
    });
    let met = met.filter(|bar| bar.label.contains(" / ")).collect::<Vec<_>>();
    fs::write(folder.join("ratios.svg"), bars("Ratios to raw operations", &met))?;
    Ok(())
}

fn bars(title: &str, bars: &[Bar]) -> String {
    let most = bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
    let height = 40.0 + BAR * bars.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\" role=\"img\" aria-label=\"{title}\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"8\" y=\"20\" font-size=\"14\" font-weight=\"bold\">{title}</text>\n"
    );
    for (n, Bar { label, value, text, color }) in bars.iter().enumerate() {
        let y = 34.0 + BAR * n as f64;
        let width = (WIDTH - LABELS - NUMBERS) * value / most;
        let (middle, end) = (y + 14.0, LABELS + width + 6.0);
        // Writing to a string does not fail.
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{label}</text>\
             <rect x=\"{LABELS}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{color}\"/>\
             <text x=\"{end:.1}\" y=\"{middle}\">{text}</text>",
            LABELS - 8.0,
            BAR - 4.0,
        );
    }
    svg + "</svg>\n"
}
