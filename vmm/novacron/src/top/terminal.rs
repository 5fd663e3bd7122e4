//! The terminal, while the screen is on it; and left as it was found, whatever happens.

use std::io::{self, Stdout, stdout};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::layout::Rect;
use rustix::termios::tcgetwinsize;

/// Columns and lines of a text for nobody's terminal.
const WITHOUT_TERMINAL: (u16, u16) = (100, 30);
/// Most columns and lines of a text.
const LARGEST_TEXT: u16 = 500;

/// The terminal in raw mode, on its alternate screen, until the value is dropped.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    // Dropped last: the terminal's own end writes to it.
    _restored: Restored,
}

struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        restore();
    }
}

impl Screen {
    pub(super) fn enter() -> io::Result<Self> {
        // A panic ends the process without dropping anything.
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            report(panic);
        }));
        let restored = Restored;
        enable_raw_mode()?;
        execute!(stdout(), EnterAlternateScreen, Hide)?;
        let terminal = Terminal::new(CrosstermBackend::new(stdout()))?;
        Ok(Self { terminal, _restored: restored })
    }

    /// Shows what `draw` leaves in the buffer.
    pub(super) fn draw(&mut self, draw: impl FnOnce(Rect, &mut Buffer)) -> io::Result<()> {
        let draw = |frame: &mut ratatui::Frame<'_>| draw(frame.area(), frame.buffer_mut());
        self.terminal.draw(draw).map(drop)
    }
}

/// Line editing first: where nothing can be written any more, that is what counts.
fn restore() {
    let _ = disable_raw_mode();
    let _ = execute!(stdout(), LeaveAlternateScreen, Show);
}

/// Columns and lines of one screen as text: what COLUMNS and LINES say, else what the terminal has.
pub(super) fn size_of_text() -> (u16, u16) {
    let terminal = tcgetwinsize(stdout()).ok().map(|size| (size.ws_col, size.ws_row));
    let (columns, lines) = terminal.filter(|size| *size != (0, 0)).unwrap_or(WITHOUT_TERMINAL);
    let variable = |name: &str| std::env::var(name).ok()?.trim().parse::<u16>().ok();
    let most = |found: u16| found.clamp(1, LARGEST_TEXT);
    (most(variable("COLUMNS").unwrap_or(columns)), most(variable("LINES").unwrap_or(lines)))
}
