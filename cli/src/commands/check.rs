//! `check`: whether presence serves, for monitoring systems. Exit codes are those of Nagios.

use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::daemons;
use crate::failure::Failure;
use crate::output::{line, printable};
use crate::session::{Flags, Session};

#[derive(Clone, Copy, ValueEnum)]
pub enum Format {
    Nagios,
    Json,
    Prometheus,
    Text,
}

#[derive(Args)]
pub struct Check {
    /// The form of the result
    #[arg(long, value_name = "FORMAT", default_value = "nagios")]
    format: Format,
    /// Fewer daemons are a warning; none are critical
    #[arg(long, value_name = "NUMBER", default_value_t = 2)]
    daemons: u64,
    /// A replica that is so far behind the bucket is a warning
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "1s",
        value_parser = humantime::parse_duration
    )]
    lag_warn: Duration,
    /// A replica that is so far behind the bucket is critical
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "5s",
        value_parser = humantime::parse_duration
    )]
    lag_critical: Duration,
    /// A fresh query that takes so long is a warning
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "500ms",
        value_parser = humantime::parse_duration
    )]
    query_warn: Duration,
    /// A fresh query that takes so long is critical
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "2s",
        value_parser = humantime::parse_duration
    )]
    query_critical: Duration,
}

/// The worst of several counts; `Unknown` only where nothing is known to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Ok,
    Unknown,
    Warning,
    Critical,
}

impl Level {
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warning => 1,
            Self::Critical => 2,
            Self::Unknown => 3,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Unknown => "unknown",
        }
    }
}

/// A number, with the thresholds that Nagios shows beside it.
struct Measure {
    name: &'static str,
    help: &'static str,
    value: f64,
    unit: &'static str,
    thresholds: String,
}

/// The findings of a check.
#[derive(Default)]
pub struct Findings {
    pub problems: Vec<(Level, String)>,
    measures: Vec<Measure>,
}

impl Findings {
    fn add(&mut self, level: Level, text: String) {
        self.problems.push((level, text));
    }

    /// Adds a failure with its advice, once.
    fn fail(&mut self, failure: Failure, session: &Session) {
        let text = failure.with_advice(&session.events);
        if self.problems.iter().all(|(_, known)| *known != text) {
            self.add(level_of(&failure), text);
        }
    }

    pub fn level(&self) -> Level {
        self.problems.iter().map(|(level, _)| *level).max().unwrap_or(Level::Ok)
    }

    fn text(&self) -> String {
        let texts: Vec<&str> = self.problems.iter().map(|(_, text)| text.as_str()).collect();
        if texts.is_empty() { "all is well".to_owned() } else { texts.join("; ") }
    }

    fn measure(&mut self, name: &'static str, help: &'static str, value: f64, unit: &'static str) {
        self.measures.push(Measure { name, help, value, unit, thresholds: String::new() });
    }

    fn within(&mut self, thresholds: String) {
        if let Some(measure) = self.measures.last_mut() {
            measure.thresholds = thresholds;
        }
    }
}

impl Check {
    /// The check with its defaults, for others who show what is wrong.
    pub async fn findings(&self, session: &Session) -> Findings {
        let mut findings = Findings::default();
        match daemons::find(session).await {
            Ok(daemons) => self.look_at(&daemons, &mut findings),
            Err(failure) => findings.fail(session.explain(failure), session),
        }
        if findings.level() < Level::Critical {
            self.query(session, &mut findings).await;
        }
        findings
    }

    pub async fn run(self, flags: &Flags) -> Result<(), Failure> {
        let findings = match Session::open(flags).await {
            Ok(session) => self.findings(&session).await,
            Err(failure) => {
                let mut findings = Findings::default();
                findings.add(level_of(&failure), failure.to_string());
                findings
            }
        };
        line(&printable(&match self.format {
            Format::Nagios => nagios(&findings),
            Format::Json => json(&findings),
            Format::Prometheus => prometheus(&findings),
            Format::Text => text(&findings),
        }))?;
        match findings.level().code() {
            0 => Ok(()),
            code => Err(Failure::Check(code)),
        }
    }

    fn look_at(&self, daemons: &[Value], findings: &mut Findings) {
        let count = daemons.len() as u64;
        findings.measure("daemons", "Daemons that answer", count as f64, "");
        findings.within(format!("{}:;1:", self.daemons));
        if count == 0 {
            return findings.add(Level::Critical, "no daemon serves".to_owned());
        }
        if count < self.daemons {
            let text = format!("{count} of {} daemons serve", self.daemons);
            findings.add(Level::Warning, text);
        }
        let known = daemons.iter().filter_map(|daemon| daemon["daemons"].as_u64()).max();
        if known.is_some_and(|known| known > count) {
            let text = format!("{count} daemons answer, of {} that are alive", known.unwrap_or(0));
            findings.add(Level::Warning, text);
        }
        let deaf = daemons.iter().filter(|daemon| daemon["deaf"] == true).count() as u64;
        findings.measure("deaf", "Daemons that end no lease", deaf as f64, "");
        findings.within(format!("0;{}", count - 1));
        if deaf == count {
            findings.add(Level::Critical, "all daemons are deaf: nobody goes offline".to_owned());
        } else if deaf > 0 {
            findings.add(Level::Warning, format!("{deaf} of {count} daemons are deaf"));
        }
        let lag = daemons.iter().filter_map(|daemon| daemon["lag_ms"].as_u64()).max();
        let lag = Duration::from_millis(lag.unwrap_or(0));
        findings.measure("lag", "How far the slowest replica is behind", lag.as_secs_f64(), "s");
        self.slow(findings, "a replica is behind by", lag, self.lag_warn, self.lag_critical);
        for (state, name, help) in
            [("online", "online", "Users online"), ("known", "users", "Users known")]
        {
            let counts = daemons.iter().filter_map(|each| each["users"][state].as_f64());
            if let Some(count) = counts.reduce(f64::max) {
                findings.measure(name, help, count, "");
            }
        }
    }

