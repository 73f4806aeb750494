//! The use of windows by one key, in this process alone.

use std::sync::Arc;

use smallvec::SmallVec;

use super::charge::{ChargeOf, WindowCharge};
use super::gcra::Window;
use super::open_charges::OpenCharges;

/// The use of all windows by one key.
#[derive(Debug, Default)]
pub(super) struct WindowUses {
    of_windows: SmallVec<[WindowUse; 2]>,
    /// Number of charges that were opened.
    charges: u64,
    /// The fields and arrival times that were kept over a restart of windows that were not used since.
    restored: Vec<(String, u64)>,
}

/// The use of one window by one key: its theoretical arrival time, in nanoseconds of the clock.
#[derive(Debug)]
struct WindowUse {
    window: Arc<Window>,
    arrival: u64,
    /// The charges that may be corrected; `None` if there was none.
    open: Option<Box<OpenCharges>>,
}

impl WindowUses {
    /// Restores the arrival times of windows, by their fields.
    pub(super) fn restored(restored: Vec<(String, u64)>) -> Self {
        WindowUses { restored, ..WindowUses::default() }
    }

    /// Returns the fields of the windows that are kept over a restart, and the time until each is full
    /// again, in nanoseconds.
    pub(super) fn kept(&self, now: u64) -> impl Iterator<Item = (String, u64)> + '_ {
        let used = self.of_windows.iter().filter(|used| used.window.is_kept());
        let used = used.map(|used| (used.window.field(), used.arrival));
        let all = used.chain(self.restored.iter().cloned());
        all.map(move |(field, arrival)| (field, arrival.saturating_sub(now)))
    }

    /// Whether all windows are full.
    pub(super) fn is_unused(&self, now: u64) -> bool {
        self.of_windows.iter().all(|used| used.arrival <= now)
            && self.restored.iter().all(|(_, arrival)| *arrival <= now)
    }

    /// Returns the key's arrival time in a window; `None` if the key has not used the window.
    ///
    /// If a reload has replaced the window by one with another number or burst, the key has used as
    /// much of the new window as of the old one.
    pub(super) fn arrival(&self, window: &Arc<Window>, now: u64) -> Option<u64> {
        if let Some(used) = self.of_windows.iter().find(|used| Arc::ptr_eq(&used.window, window)) {
            return Some(used.arrival);
        }
        if let Some(before) = self.of_windows.iter().find(|used| window.replaces(&used.window)) {
            return Some(window.taken_over(&before.window, before.arrival, now));
        }
        if self.restored.is_empty() {
            return None;
        }
        let field = window.field();
        self.restored.iter().find(|(known, _)| *known == field).map(|(_, arrival)| *arrival)
    }

    /// Stores the key's arrival time in a window. Returns the use of the window.
    fn use_of(&mut self, window: &Arc<Window>, arrival: u64, now: u64) -> Option<&mut WindowUse> {
        let of_windows = &mut self.of_windows;
        if let Some(index) = of_windows.iter().position(|used| Arc::ptr_eq(&used.window, window)) {
            let used = of_windows.get_mut(index)?;
            used.arrival = arrival;
            return Some(used);
        }
        let replaced = of_windows.iter().position(|used| window.replaces(&used.window));
        let replaced = replaced.map(|index| of_windows.swap_remove(index));
        let open = replaced.and_then(|WindowUse { window: before, open, .. }| {
            let moved = |time: u64| window.taken_over(&before, time, now);
            Some(Box::new(open?.moved(moved)))
        });
        if !self.restored.is_empty() {
            let field = window.field();
            self.restored.retain(|(known, arrival)| *known != field && *arrival > now);
        }
        // A window whose arrival time has passed is full, like an unused window, so its use is
        // removed. In this way, the uses of quotas that a reload has removed disappear, too.
        of_windows.retain(|used| used.arrival > now);
        of_windows.push(WindowUse { window: window.clone(), arrival, open });
        of_windows.last_mut()
    }

    /// Stores the key's arrival time in a window.
    pub(super) fn store(&mut self, window: &Arc<Window>, arrival: u64, now: u64) {
        self.use_of(window, arrival, now);
    }

    /// Stores the key's arrival time in a window behind a charge of `units` that may be corrected.
    pub(super) fn open(&mut self, window: &Arc<Window>, units: u32, arrival: u64, now: u64) -> WindowCharge {
        if units == 0 {
            // Nothing can be given back.
            self.store(window, arrival, now);
            return WindowCharge { window: window.clone(), of: ChargeOf::Nothing };
        }
        self.charges += 1;
        let id = self.charges;
        if let Some(used) = self.use_of(window, arrival, now) {
            used.open.get_or_insert_default().add(id, arrival, now);
        }
        WindowCharge { window: window.clone(), of: ChargeOf::Own(id) }
    }

    /// Corrects a charge of `charged` units, of which `used` were used.
    pub(super) fn close(&mut self, charge: &WindowCharge, charged: u32, used: u32, now: u64) {
        // A reload may have replaced the window meanwhile. The key then goes on with the new one.
        let is_of_charge = |used: &WindowUse| {
            Arc::ptr_eq(&used.window, &charge.window) || used.window.replaces(&charge.window)
        };
        if used > charged && !self.of_windows.iter().any(is_of_charge) {
            self.store(&charge.window, now, now);
        }
        let Some(of_charge) = self.of_windows.iter_mut().find(|used| is_of_charge(used)) else { return };
        let (charged, used) = (of_charge.window.time_of(charged), of_charge.window.time_of(used));
        let (more, unused) = (used.saturating_sub(charged), charged.saturating_sub(used));
        let given_back = match (of_charge.open.as_deref_mut(), charge.of) {
            (Some(open), ChargeOf::Own(id)) => open.close(id, unused, now),
            _ => 0,
        };
        let arrival = of_charge.arrival.max(now).saturating_add(more).saturating_sub(given_back);
        of_charge.arrival = arrival.max(now);
    }
}
