//! Two-way errors against statsmodels' one-way ones.

use super::*;
use crate::evaluation::statistics::tests::{numbers, tipping_fixture};

#[test]
fn two_way_errors_agree_with_statsmodels() {
    let fixture = tipping_fixture("crossed");
    let part = |name: &str| numbers(&fixture[name]);
    let cells: Vec<Cell> = part("rows")
        .into_iter()
        .zip(part("columns"))
        .zip(part("y"))
        .map(|((row, column), sum)| Cell {
            row: row as usize,
            column: column as usize,
            sum,
            weight: 1.0,
        })
        .collect();
    let found = crossed(&cells).unwrap();
    for (got, want) in [
        (found.value, "value"),
        (found.error, "error"),
        (found.freedom, "df"),
    ] {
        let want = fixture[want].as_f64().unwrap();
        assert!(
            (got - want).abs() <= 1e-9 * want.abs().max(1e-3),
            "{got}, expected {want}"
        );
    }
    let alone: Vec<Cell> = cells.iter().copied().filter(|c| c.column == 0).collect();
    assert_eq!(crossed(&alone), None, "one seed says nothing about seeds");
}
