//! One vCPU: fills its share of memory, then checks and writes page after page.

use core::hint::spin_loop;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use super::oracle::options::Options;
use super::oracle::page::{self, Defect, Kind, Stamp};
use super::oracle::plan::Plan;
use super::oracle::report::{Report, WrongPage};
use super::oracle::tempo::{Frequency, Metronome, Watch};
use super::oracle::walk::{Progress, Step, Walk};
use super::owned::Owned;
use super::shared::{self, Cpu};
use super::{clock, serial};

/// One static page is checked after so many writes.
const WRITES_A_STATIC_CHECK: u64 = 8;

/// A vCPU that was held up for longer does not make up for the writes that it missed.
const CATCH_UP_MS: u64 = 50;

/// The state of a vCPU, on its own stack.
pub(super) struct Vcpu {
    number: u32,
    cpu: &'static Cpu,
    options: &'static Options,
    owned: Owned,
    walk: Walk,
    progress: Progress,
    pace: Metronome,
    /// Static page that is checked next.
    next_static: u64,
    writes: u64,
    checked: u64,
    errors: u64,
    watch: Watch,
}

impl Vcpu {
    /// Becomes the vCPU `number`. Panics when something else is it already.
    pub(super) fn new(number: u32, plan: &'static Plan) -> Self {
        let cpu = &shared::CPUS[number as usize];
        assert!(!cpu.claimed.swap(true, AcqRel));
        let share = plan.share(number);
        #[expect(unsafe_code, reason = "claims memory")]
        // SAFETY: `boot` maps the plan's extents and takes them from the start info without the
        // image, before it publishes the plan; `claimed` lets one caller come here for each share.
        let owned = unsafe { Owned::new(share) };
        let options = plan.options();
        let frequency = Frequency { khz: options.tsc_khz };
        let now = clock::now();
        Self {
            number,
            cpu,
            options,
            owned,
            walk: share.walk(),
            progress: Progress::default(),
            pace: Metronome::new(
                now,
                frequency.interval(options.rate),
                frequency.ticks(CATCH_UP_MS),
            ),
            next_static: share.working(),
            writes: 0,
            checked: 0,
            errors: 0,
            watch: Watch::new(now),
        }
    }

    /// Stamps every page that is to hold a stamp, then waits for `begin`.
    pub(super) fn fill(&mut self) {
        for number in 0..self.owned.share().stamped() {
            let share = *self.owned.share();
            let (address, content) = self.owned.page(number);
            page::fill(content, &share.stamp(number, address, 0));
        }
        self.cpu.filled.store(true, Release);
    }

    /// Starts the clocks anew: what came before the first round is no gap and no delay.
    pub(super) fn begin(&mut self) {
        let now = clock::now();
        self.watch = Watch::new(now);
        self.pace.due(now);
    }

    /// All there is to do between two looks at what vCPU 0 wants: one write at most.
    pub(super) fn turn(&mut self) {
        self.look_at_clock();
        if !self.finished() && self.pace.due(self.watch.now()) {
            self.write_next();
        } else {
            spin_loop();
        }
        self.publish();
    }

    /// Passes time, when all there is to do is to wait.
    pub(super) fn idle(&mut self) {
        self.look_at_clock();
        spin_loop();
        self.publish();
    }

    /// Checks one page of the share against what it must hold now.
    pub(super) fn sweep_page(&mut self, number: u64) {
        self.look_at_clock();
        let share = *self.owned.share();
        if number < share.working() {
            self.check(number, self.walk.sequence(number, self.progress));
        } else if number < share.stamped() {
            self.check(number, 0);
        } else {
            self.check_untouched(number);
        }
        self.publish();
    }

    /// Pages that a sweep has to check.
    pub(super) fn pages_to_sweep(&self) -> u64 {
        let share = self.owned.share();
        if self.options.check_untouched { share.pages() } else { share.stamped() }
    }

    /// Says that the sweep number `sweep` is done.
    pub(super) fn swept(&mut self, sweep: u64) {
        self.cpu.swept.store(self.pages_to_sweep(), Relaxed);
        self.cpu.sweeps.store(sweep, Release);
    }

