//! Data on standard output, in the form that was asked for. Notes go to standard error.

mod columns;
mod table;
mod text;

use std::io::{self, IsTerminal, Write};

use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::failure::Failure;
pub use columns::{Kind, mark};
pub use table::{Paint, Table, Tone};
use text::escaped;
pub use text::{Times, parse as parse_time, printable};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
    Jsonl,
    Csv,
    Ids,
}

// A comment, as clap would show a doc comment as help.
#[derive(Args, Clone)]
#[command(next_help_heading = "Output")]
pub struct OutputFlags {
    /// The form of the data [default: table on a terminal, jsonl in a pipe]
    #[arg(short, long, value_name = "FORMAT", global = true)]
    pub output: Option<Format>,
    /// The same as -o json
    #[arg(short, long, conflicts_with = "output", global = true)]
    pub json: bool,
    /// The reply as it came
    #[arg(long, conflicts_with_all = ["output", "json"], global = true)]
    pub raw: bool,
    /// Times in UTC
    #[arg(long, global = true)]
    pub utc: bool,
    /// Colour of the headings of tables
    #[arg(long, env = "NATS_COLOR", value_name = "SCHEME", global = true)]
    pub colors: Option<Scheme>,
}

/// The schemes of the `nats` command. The first two choose lines around its tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scheme {
    Rounded,
    Double,
    Yellow,
    Blue,
    Cyan,
    Green,
    Magenta,
    Red,
}

/// The form and the place of written data.
#[derive(Clone, Copy)]
pub struct Output {
    pub format: Format,
    raw: bool,
    terminal: bool,
    pub paint: Paint,
    utc: bool,
}

impl Output {
    /// The scheme of the context counts where the flags name none.
    pub fn new(flags: &OutputFlags, context: Option<Scheme>) -> Self {
        let terminal = io::stdout().is_terminal();
        let otherwise = if terminal { Format::Table } else { Format::Jsonl };
        let format = if flags.json { Format::Json } else { flags.output.unwrap_or(otherwise) };
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let paint = Paint::new(terminal && !set("NO_COLOR") && !dumb, flags.colors.or(context));
        Self { format, raw: flags.raw, terminal, paint, utc: flags.utc }
    }

    /// Returns whether a part of the records may be written before the others are known.
    pub fn is_line_by_line(&self) -> bool {
        matches!(self.format, Format::Jsonl | Format::Ids)
    }

    pub fn times(&self) -> Times {
        Times { now: Utc::now(), utc: self.utc }
    }

    /// The time of day, for lists of changes.
    pub fn clock(&self, at: DateTime<Utc>) -> String {
        self.times().clock(at)
    }

    /// The reply itself, if that was asked for.
    pub fn raw(&self, reply: &Value) -> io::Result<bool> {
        if self.raw {
            line(&self.json(&reply.to_string()))?;
        }
        Ok(self.raw)
    }

    /// Refuses `--raw` where there is no single reply.
    pub fn refuse_raw(&self) -> Result<(), Failure> {
        if self.raw {
            return Err(Failure::usage(
                "--raw prints one reply as it came; this has none or several",
            ));
        }
        Ok(())
    }

    /// JSON for a terminal: what it would obey is escaped, which changes no value.
    fn json(&self, text: &str) -> String {
        if self.terminal { escaped(text) } else { text.to_owned() }
    }

    /// Text for a terminal, without what it would obey.
    fn text(&self, text: &str) -> String {
        if self.terminal { printable(text) } else { text.to_owned() }
    }

    fn write_csv(&self, kind: Kind, records: &[Value]) -> io::Result<()> {
        let mut writer = csv::Writer::from_writer(io::stdout().lock());
        let fields = kind.all_fields(records);
        let cells = |record: &Value| -> Vec<String> {
            fields.iter().map(|field| self.text(&csv_text(&record[field.as_str()]))).collect()
        };
        writer.write_record(fields.iter().map(|field| self.text(field)))?;
        for record in records {
            writer.write_record(cells(record))?;
        }
        writer.flush()
    }

    /// Several records.
    pub fn records(&self, kind: Kind, records: &[Value]) -> Result<(), Failure> {
        match self.format {
            Format::Json => line(&self.json(&pretty(&Value::Array(records.to_vec()))))?,
            Format::Jsonl => {
                let mut stdout = io::stdout().lock();
                for record in records {
                    writeln!(stdout, "{}", self.json(&record.to_string()))?;
                }
            }
            Format::Ids => {
                let mut stdout = io::stdout().lock();
                for record in records {
                    writeln!(stdout, "{}", self.text(&kind.id(record)))?;
                }
            }
            Format::Csv => self.write_csv(kind, records)?,
            Format::Table => {
                let table = kind.table(records, &self.times(), &self.paint);
                line(&table.render(self.width(), &self.paint))?;
            }
        }
        Ok(())
    }

    /// One record.
    pub fn record(&self, kind: Kind, record: &Value) -> Result<(), Failure> {
        match self.format {
            Format::Json => line(&self.json(&pretty(record)))?,
            Format::Jsonl => line(&self.json(&record.to_string()))?,
            Format::Table => {
                let table = columns::one(kind, record, &self.times());
                line(&table.render(self.width(), &self.paint))?;
            }
            Format::Csv | Format::Ids => self.records(kind, std::slice::from_ref(record))?,
        }
        Ok(())
    }

    /// A result that is no record: as JSON, or as text for people and simple scripts.
    pub fn result(&self, json: &Value, text: &str) -> io::Result<()> {
        match self.format {
            Format::Json => line(&self.json(&pretty(json))),
            Format::Jsonl => line(&self.json(&json.to_string())),
            _ => line(&self.text(text)),
        }
    }

    /// A table that is made by hand.
    pub fn table(&self, table: &Table) -> io::Result<()> {
        line(&table.render(self.width(), &self.paint))
    }

    /// The width of the terminal, or of `COLUMNS`; 80 where neither is known.
    pub fn width(&self) -> usize {
        let named = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        let terminal = || crossterm::terminal::size().ok().map(|(columns, _)| columns.into());
        let asked = named.or_else(|| terminal().filter(|_| self.terminal));
        asked.filter(|width| *width >= 20).unwrap_or(80)
    }
}

pub fn line(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}

/// Something to know that is no data. Nothing can be done where it cannot be written.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{}", printable(text));
}

fn pretty(value: &Value) -> String {
    format!("{value:#}")
}

fn csv_text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
