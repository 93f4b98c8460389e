//! What a comparison prints: a table for people, and one JSON object a line for programs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

/// One metric of one case, ours beside the peers'.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    /// The comparison: `rpc`, `infer`, …
    pub(crate) bench: &'static str,
    /// For example `64x16`: connections × depth.
    pub(crate) case: String,
    /// For example `p50_us`.
    pub(crate) metric: &'static str,
    /// For example `us`.
    pub(crate) unit: &'static str,
    /// Absent when the run was asked to leave us out.
    pub(crate) ours: Option<f64>,
    /// Figures of the others by name.
    pub(crate) peers: BTreeMap<String, f64>,
    /// Ours divided by the peer's, for each peer whose figure is not zero.
    pub(crate) ratio: BTreeMap<String, f64>,
}

impl Row {
    /// A row with its ratios worked out.
    pub(crate) fn new(
        bench: &'static str,
        case: String,
        (metric, unit): (&'static str, &'static str),
        ours: Option<f64>,
        peers: BTreeMap<String, f64>,
    ) -> Self {
        let ratio = ours.map_or_else(BTreeMap::new, |ours| {
            let divisible = peers.iter().filter(|(_, peer)| **peer != 0.0);
            divisible.map(|(name, peer)| (name.clone(), ours / peer)).collect()
        });
        Self { bench, case, metric, unit, ours, peers, ratio }
    }
}

/// The rows as a table, each peer's figure followed by ours as a multiple of it.
pub(crate) fn table(rows: &[Row]) -> Table {
    table_with(rows, &[])
}

/// As [`table`], with columns of its own after ours: a name, and a cell for each row.
pub(crate) fn table_with(rows: &[Row], columns: &[(&str, Vec<String>)]) -> Table {
    let mut names: Vec<&String> = rows.iter().flat_map(|row| row.peers.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let mut table = new_table();
    let header = ["case", "metric", "ours"].into_iter().chain(columns.iter().map(|(name, _)| *name));
    let header = header.map(str::to_owned);
    table.set_header(header.chain(names.iter().map(|name| format!("{name} (ours is)"))));
    for (index, row) in rows.iter().enumerate() {
        let mut cells = vec![row.case.clone(), row.metric.to_owned(), row.ours.map_or("".into(), figure)];
        cells.extend(columns.iter().map(|(_, column)| column[index].clone()));
        cells.extend(names.iter().map(|name| match (row.peers.get(*name), row.ratio.get(*name)) {
            (Some(peer), Some(ratio)) => format!("{} ({ratio:.2}×)", figure(*peer)),
            (Some(peer), None) => figure(*peer),
            (None, _) => String::new(),
        }));
        table.add_row(cells);
    }
    align_figures(&mut table, 2);
    table
}

/// A table in the one style of this crate.
pub(crate) fn new_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table
}

/// Right-aligns every column from `first` on.
pub(crate) fn align_figures(table: &mut Table, first: usize) {
    for column in table.column_iter_mut().skip(first) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

/// A figure with three significant digits or all of its integer part, thousands apart.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        size if size < 10_000.0 => format!("{value:.0}"),
        _ => {
            let digits = format!("{:.0}", value.abs());
            let mut grouped = String::from(if value < 0.0 { "-" } else { "" });
            for (index, digit) in digits.chars().enumerate() {
                if index > 0 && (digits.len() - index).is_multiple_of(3) {
                    grouped.push(',');
                }
                grouped.push(digit);
            }
            grouped
        }
    }
}

/// Writes one JSON object a line to the file at `path`, replacing it.
///
/// # Errors
/// When the file cannot be created or written; the error names it.
pub(crate) fn write_json_lines(path: &Path, rows: &[Row]) -> anyhow::Result<()> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    json_lines(BufWriter::new(file), rows).with_context(|| format!("cannot write {}", path.display()))
}

fn json_lines(mut out: impl Write, rows: &[Row]) -> io::Result<()> {
    for row in rows {
        serde_json::to_writer(&mut out, row)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// The middle value; the mean of the two middle ones if there is an even number. `None` for no values.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len().is_multiple_of(2) { (values[middle - 1] + upper) / 2.0 } else { upper })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ours: Option<f64>) -> Row {
        let peers = BTreeMap::from([("quinn".to_owned(), 20.0), ("floor".to_owned(), 4.0)]);
        Row::new("rpc", "1x1".into(), ("p50_us", "us"), ours, peers)
    }

    #[test]
    fn ratio_is_ours_over_the_peer() {
        assert_eq!(row(Some(10.0)).ratio, BTreeMap::from([("quinn".into(), 0.5), ("floor".into(), 2.5)]));
        assert!(row(None).ratio.is_empty());
    }

    #[test]
    fn a_peer_without_a_figure_has_no_ratio() {
        let peers = BTreeMap::from([("quinn".to_owned(), 0.0)]);
        assert!(Row::new("rpc", "1x1".into(), ("p50_us", "us"), Some(1.0), peers).ratio.is_empty());
    }

    #[test]
    fn json_is_one_object_a_line_with_the_documented_keys() {
        let mut out = Vec::new();
        json_lines(&mut out, &[row(Some(10.0)), row(None)]).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            r#"{"bench":"rpc","case":"1x1","metric":"p50_us","unit":"us","ours":10.0,"peers":{"floor":4.0,"quinn":20.0},"ratio":{"floor":2.5,"quinn":0.5}}"#
        );
        let second: serde_json::Value = serde_json::from_str(lines[1]).unwrap();
        assert!(second["ours"].is_null());
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn table_names_each_peer_once_and_shows_the_ratio() {
        let text = table(&[row(Some(10.0)), row(Some(5.0))]).to_string();
        assert_eq!(text.matches("quinn (ours is)").count(), 1);
        assert!(text.contains("20.0 (0.50×)"), "{text}");
        assert!(text.contains("4.00 (1.25×)"), "{text}");
    }

    #[test]
    fn columns_of_a_comparison_stand_between_ours_and_the_peers() {
        let text = table_with(&[row(Some(10.0))], &[("of peak", vec!["0.61".to_owned()])]).to_string();
        let places = ["10.0", "0.61", "20.0"].map(|cell| text.find(cell).unwrap());
        assert!(places.is_sorted(), "{text}");
    }

    #[test]
    fn figures_keep_three_digits_and_group_thousands() {
        let shown = [1.234, 12.34, 123.4, 1234.4, 1_234_567.8].map(figure);
        assert_eq!(shown, ["1.23", "12.3", "123", "1234", "1,234,568"]);
    }

    #[test]
    fn median_of_even_and_odd_counts() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }
}