    /// Asks as a user of the service would, for what is stored now.
    async fn query(&self, session: &Session, findings: &mut Findings) {
        let started = Instant::now();
        let body = json!({"limit": 1, "presence": true});
        let answer = match session.door() {
            Ok(door) => door.request("query_users", &body).await.map_err(Failure::from),
            Err(failure) => Err(failure),
        };
        if let Err(failure) = answer {
            return findings.fail(session.explain(failure), session);
        }
        let took = started.elapsed();
        findings.measure("query", "How long a fresh query takes", took.as_secs_f64(), "s");
        self.slow(findings, "a query takes", took, self.query_warn, self.query_critical);
    }

    fn slow(
        &self,
        findings: &mut Findings,
        what: &str,
        measured: Duration,
        warning: Duration,
        critical: Duration,
    ) {
        findings.within(format!("{};{}", warning.as_secs_f64(), critical.as_secs_f64()));
        let level = match measured {
            measured if measured >= critical => Level::Critical,
            measured if measured >= warning => Level::Warning,
            _ => return,
        };
        findings.add(level, format!("{what} {:.3} s", measured.as_secs_f64()));
    }
}

impl Default for Check {
    fn default() -> Self {
        Self {
            format: Format::Text,
            daemons: 2,
            lag_warn: Duration::from_secs(1),
            lag_critical: Duration::from_secs(5),
            query_warn: Duration::from_millis(500),
            query_critical: Duration::from_secs(2),
        }
    }
}

/// A check that may not look knows nothing; one that finds nobody does.
fn level_of(failure: &Failure) -> Level {
    match failure.exit_code() {
        crate::failure::code::UNREACHABLE => Level::Critical,
        _ => Level::Unknown,
    }
}

fn nagios(findings: &Findings) -> String {
    let measures: Vec<String> = findings
        .measures
        .iter()
        .map(|each| format!("{}={}{};{}", each.name, each.value, each.unit, each.thresholds))
        .map(|shown| shown.trim_end_matches(';').to_owned())
        .collect();
    let level = findings.level().name().to_uppercase();
    let data =
        if measures.is_empty() { String::new() } else { format!(" | {}", measures.join(" ")) };
    format!("PRESENCE {level} - {}{data}", findings.text().replace('|', "/"))
}

fn json(findings: &Findings) -> String {
    let problems: Vec<Value> = findings
        .problems
        .iter()
        .map(|(level, text)| json!({"status": level.name(), "problem": text}))
        .collect();
    let measures: serde_json::Map<_, _> =
        findings.measures.iter().map(|each| (each.name.to_owned(), each.value.into())).collect();
    let level = findings.level();
    let status = json!({
        "status": level.name(), "code": level.code(), "problems": problems, "measures": measures,
    });
    format!("{status:#}")
}

/// For the textfile collector: state, and each number.
fn prometheus(findings: &Findings) -> String {
    let mut lines = Vec::new();
    let mut metric = |name: &str, help: &str, value: f64| {
        lines.push(format!("# HELP presence_check_{name} {help}."));
        lines.push(format!("# TYPE presence_check_{name} gauge"));
        lines.push(format!("presence_check_{name} {value}"));
    };
    let status = "0 ok, 1 warning, 2 critical, 3 unknown";
    metric("status", status, findings.level().code().into());
    for each in &findings.measures {
        let unit = if each.unit == "s" { "_seconds" } else { "" };
        metric(&format!("{}{unit}", each.name), each.help, each.value);
    }
    lines.join("\n")
}

fn text(findings: &Findings) -> String {
    let mut lines = vec![format!("{}: {}", findings.level().name(), findings.text())];
    for each in &findings.measures {
        lines.push(format!("  {:<40} {}{}", each.help, each.value, each.unit));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(daemons: &Value) -> Findings {
        let mut findings = Findings::default();
        Check::default().look_at(daemons.as_array().unwrap(), &mut findings);
        findings
    }

    #[test]
    fn each_fault_of_daemons_has_its_level() {
        let daemon = |deaf: bool, lag_ms: u64| {
            let users = json!({"online": 3, "known": 5});
            json!({"deaf": deaf, "lag_ms": lag_ms, "daemons": 2, "users": users})
        };
        let level = |daemons: Value| findings(&daemons).level();
        assert_eq!(level(json!([daemon(false, 3), daemon(false, 999)])), Level::Ok);
        assert_eq!(level(json!([])), Level::Critical);
        assert_eq!(level(json!([daemon(false, 3)])), Level::Warning);
        assert_eq!(level(json!([daemon(true, 3), daemon(false, 3)])), Level::Warning);
        assert_eq!(level(json!([daemon(true, 3), daemon(true, 3)])), Level::Critical);
        assert_eq!(level(json!([daemon(false, 3), daemon(false, 1000)])), Level::Warning);
        assert_eq!(level(json!([daemon(false, 3), daemon(false, 5000)])), Level::Critical);
    }

    #[test]
    fn nagios_reads_the_numbers_with_their_thresholds() {
        let daemon = json!({"deaf": false, "lag_ms": 3, "daemons": 1});
        let line = nagios(&findings(&json!([daemon])));
        let expected = "PRESENCE WARNING - 1 of 2 daemons serve | daemons=1;2:;1: deaf=0;0;0 \
                        lag=0.003s;1;5";
        assert_eq!(line, expected);
    }
}
