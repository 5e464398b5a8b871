//! Tables: no borders, two spaces between columns, nothing behind the last one.

/// Renders rows under a header.
pub(crate) fn render(header: &[&str], rows: &[Vec<String>], bold: bool) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let head = line(header.iter().copied(), &widths);
    let mut text = if bold { format!("\u{1b}[1m{head}\u{1b}[0m\n") } else { head + "\n" };
    for row in rows {
        text.push_str(&line(row.iter().map(String::as_str), &widths));
        text.push('\n');
    }
    text
}

/// Renders `name  value` lines; empty values are left out.
pub(crate) fn facts(facts: &[(&str, String)]) -> String {
    let shown: Vec<_> = facts.iter().filter(|(_, value)| !value.is_empty()).collect();
    let width = shown.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    shown
        .iter()
        .map(|(name, value)| format!("{name:width$}  {}\n", crate::failure::printable(value)))
        .collect()
}

fn line<'a>(cells: impl Iterator<Item = &'a str>, widths: &[usize]) -> String {
    let mut text = String::new();
    for (cell, width) in cells.zip(widths) {
        let cell = crate::failure::printable(cell);
        text.push_str(&cell);
        text.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count()) + 2));
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["a".to_owned(), "é".to_owned()], vec!["long name".to_owned(), String::new()]];
        assert_eq!(render(&["NAME", "X"], &rows, false), "NAME       X\na          é\nlong name\n");
        assert!(render(&["NAME"], &[], true).starts_with("\u{1b}[1mNAME\u{1b}[0m"));
    }

    #[test]
    fn facts_leave_out_what_is_empty() {
        let text =
            facts(&[("user", "alice".to_owned()), ("note", String::new()), ("deployment", "d\n".to_owned())]);
        assert_eq!(text, "user        alice\ndeployment  d \n");
    }
}
