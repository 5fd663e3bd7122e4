//! How things look. A colour only repeats what a word says.

use control::api::{HealthState, MachineState};
use ratatui::style::{Color, Modifier, Style};

/// Whether there are colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Theme {
    Colours,
    Plain,
}

impl Theme {
    /// As <https://no-color.org> has it: plain if `NO_COLOR` is set to anything.
    pub(super) fn from_environment() -> Self {
        let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if is_plain { Self::Plain } else { Self::Colours }
    }

    pub(super) fn heading(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub(super) fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    pub(super) fn alarm(self) -> Style {
        self.coloured(Color::Red).add_modifier(Modifier::BOLD)
    }

    pub(super) fn machine(self, state: MachineState) -> Style {
        match state {
            MachineState::Running => self.coloured(Color::Green),
            MachineState::Paused | MachineState::Stopping => self.coloured(Color::Yellow),
            MachineState::Starting
            | MachineState::Adopting
            | MachineState::Arriving
            | MachineState::Waiting => self.coloured(Color::Cyan),
            MachineState::Stopped | MachineState::Moved => Style::new(),
            MachineState::Departed | MachineState::InDoubt => self.coloured(Color::Red),
        }
    }

    pub(super) fn health(self, state: HealthState) -> Style {
        match state {
            HealthState::Ready => self.coloured(Color::Green),
            HealthState::Degraded => self.coloured(Color::Yellow).add_modifier(Modifier::BOLD),
            HealthState::Live => self.alarm(),
        }
    }

    fn coloured(self, colour: Color) -> Style {
        match self {
            Self::Colours => Style::new().fg(colour),
            Self::Plain => Style::new(),
        }
    }
}
