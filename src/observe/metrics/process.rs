//! Metrics of the process itself, under the names that all Prometheus clients use.

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use rustix::process::{Resource, getrlimit};

use super::sheet::{Sheet, counted_seconds};

/// Collector of the process's metrics, which are read at each scrape.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut sheet = Sheet(encoder);
        let Ok(me) = procfs::process::Process::myself() else { return Ok(()) };
        if let Ok(stat) = me.stat() {
            let ticks = procfs::ticks_per_second() as f64;
            let page = procfs::page_size() as f64;
            let help = "User and system time";
            counted_seconds(
                &mut sheet,
                "process_cpu_seconds",
                help,
                (stat.utime + stat.stime) as f64 / ticks,
            )?;
            sheet.level("process_resident_memory_bytes", "Resident memory", stat.rss as f64 * page)?;
            sheet.level("process_virtual_memory_bytes", "Virtual memory", stat.vsize as f64)?;
            sheet.level("process_threads", "Threads", stat.num_threads as f64)?;
            if let Ok(boot) = procfs::boot_time_secs() {
                let start = boot as f64 + stat.starttime as f64 / ticks;
                sheet.level(
                    "process_start_time_seconds",
                    "When it was started, in seconds since 1970",
                    start,
                )?;
            }
        }
        if let Ok(open) = me.fd_count() {
            sheet.level("process_open_fds", "Open descriptors", open as f64)?;
        }
        let most = getrlimit(Resource::Nofile).current.map_or(f64::INFINITY, |most| most as f64);
        sheet.level("process_max_fds", "Descriptors that may be open", most)
    }
}
