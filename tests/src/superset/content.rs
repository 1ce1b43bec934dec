//! What users look at: a table, its dataset, charts and a dashboard, made through Superset's own API.

use anyhow::{Context, Result, ensure};
use hyper::Method;
use serde_json::{Value, json};

use super::databases::SALES;
use super::session::Session;
use super::stand::Stand;
use crate::proof::progress;

/// Rows of the table.
const ROWS: u32 = 120_000;
/// The dashboard's page.
pub const DASHBOARD: &str = "/superset/dashboard/evenkeel/";
/// Charts on it.
pub const CHARTS: usize = 4;
const SLUG: &str = "evenkeel";

/// A chart: its name, its kind, and what is particular in its form.
struct Chart {
    name: &'static str,
    kind: &'static str,
    form: Value,
}

impl Stand {
    /// Makes what is not there, through the VIP.
    ///
    /// # Errors
    /// When Superset refuses something.
    pub fn ensure_content(&self) -> Result<()> {
        let session = Session::log_in(self)?;
        let uri = format!("postgresql+psycopg2://postgres@{}/{SALES}", self.services());
        let database = json!({
            "database_name": SALES, "sqlalchemy_uri": uri, "expose_in_sqllab": true, "allow_dml": true,
        });
        let database = session.ensure("database", "database_name", SALES, &database)?;
        if session.find("dataset", "table_name", "orders")?.is_none() {
            progress("making a table, four charts and a dashboard");
            session.query(database, &table())?;
        }
        let dataset = json!({ "database": database, "schema": "public", "table_name": "orders" });
        let dataset = session.ensure("dataset", "table_name", "orders", &dataset)?;
        let dashboard = json!({ "dashboard_title": "Evenkeel", "slug": SLUG, "published": true });
        let dashboard = session.ensure("dashboard", "slug", SLUG, &dashboard)?;
        let charts = charts().into_iter().map(|chart| chart.ensure(&session, dataset, dashboard));
        let charts = charts.collect::<Result<Vec<_>>>()?;
        let placed = json!({ "position_json": positions(&charts).to_string(), "json_metadata": "{}" });
        session.send_json(Method::PUT, &format!("/api/v1/dashboard/{dashboard}"), &placed).map(drop)
    }
}

impl Session {
    /// Id of the database that SQL Lab queries.
    ///
    /// # Errors
    /// When there is none.
    pub fn database(&self) -> Result<i64> {
        self.find("database", "database_name", SALES)?
            .context("no database for SQL Lab: \"cargo xtask superset up\"")
    }

    /// The id of what has this value in a column.
    fn find(&self, resource: &str, column: &str, value: &str) -> Result<Option<i64>> {
        // Superset's filters are written in Rison; spaces are in none of the values but in charts' names.
        let value = value.replace(' ', "%20");
        let path = format!("/api/v1/{resource}/?q=(filters:!((col:{column},opr:eq,value:'{value}')))");
        Ok(self.get_json(&path)?["ids"][0].as_i64())
    }

    /// The id of what has this value in a column; made from `body` when there is none.
    fn ensure(&self, resource: &str, column: &str, value: &str, body: &Value) -> Result<i64> {
        if let Some(id) = self.find(resource, column, value)? {
            return Ok(id);
        }
        let made = self.send_json(Method::POST, &format!("/api/v1/{resource}/"), body)?;
        made["id"].as_i64().with_context(|| format!("a {resource} without an id: {made}"))
    }
}

/// Two years of orders: the same on every stand.
fn table() -> String {
    format!(
        "create table orders as select n as id, date '2024-01-01' + n % 730 as day, \
         (array['north', 'east', 'south', 'west'])[1 + n * 7 % 4] as region, \
         'product ' || n * 13 % 17 as product, 5 + n * 31 % 200 as amount from generate_series(1, {ROWS}) n"
    )
}

fn charts() -> [Chart; CHARTS] {
    let revenue = json!({
        "expressionType": "SQL", "sqlExpression": "SUM(amount)", "label": "revenue", "optionName": "metric_revenue",
    });
    [
        Chart { name: "Orders", kind: "big_number_total", form: json!({ "metric": "count" }) },
        Chart {
            name: "Regions",
            kind: "pie",
            form: json!({ "groupby": ["region"], "metric": revenue, "row_limit": 10 }),
        },
        Chart {
            name: "Products",
            kind: "table",
            form: json!({
                "query_mode": "aggregate", "groupby": ["product"], "metrics": [revenue], "row_limit": 20,
            }),
        },
        Chart {
            name: "Revenue by day",
            kind: "echarts_timeseries_line",
            form: json!({
                "x_axis": "day", "time_grain_sqla": "P1M", "metrics": [revenue], "groupby": ["region"], "row_limit": 1000,
            }),
        },
    ]
}

impl Chart {
    fn ensure(self, session: &Session, dataset: i64, dashboard: i64) -> Result<(i64, &'static str)> {
        let Self { name, kind, form } = self;
        let mut params = form;
        let map = params.as_object_mut().context("a form")?;
        map.insert("viz_type".to_owned(), json!(kind));
        map.insert("datasource".to_owned(), json!(format!("{dataset}__table")));
        map.insert("adhoc_filters".to_owned(), json!([]));
        let chart = json!({
            "slice_name": name, "viz_type": kind, "datasource_id": dataset, "datasource_type": "table",
            "params": params.to_string(), "dashboards": [dashboard],
        });
        let id = session.ensure("chart", "slice_name", name, &chart)?;
        ensure!(id > 0, "chart {name} has id {id}");
        Ok((id, name))
    }
}

/// Where the charts stand: two rows of two.
fn positions(charts: &[(i64, &str)]) -> Value {
    let mut all = json!({
        "DASHBOARD_VERSION_KEY": "v2",
        "ROOT_ID": { "type": "ROOT", "id": "ROOT_ID", "children": ["GRID_ID"] },
        "HEADER_ID": { "type": "HEADER", "id": "HEADER_ID", "meta": { "text": "Evenkeel" } },
    });
    let mut rows = Vec::new();
    for (n, pair) in charts.chunks(2).enumerate() {
        let row = format!("ROW-{n}");
        let keys: Vec<String> = pair.iter().map(|(id, _)| format!("CHART-{id}")).collect();
        for ((id, name), key) in pair.iter().zip(&keys) {
            all[key] = json!({
                "type": "CHART", "id": key, "children": [], "parents": ["ROOT_ID", "GRID_ID", row],
                "meta": { "chartId": id, "sliceName": name, "width": 6, "height": 40 },
            });
        }
        all[&row] = json!({
            "type": "ROW", "id": row, "children": keys, "parents": ["ROOT_ID", "GRID_ID"],
            "meta": { "background": "BACKGROUND_TRANSPARENT" },
        });
        rows.push(row);
    }
    all["GRID_ID"] = json!({ "type": "GRID", "id": "GRID_ID", "children": rows, "parents": ["ROOT_ID"] });
    all
}
