//! One tree out of several: later sources over earlier ones, every key and value keeping the place it came from.
//!
//! Tables are merged key by key; everything else is replaced. A table whose `kind` differs from the one below it
//! replaces it too: what belonged to the other kind must not linger. So does a table that is one of several alternatives.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The key that says which of several shapes a table has.
const KIND: &str = "kind";

/// Keys whose table has one key, which says what the value is: another one replaces it whole.
const ALTERNATIVES: [&str; 1] = ["pattern"];

/// Move all places in this table by `offset`: sources lie one after the other in one range of places.
pub(super) fn shift<'i>(table: DeTable<'i>, offset: usize) -> DeTable<'i> {
    table
        .into_iter()
        .map(|(key, value)| {
            let span = key.span();
            let key = Spanned::new(span.start + offset..span.end + offset, key.into_inner());
            (key, shift_value(value, offset))
        })
        .collect()
}

fn shift_value<'i>(value: Spanned<DeValue<'i>>, offset: usize) -> Spanned<DeValue<'i>> {
    let span = value.span();
    let inner = match value.into_inner() {
        DeValue::Table(table) => DeValue::Table(shift(table, offset)),
        DeValue::Array(mut items) => {
            for item in items.iter_mut() {
                let empty = Spanned::new(0..0, DeValue::Boolean(false));
                *item = shift_value(std::mem::replace(item, empty), offset);
            }
            DeValue::Array(items)
        }
        leaf => leaf,
    };
    Spanned::new(span.start + offset..span.end + offset, inner)
}

/// Lay `over` on `base`. With `indices`, a table of numbers lies on the elements of an array.
pub(super) fn merge<'i>(base: &mut DeTable<'i>, over: DeTable<'i>, indices: bool) {
    for (key, value) in over {
        let name = key.get_ref().as_ref();
        let merged = match base.remove(name) {
            Some(old) if !ALTERNATIVES.contains(&name) => merge_value(old, value, indices),
            _ => value,
        };
        // The old key went with its place; the new one brings its own.
        base.insert(key, merged);
    }
}

fn merge_value<'i>(
    base: Spanned<DeValue<'i>>,
    over: Spanned<DeValue<'i>>,
    indices: bool,
) -> Spanned<DeValue<'i>> {
    let span = over.span();
    match (base.into_inner(), over.into_inner()) {
        (DeValue::Table(mut base), DeValue::Table(over)) if same_kind(&base, &over) => {
            merge(&mut base, over, indices);
            Spanned::new(span, DeValue::Table(base))
        }
        (DeValue::Array(mut items), DeValue::Table(over))
            if indices
                && over
                    .keys()
                    .all(|key| index(key.get_ref(), items.len()).is_some()) =>
        {
            for (key, value) in over {
                let at = index(key.get_ref(), items.len());
                if let Some(item) = at.and_then(|at| items.get_mut(at)) {
                    let empty = Spanned::new(0..0, DeValue::Boolean(false));
                    let old = std::mem::replace(item, empty);
                    *item = merge_value(old, value, indices);
                }
            }
            Spanned::new(span, DeValue::Array(items))
        }
        (_, over) => Spanned::new(span, over),
    }
}

/// A key as a place in an array of this length.
fn index(key: &str, length: usize) -> Option<usize> {
    key.parse().ok().filter(|&index| index < length)
}

/// Whether `over` does not choose another kind than `base` has.
fn same_kind(base: &DeTable, over: &DeTable) -> bool {
    let kind = |table: &DeTable| {
        let value = table.get(KIND)?;
        value.get_ref().as_str().map(str::to_string)
    };
    match (kind(base), kind(over)) {
        (Some(base), Some(over)) => base == over,
        _ => true,
    }
}
