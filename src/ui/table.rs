//! Aligned columns without borders.

use std::io;

use comfy_table::{CellAlignment, ContentArrangement, presets};

use super::screen::{Paint, Screen};
use super::text::safe;

/// Rows under headings; every cell is made safe for a terminal.
#[derive(Debug)]
pub struct Table {
    inner: comfy_table::Table,
    columns: usize,
    paints: Vec<Paint>,
}

impl Table {
    /// An empty table. A heading that starts with `>` aligns its column to the right.
    pub fn new(headings: &[&str]) -> Self {
        let mut inner = comfy_table::Table::new();
        inner.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        inner.set_header(headings.iter().map(|heading| heading.trim_start_matches('>')));
        for (index, heading) in headings.iter().enumerate() {
            let Some(column) = inner.column_mut(index) else { continue };
            column.set_padding((0, 2));
            if heading.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Self { inner, columns: headings.len(), paints: Vec::new() }
    }

    /// Appends one row, coloured as a whole.
    pub fn row(&mut self, paint: Paint, cells: &[&str]) {
        debug_assert_eq!(cells.len(), self.columns, "a row has a cell per column");
        self.inner.add_row(cells.iter().map(|cell| safe(cell).into_owned()));
        self.paints.push(paint);
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.paints.is_empty()
    }

    /// Shows it: headings first. Colours go around whole lines, after the columns were aligned.
    ///
    /// # Errors
    /// Those of the screen.
    pub fn show(&self, screen: &mut Screen) -> io::Result<()> {
        let paints = std::iter::once(Paint::Strong).chain(self.paints.iter().copied());
        for (line, paint) in self.inner.lines().zip(paints) {
            screen.painted(paint, line.trim_end())?;
        }
        Ok(())
    }
}
