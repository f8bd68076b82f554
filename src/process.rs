//! The operating system's counters of this process, read from `/proc`.

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};

/// One reading. A part that cannot be read is absent.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessUsage {
    pub resident_bytes: Option<u64>,
    /// User and system time.
    pub cpu_seconds: Option<f64>,
    pub open_files: Option<u64>,
}

impl ProcessUsage {
    pub fn read() -> Self {
        Self {
            resident_bytes: resident_pages().map(|pages| pages * page_size() as u64),
            cpu_seconds: cpu_ticks().map(|ticks| ticks as f64 / clock_ticks_per_second() as f64),
            open_files: fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as u64),
        }
    }
}

/// The second number of `/proc/self/statm`.
fn resident_pages() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    statm.split(' ').nth(1)?.parse().ok()
}

/// Fields 14 and 15 of `/proc/self/stat`. The name before them may hold blanks and ends in `)`.
fn cpu_ticks() -> Option<u64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_files_and_processor_time() {
        let usage = ProcessUsage::read();
        assert!(usage.resident_bytes.unwrap() > 1 << 20);
        assert!(usage.open_files.unwrap() > 2);
        assert!(usage.cpu_seconds.unwrap() < 3600.0);
    }
}
