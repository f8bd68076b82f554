//! `top`: a live picture of the whole, on the full screen.

use std::io::IsTerminal;
use std::time::Duration;

use chrono::Utc;
use clap::Args;
use crossterm::event::{Event, KeyCode, KeyModifiers};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Sparkline, Table, Wrap};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::interval;

use crate::daemons;
use crate::failure::Failure;
use crate::live::{Live, Picture};
use crate::output::{Output, Tone, mark, printable};
use crate::session::Session;

const FRAME: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(200);

#[derive(Args)]
pub struct Top {}

impl Top {
    pub async fn run(self, session: &Session, output: &Output) -> Result<(), Failure> {
        if !std::io::stdout().is_terminal() {
            return Err(Failure::usage("top needs a terminal: `presencectl watch` is for pipes"));
        }
        // What cannot begin says so as other commands do.
        if daemons::find(session).await?.is_empty() {
            return Err(daemons::none(session));
        }
        let live = Live::new();
        let mut screen = FullScreen(ratatui::try_init()?);
        tokio::select! {
            ended = live.run(session) => ended,
            drawn = draw(&mut screen.0, &live, output) => drawn,
        }
    }
}

/// The full screen; however the command ends, the terminal is as before.
struct FullScreen(ratatui::DefaultTerminal);

impl Drop for FullScreen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

async fn draw(
    terminal: &mut ratatui::DefaultTerminal,
    live: &Live,
    output: &Output,
) -> Result<(), Failure> {
    let mut keys = keys();
    let mut frames = interval(FRAME);
    loop {
        let picture = live.picture();
        terminal.draw(|frame| show(frame, &picture, output))?;
        tokio::select! {
            _ = frames.tick() => {}
            key = keys.recv() => match key {
                Some(Key::Redraw) => {}
                Some(Key::Interrupt) => return Err(Failure::Interrupted),
                Some(Key::Quit) | None => return Ok(()),
            },
        }
    }
}

enum Key {
    Redraw,
    Quit,
    Interrupt,
}

/// Keys, from a thread that ends with its reader.
fn keys() -> mpsc::Receiver<Key> {
    let (sender, receiver) = mpsc::channel(8);
    std::thread::spawn(move || {
        while !sender.is_closed() {
            let Ok(true) = crossterm::event::poll(POLL) else { continue };
            let key = match crossterm::event::read() {
                Ok(Event::Key(key)) => {
                    let interrupt = key.modifiers.contains(KeyModifiers::CONTROL)
                        && key.code == KeyCode::Char('c');
                    match key.code {
                        KeyCode::Char('q') | KeyCode::Esc => Key::Quit,
                        _ if interrupt => Key::Interrupt,
                        _ => continue,
                    }
                }
                Ok(Event::Resize(..)) => Key::Redraw,
                _ => continue,
            };
            if sender.blocking_send(key).is_err() {
                return;
            }
        }
    });
    receiver
}

fn show(frame: &mut Frame, picture: &Picture, output: &Output) {
    let rows = u16::try_from(picture.daemons.len()).unwrap_or(u16::MAX).clamp(1, 8) + 3;
    let problem = picture.problem.as_deref().map(printable);
    let foot_lines = if problem.is_some() { 3 } else { 1 };
    let areas = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(8),
        Constraint::Length(rows),
        Constraint::Min(3),
        Constraint::Length(foot_lines),
    ]);
    let [head, chart, below, changes, foot] = areas.areas(frame.area());
    let known = |number: Option<u64>| number.map_or("?".to_owned(), |number| number.to_string());
    let text = format!(
        "presence: {} online of {} · {} channels · {:.1} changes/s",
        known(picture.online_now),
        known(picture.known),
        known(picture.channels),
        picture.rate()
    );
    frame.render_widget(Paragraph::new(text).bold(), head);
    show_online(frame, chart, picture);
    show_daemons(frame, below, picture, output);
    show_changes(frame, changes, picture, output);
    let foot_line = match problem {
        Some(problem) => coloured(Line::from(problem), Tone::Bad, output),
        None => Line::from("q quits"),
    };
    frame.render_widget(Paragraph::new(foot_line).wrap(Wrap { trim: true }), foot);
}

fn block(title: &str) -> Block<'_> {
    Block::new().borders(Borders::TOP).title(title)
}

/// One column for each point, the newest at the right.
fn show_online(frame: &mut Frame, area: Rect, picture: &Picture) {
    let width = usize::from(area.width).max(1);
    let skipped = picture.online.len().saturating_sub(width);
    let points = picture.online.iter().skip(skipped).map(|point| point.online);
    let points: Vec<u64> = points.collect();
    let (low, high) = (points.iter().min(), points.iter().max());
    let title = match (low, high) {
        (Some(low), Some(high)) => format!("online, {low} to {high} "),
        _ => "online ".to_owned(),
    };
    let chart = Sparkline::default().block(block(&title)).data(&points);
    frame.render_widget(chart, area);
}

fn show_daemons(frame: &mut Frame, area: Rect, picture: &Picture, output: &Output) {
    let text = |value: &Value| printable(value.as_str().unwrap_or_default());
    let rows = picture.daemons.iter().map(|daemon| {
        let (state, tone) = match daemon["deaf"].as_bool() {
            Some(true) => ("deaf", Tone::Warning),
            _ => ("hearing", Tone::Good),
        };
        let cells = [
            text(&daemon["id"]),
            text(&daemon["version"]),
            text(&daemon["host"]),
            output.times().ago(&daemon["started"]),
            state.to_owned(),
            format!("{} ms", daemon["lag_ms"]),
        ];
        Row::new(cells).style(style(tone, output))
    });
    let widths = [
        Constraint::Length(17),
        Constraint::Length(9),
        Constraint::Fill(1),
        Constraint::Length(15),
        Constraint::Length(8),
        Constraint::Length(8),
    ];
    let head = Row::new(["DAEMON", "VERSION", "HOST", "STARTED", "STATE", "LAG"]).bold();
    frame.render_widget(Table::new(rows, widths).header(head).block(block("daemons ")), area);
}

fn show_changes(frame: &mut Frame, area: Rect, picture: &Picture, output: &Output) {
    let lines = picture.changes.iter().take(area.height.into()).map(|change| {
        let user = &change["user"];
        let at = crate::output::parse_time(&change["created_at"]).unwrap_or_else(Utc::now);
        let (mark, tone) = mark(user);
        let mark = Span::styled(mark, tone.map_or_else(Style::new, |tone| style(tone, output)));
        let id = printable(user["id"].as_str().unwrap_or_default());
        let status = printable(user["status"].as_str().unwrap_or_default()).replace('\n', " ");
        let availability = user["availability"].as_str().unwrap_or_default();
        let text = format!(" {id}  {availability}  {status}");
        Line::from(vec![Span::from(format!("{}  ", output.clock(at))), mark, Span::from(text)])
    });
    let changes = Paragraph::new(lines.collect::<Vec<_>>()).block(block("changes "));
    frame.render_widget(changes, area);
}

fn style(tone: Tone, output: &Output) -> Style {
    if !output.paint.is_on() {
        return Style::new();
    }
    match tone {
        Tone::Good => Style::new().fg(Color::Green),
        Tone::Warning => Style::new().fg(Color::Yellow),
        Tone::Bad => Style::new().fg(Color::Red),
        Tone::Faint => Style::new().dim(),
        Tone::Heading => Style::new().bold(),
    }
}

fn coloured<'a>(line: Line<'a>, tone: Tone, output: &Output) -> Line<'a> {
    line.style(style(tone, output))
}
