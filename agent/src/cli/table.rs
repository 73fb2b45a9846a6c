//! Tables for people: aligned columns, two spaces between them, nothing drawn.
//!
//! Rows of cells come in, text goes out; colour only where the caller says that a terminal reads it.

/// How a cell looks on a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Style {
    #[default]
    Plain,
    Good,
    Warning,
    Bad,
    Dim,
    Bold,
}

impl Style {
    const fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("32"),
            Self::Warning => Some("33"),
            Self::Bad => Some("31"),
            Self::Dim => Some("2"),
            Self::Bold => Some("1"),
        }
    }

    /// The text in this style, where there is colour.
    pub(super) fn paint(self, text: &str, colour: bool) -> String {
        match self.code() {
            Some(code) if colour => format!("\x1b[{code}m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }
}

/// One field of a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    #[expect(clippy::needless_pass_by_value, reason = "numbers and names alike, written at each call")]
    pub(super) fn new(text: impl ToString) -> Self {
        Self { text: text.to_string(), style: Style::Plain }
    }

    /// A dash where there is nothing.
    pub(super) fn maybe(text: Option<impl ToString>) -> Self {
        text.map_or_else(|| Self::new("-"), Self::new)
    }

    pub(super) fn style(mut self, style: Style) -> Self {
        self.style = style;
        self
    }

    /// Parts separated by commas, in lines of at most `width` characters where they fit.
    pub(super) fn list(parts: &[String], width: usize) -> Self {
        let mut text = String::new();
        let mut used = 0;
        for (index, part) in parts.iter().enumerate() {
            let length = part.chars().count();
            if index > 0 {
                text.push(',');
                // A comma may follow.
                let fits = used + 2 + length < width;
                text.push(if fits { ' ' } else { '\n' });
                used = if fits { used + 2 } else { 0 };
            }
            text.push_str(part);
            used += length;
        }
        Self::new(text)
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

/// Where a column's cells stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// A header and rows.
#[derive(Clone, Debug)]
pub(super) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<Cell>>,
    indent: usize,
}

impl Table {
    /// Names of columns; those of numbers begin with `>` and stand at the right.
    pub(super) fn new(columns: &[&'static str]) -> Self {
        let column = |name: &&'static str| match name.strip_prefix('>') {
            Some(name) => (name, Align::Right),
            None => (*name, Align::Left),
        };
        Self { columns: columns.iter().map(column).collect(), rows: Vec::new(), indent: 0 }
    }

    /// Under a heading: so many spaces before each line.
    pub(super) fn indent(mut self, spaces: usize) -> Self {
        self.indent = spaces;
        self
    }

    /// A cell of several lines goes on below.
    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.columns.len(), "a cell for each column");
        let lines = cells.iter().map(|cell| cell.text.split('\n').count()).max().unwrap_or(1);
        if lines == 1 {
            return self.rows.push(cells);
        }
        for line in 0..lines {
            let part = |cell: &Cell| {
                let text = cell.text.split('\n').nth(line).unwrap_or_default();
                Cell { text: text.to_owned(), style: cell.style }
            };
            self.rows.push(cells.iter().map(part).collect());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// All lines, each ended; none ends in spaces.
    pub(super) fn render(&self, colour: bool) -> String {
        let header: Vec<Cell> =
            self.columns.iter().map(|(name, _)| Cell::new(name).style(Style::Bold)).collect();
        let lines: Vec<&Vec<Cell>> = std::iter::once(&header).chain(&self.rows).collect();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|at| lines.iter().filter_map(|line| line.get(at)).map(Cell::width).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for line in lines {
            self.render_line(line, &widths, colour, &mut text);
        }
        text
    }

    fn render_line(&self, cells: &[Cell], widths: &[usize], colour: bool, text: &mut String) {
        // Spaces are written only when something follows them.
        let mut spaces = self.indent;
        for ((cell, (_, align)), width) in cells.iter().zip(&self.columns).zip(widths) {
            let missing = width - cell.width();
            if *align == Align::Right {
                spaces += missing;
            }
            if !cell.text.is_empty() {
                text.extend(std::iter::repeat_n(' ', spaces));
                text.push_str(&cell.style.paint(&cell.text, colour));
                spaces = 0;
            }
            spaces += 2 + if *align == Align::Left { missing } else { 0 };
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["NAME", ">SLOTS", "STATE"]);
        table.row(vec![Cell::new("web"), Cell::new(7), Cell::new("ok").style(Style::Good)]);
        table.row(vec![Cell::new("längster"), Cell::maybe(None::<u8>), Cell::new("")]);
        table
    }

    #[test]
    fn columns_are_aligned_and_no_line_ends_in_spaces() {
        assert_eq!(
            table().render(false),
            "NAME      SLOTS  STATE\n\
             web           7  ok\n\
             längster      -\n"
        );
    }

    #[test]
    fn a_long_list_goes_on_below_its_first_line() {
        let mut table = Table::new(&["NAME", "LIST", ">END"]);
        let parts = ["one", "two", "three", "a long one indeed"].map(ToOwned::to_owned);
        table.row(vec![Cell::new("web"), Cell::list(&parts, 9), Cell::new(7)]);
        table.row(vec![Cell::new("dns"), Cell::list(&parts[..1], 9), Cell::new(8)]);
        assert_eq!(
            table.render(false),
            "NAME  LIST               END\n\
             web   one, two,            7\n      \
                   three,\n      \
                   a long one indeed\n\
             dns   one                  8\n"
        );
    }

    #[test]
    fn colour_does_not_count_as_width() {
        let text = table().render(true);
        assert_eq!(text.lines().nth(1), Some("web           7  \x1b[32mok\x1b[0m"));
        assert_eq!(
            text.lines().next(),
            Some("\x1b[1mNAME\x1b[0m      \x1b[1mSLOTS\x1b[0m  \x1b[1mSTATE\x1b[0m")
        );
    }

    #[test]
    fn an_indented_table_keeps_its_columns() {
        let text = table().indent(2).render(false);
        assert_eq!(text.lines().next(), Some("  NAME      SLOTS  STATE"));
        assert_eq!(text.lines().nth(1), Some("  web           7  ok"));
    }

    #[test]
    fn an_empty_cell_in_the_middle_keeps_its_room() {
        let mut table = Table::new(&["A", ">B", "C"]);
        table.row(vec![Cell::new(""), Cell::new(""), Cell::new("x")]);
        table.row(vec![Cell::new("aaa"), Cell::new(10), Cell::new("y")]);
        assert_eq!(table.render(false), "A     B  C\n         x\naaa  10  y\n");
    }
}
