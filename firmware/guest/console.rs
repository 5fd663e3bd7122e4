//! What vCPU 0 does between its own pages: reports, errors of the others, commands of the host.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::oracle::options::Options;
use super::oracle::plan::Plan;
use super::oracle::report::{Report, Rounds, Verdict};
use super::oracle::tempo::{Frequency, Metronome};
use super::shared::{self, Cpu};
use super::vcpu::Vcpu;
use super::{exceptions, reset, serial};

/// How often the serial port and the mailboxes are looked at. Each look at a port costs an exit to
/// the host, so not between any two pages.
const POLL_MS: u64 = 1;

/// Commands of the host, one byte each.
const REPORT: u8 = b'r';
const VERDICT: u8 = b'v';
const QUIT: u8 = b'q';

/// The state of the console.
pub(super) struct Console {
    options: &'static Options,
    frequency: Frequency,
    cpus: &'static [Cpu],
    poll: Metronome,
    report: Metronome,
    /// When the last report was, in ticks, and what `writes` it told.
    last_report: u64,
    last_writes: u64,
}

impl Console {
    /// The console of the run that begins now.
    pub(super) fn new(plan: &'static Plan, now: u64) -> Self {
        let options = plan.options();
        let frequency = Frequency { khz: options.tsc_khz };
        Self {
            options,
            frequency,
            cpus: &shared::CPUS[..options.cpus as usize],
            poll: Metronome::new(now, frequency.ticks(POLL_MS), 0),
            report: Metronome::new(now, frequency.ticks(options.report_ms), 0),
            last_report: now,
            last_writes: 0,
        }
    }

    /// Does what is due.
    pub(super) fn turn(&mut self, vcpu: &mut Vcpu) {
        if !self.poll.due(vcpu.now()) {
            return;
        }
        self.print_errors(vcpu);
        match serial::receive() {
            Some(REPORT) => self.print_report(vcpu),
            Some(VERDICT) => self.verdict(vcpu),
            Some(QUIT) => self.quit(vcpu),
            // Not a command: line ends, and what a person types by mistake.
            Some(_) | None => {}
        }
        if self.options.rounds > 0 && self.rounds() >= self.options.rounds {
            self.quit(vcpu);
        }
        if self.report.due(vcpu.now()) {
            self.print_report(vcpu);
        }
    }

    fn quit(&mut self, vcpu: &mut Vcpu) -> ! {
        self.verdict(vcpu);
        reset::reset()
    }

    /// Stops all writing, has every vCPU check its whole share, and prints the outcome.
    fn verdict(&mut self, vcpu: &mut Vcpu) {
        let sweep = shared::SWEEPS_REQUESTED.fetch_add(1, Release) + 1;
        for page in 0..vcpu.pages_to_sweep() {
            vcpu.sweep_page(page);
            if self.poll.due(vcpu.now()) {
                self.print_errors(vcpu);
            }
        }
        vcpu.swept(sweep);
        while self.cpus.iter().any(|cpu| cpu.sweeps.load(Acquire) < sweep) {
            vcpu.idle();
            self.print_errors(vcpu);
        }
        self.print_errors(vcpu);
        let errors = self.sum(|cpu| cpu.errors.load(Relaxed));
        let longest_gap = self.cpus.iter().map(|cpu| cpu.longest_gap.load(Relaxed)).max();
        vcpu.print(&Report::Verdict(Verdict {
            ok: errors == 0,
            pages: self.sum(|cpu| cpu.swept.load(Relaxed)),
            rounds: self.rounds(),
            writes: self.sum(|cpu| cpu.writes.load(Relaxed)),
            checked: self.sum(|cpu| cpu.checked.load(Relaxed)),
            errors,
            tsc_backwards: self.sum(|cpu| cpu.tsc_backwards.load(Relaxed)),
            max_gap_us: self.frequency.microseconds(longest_gap.unwrap_or(0)),
        }));
        shared::SWEEPS_RELEASED.store(sweep, Release);
    }

    fn print_report(&mut self, vcpu: &mut Vcpu) {
        let writes = self.sum(|cpu| cpu.writes.load(Relaxed));
        let gap = self.cpus.iter().map(|cpu| cpu.window_gap.swap(0, Relaxed)).max();
        let ticks = vcpu.now().saturating_sub(self.last_report);
        let report = Rounds {
            rounds: self.rounds(),
            writes,
            checked: self.sum(|cpu| cpu.checked.load(Relaxed)),
            rate: self.frequency.rate(writes - self.last_writes, ticks),
            gap_us: self.frequency.microseconds(gap.unwrap_or(0)),
            errors: self.sum(|cpu| cpu.errors.load(Relaxed)),
        };
        (self.last_report, self.last_writes) = (vcpu.now(), writes);
        vcpu.print(&Report::Rounds(report));
    }

    fn print_errors(&self, vcpu: &mut Vcpu) {
        exceptions::step_aside();
        for cpu in self.cpus {
            #[expect(unsafe_code, reason = "receives")]
            // SAFETY: there is one console, on vCPU 0 (`boot::first_vcpu`), and nobody else receives.
            while let Some(page) = unsafe { cpu.mailbox.receive() } {
                vcpu.print(&Report::Error(page));
            }
        }
    }

    /// Rounds that every vCPU has completed.
    fn rounds(&self) -> u64 {
        self.cpus.iter().map(|cpu| cpu.rounds.load(Relaxed)).min().unwrap_or(0)
    }

    fn sum(&self, field: impl Fn(&Cpu) -> u64) -> u64 {
        self.cpus.iter().map(field).sum()
    }
}
