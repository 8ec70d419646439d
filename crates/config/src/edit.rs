//! Changing a configuration file, so that its comments stay.

use serde_json::{Map, Value as JsonValue};
use toml_edit::{DocumentMut, InlineTable, Item, Table, TableLike, Value};

/// Changes a file by a merge patch (RFC 7396): keys that it gives are set, `null` removes one, all others stay.
///
/// # Errors
/// Which key cannot have its value, and why.
pub fn patch(document: &mut DocumentMut, patch: &Map<String, JsonValue>) -> Result<(), String> {
    merge(document.as_table_mut(), patch, false)?;
    keep_to_its_listeners(document);
    Ok(())
}

/// A file that lost its last listener still speaks of `[listeners]`, and is refused for it. One that does not speak of them has
/// the default ones, open to every network.
fn keep_to_its_listeners(document: &mut DocumentMut) {
    let Some(listeners) = document.get_mut("listeners").and_then(Item::as_table_mut) else {
        return;
    };
    let serves = |kind: &Item| kind.as_table_like().is_some_and(|all| !all.is_empty());
    if !listeners.iter().any(|(_, kind)| serves(kind)) {
        listeners.set_implicit(false);
    }
}

/// Sets what `patch` gives. Values that are there keep the comments around them.
fn merge(table: &mut dyn TableLike, patch: &Map<String, JsonValue>, inline: bool) -> Result<(), String> {
    for (key, wanted) in patch {
        match wanted {
            JsonValue::Null => {
                table.remove(key);
            }
            JsonValue::Object(inner) => {
                let there = table.get(key).is_some_and(Item::is_table_like);
                if !there {
                    let empty = if inline {
                        Item::Value(Value::InlineTable(InlineTable::new()))
                    } else {
                        let mut new = Table::new();
                        // A table of tables only needs no header of its own.
                        new.set_implicit(!inner.is_empty() && inner.values().all(JsonValue::is_object));
                        Item::Table(new)
                    };
                    table.insert(key, empty);
                }
                let Some(item) = table.get_mut(key) else { continue };
                let inline = inline || item.is_inline_table();
                if let Some(own) = item.as_table_like_mut() {
                    merge(own, inner, inline).map_err(|why| format!("{key}.{why}"))?;
                }
            }
            other => {
                let mut value = value_of(other).map_err(|why| format!("{key}: {why}"))?;
                if let Some(old) = table.get(key).and_then(Item::as_value) {
                    *value.decor_mut() = old.decor().clone();
                }
                table.insert(key, Item::Value(value));
            }
        }
    }
    Ok(())
}

fn value_of(json: &JsonValue) -> Result<Value, String> {
    Ok(match json {
        JsonValue::Bool(flag) => (*flag).into(),
        JsonValue::String(text) => text.as_str().into(),
        JsonValue::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => whole.into(),
            (None, Some(real)) => real.into(),
            (None, None) => return Err("the number is too large".to_owned()),
        },
        JsonValue::Array(items) => {
            let mut array = toml_edit::Array::new();
            for item in items {
                array.push(value_of(item)?);
            }
            array.into()
        }
        JsonValue::Object(map) => {
            let mut inline = InlineTable::new();
            for (key, item) in map {
                inline.insert(key, value_of(item)?);
            }
            inline.into()
        }
        JsonValue::Null => return Err("null cannot stand in a list".to_owned()),
    })
}
