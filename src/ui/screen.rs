//! Where output goes, and whether anybody looks.

use std::io::{self, IsTerminal, Write};

use crate::config::Environment;

/// A meaning that has a colour on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// As it is.
    Plain,
    /// As it should be.
    Good,
    /// Degraded, or worth a look.
    Warn,
    /// Denied, broken.
    Bad,
    /// Of little weight.
    Faint,
    /// A heading.
    Strong,
}

impl Paint {
    const fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("32"),
            Self::Warn => Some("33"),
            Self::Bad => Some("31"),
            Self::Faint => Some("2"),
            Self::Strong => Some("1"),
        }
    }
}

/// Standard output, or a buffer in tests.
pub struct Screen {
    out: Box<dyn Write + Send>,
    colour: bool,
    json: bool,
    interactive: bool,
}

impl Screen {
    /// Standard output: coloured only on a terminal, and not when `NO_COLOR` is set and not empty
    /// (no-color.org) or `TERM` is `dumb`.
    pub fn stdout(json: bool, env: &Environment) -> Self {
        let out = io::stdout();
        let dumb = matches!(env.text("TERM"), Ok(Some("dumb")));
        // Set to anything at all, unreadable things too, it silences.
        let silenced = dumb || !matches!(env.text("NO_COLOR"), Ok(None));
        let colour = out.is_terminal() && !silenced;
        // Progress goes to standard error, so it is that which must be a terminal.
        let interactive = io::stderr().is_terminal();
        Self { out: Box::new(io::BufWriter::new(out)), colour, json, interactive }
    }

    /// Output into `out`, without a terminal.
    pub fn into_writer(out: Box<dyn Write + Send>, json: bool, colour: bool) -> Self {
        Self { out, colour, json, interactive: false }
    }

    /// Whether the operator asked for JSON.
    pub fn json(&self) -> bool {
        self.json
    }

    /// Whether somebody watches progress.
    pub fn interactive(&self) -> bool {
        self.interactive
    }

    /// One line. The text is our own or went through [`super::text::safe`].
    ///
    /// # Errors
    /// Those of the writer; a reader that went away is `BrokenPipe`.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{text}")
    }

    /// One line in the colour of its meaning.
    ///
    /// # Errors
    /// As [`Screen::line`].
    pub fn painted(&mut self, paint: Paint, text: &str) -> io::Result<()> {
        let text = self.paint(paint, text);
        self.line(&text)
    }

    /// `text` in the colour of its meaning, to be put into a line.
    pub fn paint(&self, paint: Paint, text: &str) -> String {
        match paint.code() {
            Some(code) if self.colour => format!("\x1b[{code}m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }

    /// A value as JSON: indented for a document, one line when `compact` (streams).
    ///
    /// # Errors
    /// As [`Screen::line`].
    pub fn value<T: serde::Serialize>(&mut self, value: &T, compact: bool) -> io::Result<()> {
        if compact {
            serde_json::to_writer(&mut self.out, value)?;
        } else {
            serde_json::to_writer_pretty(&mut self.out, value)?;
        }
        self.out.write_all(b"\n")
    }

    /// Bytes as they are, for files and generated text.
    ///
    /// # Errors
    /// As [`Screen::line`].
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    /// Everything so far is out.
    ///
    /// # Errors
    /// As [`Screen::line`].
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// The writer itself, for an exporter.
    pub fn writer(&mut self) -> &mut (dyn Write + Send) {
        &mut *self.out
    }
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen").field("colour", &self.colour).field("json", &self.json).finish_non_exhaustive()
    }
}

/// What `show` puts on a screen that is no terminal.
#[cfg(test)]
pub(crate) fn capture(show: impl FnOnce(&mut Screen)) -> String {
    use std::sync::{Arc, Mutex, PoisonError};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);
    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let shared = Shared::default();
    let mut screen = Screen::into_writer(Box::new(shared.clone()), false, false);
    show(&mut screen);
    drop(screen);
    let bytes = shared.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    String::from_utf8(bytes).expect("output is UTF-8")
}
