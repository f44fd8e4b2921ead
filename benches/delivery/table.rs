//! What was measured, as a table and as JSON.

use std::fmt;

use serde_json::{Value, json};

#[derive(Default)]
pub struct Table {
    rows: Vec<Row>,
}

struct Row {
    database: &'static str,
    measure: String,
    value: f64,
    unit: &'static str,
}

impl Table {
    pub fn add(
        &mut self,
        database: &'static str,
        measure: impl Into<String>,
        value: f64,
        unit: &'static str,
    ) {
        self.rows.push(Row {
            database,
            measure: measure.into(),
            value,
            unit,
        });
    }

    pub fn value(&self, database: &str, measure: &str) -> Option<f64> {
        self.rows
            .iter()
            .find(|row| row.database == database && row.measure == measure)
            .map(|row| row.value)
    }

    pub fn json(&self) -> Value {
        let row = |row: &Row| json!({"database": row.database, "measure": row.measure, "value": row.value, "unit": row.unit});
        self.rows.iter().map(row).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = comfy_table::Table::new();
        table
            .load_style(comfy_table::presets::ASCII_MARKDOWN)
            .set_header(["database", "measure", "value", "unit"]);
        for Row {
            database,
            measure,
            value,
            unit,
        } in &self.rows
        {
            let digits = if value.abs() >= 100.0 { 0 } else { 2 };
            table.add_row([*database, measure, &format!("{value:.digits$}"), unit]);
        }
        if let Some(values) = table.column_mut(2) {
            values.set_cell_alignment(comfy_table::CellAlignment::Right);
        }
        write!(f, "{table}")
    }
}
