//! The results of a run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use tokio::time::Instant;

use crate::script::Fault;
use crate::writers::Written;

#[derive(Debug, Default)]
pub struct Report {
    pub users: usize,
    pub phases: Vec<Phase>,
    pub written: Written,
    pub ghosts_at_the_end: usize,
    /// The number of daemons that dropped heartbeats in floods, and knew it.
    pub deafened_by_flood: usize,
}

/// The effects of one fault.
#[derive(Debug)]
pub struct Phase {
    pub fault: Fault,
    took: Duration,
    pub false_offlines: usize,
    /// Offline events of users on the far side of a cut.
    pub far_side: usize,
    /// Users of dead gateways who were never shown offline.
    pub ghosts: usize,
    /// Users of living gateways who stayed offline.
    pub left_behind: usize,
    /// Gateways that were themselves late with their heartbeats, and are not counted.
    pub late_gateways: usize,
    /// From the last heartbeat to offline, and how long that may have taken.
    gone: Vec<(Duration, Duration)>,
}

impl Phase {
    pub fn new(fault: Fault, began: Instant, over: Instant) -> Self {
        Self {
            fault,
            took: over - began,
            false_offlines: 0,
            far_side: 0,
            ghosts: 0,
            left_behind: 0,
            late_gateways: 0,
            gone: Vec::new(),
        }
    }

    pub fn gone(&mut self, after: Duration, bound: Duration) {
        self.gone.push((after, bound));
    }

    pub fn line(&self) -> String {
        let longest = self.gone.iter().max().copied().unwrap_or_default();
        format!(
            "{}: struck for {:.1} s; {} gone after at most {:.2} s (bound {:.2} s), {} false, {} \
             on the far side, {} ghosts, {} left behind, {} gateways late",
            self.fault.name(),
            self.took.as_secs_f64(),
            self.gone.len(),
            longest.0.as_secs_f64(),
            longest.1.as_secs_f64(),
            self.false_offlines,
            self.far_side,
            self.ghosts,
            self.left_behind,
            self.late_gateways
        )
    }
}

impl Report {
    /// The table, in Markdown.
    pub fn table(&self) -> String {
        let mut text = format!(
            "\n{} users. From the last heartbeat of a gateway to offline, in seconds:\n\n\
             | fault | times | false offlines | of the far side | ghosts | left behind | gone | \
             median | p99 | max | bound | beyond |\n\
             | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |\n",
            self.users
        );
        let mut kinds: BTreeMap<Fault, Vec<&Phase>> = BTreeMap::new();
        for phase in &self.phases {
            kinds.entry(phase.fault).or_default().push(phase);
        }
        for (fault, phases) in kinds {
            let sum = |of: fn(&Phase) -> usize| phases.iter().map(|phase| of(phase)).sum::<usize>();
            let mut gone: Vec<_> = phases.iter().flat_map(|phase| &phase.gone).copied().collect();
            gone.sort();
            let at = |part: f64| {
                let index = ((gone.len() as f64 * part) as usize).min(gone.len().saturating_sub(1));
                gone.get(index).map_or(0.0, |(after, _)| after.as_secs_f64())
            };
            let bound = gone.iter().map(|(_, bound)| *bound).max().unwrap_or_default();
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {:.2} | {:.2} | {:.2} | {:.2} | {} |",
                fault.name(),
                phases.len(),
                sum(|phase| phase.false_offlines),
                sum(|phase| phase.far_side),
                sum(|phase| phase.ghosts),
                sum(|phase| phase.left_behind),
                gone.len(),
                at(0.5),
                at(0.99),
                at(1.0),
                bound.as_secs_f64(),
                gone.iter().filter(|(after, bound)| after > bound).count(),
            );
        }
        let Written { acknowledged, lost, unannounced } = self.written;
        let late: usize = self.phases.iter().map(|phase| phase.late_gateways).sum();
        let _ = write!(
            text,
            "\nacknowledged changes {acknowledged}, lost {lost}; newest state not announced \
             {unannounced}; ghosts at the end {}; daemons that dropped heartbeats in floods and \
             knew it {}; gateways not counted since this machine delayed them {late}",
            self.ghosts_at_the_end, self.deafened_by_flood
        );
        text
    }

    /// The promises that were not kept.
    pub fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for phase in &self.phases {
            let beyond = phase.gone.iter().filter(|(after, bound)| after > bound).count();
            if phase.false_offlines + phase.ghosts + phase.left_behind + beyond > 0 {
                broken.push(format!("{}; {beyond} beyond the bound", phase.line()));
            }
        }
        let Written { acknowledged, lost, unannounced } = self.written;
        if lost + unannounced > 0 || acknowledged == 0 || self.ghosts_at_the_end > 0 {
            broken
                .push(format!("{:?}, ghosts at the end {}", self.written, self.ghosts_at_the_end));
        }
        broken
    }
}