    /// Joins a sweep when vCPU 0 has asked for one, and stays until it is over.
    pub(super) fn obey(&mut self) {
        let sweep = shared::SWEEPS_REQUESTED.load(Acquire);
        if sweep == self.cpu.sweeps.load(Relaxed) {
            return;
        }
        for number in 0..self.pages_to_sweep() {
            self.sweep_page(number);
        }
        self.swept(sweep);
        while shared::SWEEPS_RELEASED.load(Acquire) < sweep {
            self.idle();
        }
    }

    /// Prints a line. vCPU 0 only.
    pub(super) fn print(&mut self, report: &Report<'_>) {
        serial::print_watched(report, &mut self.watch);
    }

    /// The last reading of the clock.
    pub(super) const fn now(&self) -> u64 {
        self.watch.now()
    }

    const fn finished(&self) -> bool {
        self.options.rounds > 0 && self.progress.round >= self.options.rounds
    }

    fn look_at_clock(&mut self) {
        self.watch.read(clock::now());
    }

    fn write_next(&mut self) {
        let Step { page: number, sequence } = self.walk.step(self.progress);
        self.check(number, sequence);
        let share = *self.owned.share();
        let (address, content) = self.owned.page(number);
        page::advance(content, &share.stamp(number, address, sequence + 1));
        self.writes += 1;
        self.progress = self.walk.advance(self.progress);
        if self.writes.is_multiple_of(WRITES_A_STATIC_CHECK) {
            self.check_next_static();
        }
    }

    fn check_next_static(&mut self) {
        let share = self.owned.share();
        let statics = share.working()..share.stamped();
        if statics.is_empty() {
            return;
        }
        if !statics.contains(&self.next_static) {
            self.next_static = statics.start;
        }
        self.check(self.next_static, 0);
        self.next_static += 1;
    }

    /// Checks a page, and mends it when it is wrong: what follows is then judged by itself.
    fn check(&mut self, number: u64, sequence: u64) {
        let share = *self.owned.share();
        let (address, content) = self.owned.page(number);
        let expected = share.stamp(number, address, sequence);
        self.checked += 1;
        if let Err(defect) = page::check(content, &expected) {
            page::fill(content, &expected);
            self.found_wrong(&expected, &defect);
        }
    }

    fn check_untouched(&mut self, number: u64) {
        let share = *self.owned.share();
        let (address, content) = self.owned.page(number);
        self.checked += 1;
        if let Err(defect) = page::check_untouched(content) {
            debug_assert_eq!(defect.kind, Kind::Touched);
            *content = [0; page::WORDS];
            self.found_wrong(&share.stamp(number, address, 0), &defect);
        }
    }

    #[cold]
    fn found_wrong(&mut self, expected: &Stamp, defect: &Defect) {
        self.errors += 1;
        let take_line = |left: u32| left.checked_sub(1);
        if shared::ERROR_LINES_LEFT.fetch_update(Relaxed, Relaxed, take_line).is_err() {
            return;
        }
        let page = WrongPage::new(expected, defect);
        if self.number == 0 {
            return self.print(&Report::Error(page));
        }
        // Waits rather than drops: vCPU 0 empties the mailboxes whatever else it does.
        #[expect(unsafe_code, reason = "sends")]
        // SAFETY: `claimed` makes this the only code that sends from this vCPU.
        while !unsafe { self.cpu.mailbox.send(page) } {
            self.idle();
        }
    }

    fn publish(&mut self) {
        let cpu = self.cpu;
        cpu.rounds.store(self.progress.round, Relaxed);
        cpu.writes.store(self.writes, Relaxed);
        cpu.checked.store(self.checked, Relaxed);
        cpu.errors.store(self.errors, Relaxed);
        cpu.tsc_backwards.store(self.watch.backwards(), Relaxed);
        cpu.longest_gap.store(self.watch.longest(), Relaxed);
        let gap = self.watch.take_window();
        if gap > cpu.window_gap.load(Relaxed) {
            cpu.window_gap.fetch_max(gap, Relaxed);
        }
    }
}
