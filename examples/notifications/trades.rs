//! The host's own business: trades in its own table, by diesel, on whichever database it has.

use diesel::prelude::*;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};
use postrider::Postrider;
use postrider::config::DatabaseUrl;
use postrider::domain::event::{Event, NewEvent};
use postrider::domain::ids::EventId;
use serde::{Deserialize, Serialize};

diesel::table! {
    trades (id) {
        id -> Text,
        symbol -> Text,
        quantity -> BigInt,
    }
}

/// The host's migrations. Postrider's are its own, and recorded elsewhere.
const MIGRATIONS: EmbeddedMigrations = embed_migrations!("examples/notifications/migrations");

/// No customer may trade more than this at once.
const LIMIT: i64 = 1000;

#[derive(Debug, Clone, Deserialize)]
pub struct Order {
    pub symbol: String,
    pub quantity: i64,
}

#[derive(Debug, Clone, Serialize, Queryable, Insertable)]
#[diesel(table_name = trades)]
pub struct Trade {
    pub id: String,
    pub symbol: String,
    pub quantity: i64,
}

/// What customers are told, as their receivers know it: `eventId` is in the body, too.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TradeExecuted<'a> {
    event_id: EventId,
    trade: &'a Trade,
}

impl Event for TradeExecuted<'_> {
    const TYPE: &'static str = "trade.executed";
}

#[derive(Debug, thiserror::Error)]
pub enum TradeError {
    #[error("{0} is more than {LIMIT} at once")]
    AboveLimit(i64),
    #[error(transparent)]
    Database(#[from] diesel::result::Error),
    #[error(transparent)]
    Event(#[from] postrider::domain::event::EventError),
    #[error(transparent)]
    Webhook(#[from] postrider::Error),
}

/// What the backend asks of its database.
pub trait Trades {
    fn migrate(&mut self) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;

    /// Executes an order and tells the customers: both, or neither.
    fn execute(
        &mut self,
        postrider: &Postrider,
        order: Order,
    ) -> Result<(Trade, EventId), TradeError>;

    fn all(&mut self) -> Result<Vec<Trade>, TradeError>;
}

/// The same code for each kind of connection.
macro_rules! trades_on {
    ($connection:ty) => {
        impl Trades for $connection {
            fn migrate(&mut self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
                self.run_pending_migrations(MIGRATIONS)?;
                Ok(postrider::schema::migrate(self)?)
            }

            fn execute(
                &mut self,
                postrider: &Postrider,
                order: Order,
            ) -> Result<(Trade, EventId), TradeError> {
                postrider.transaction(self, |host| {
                    let id = uuid::Uuid::new_v4().to_string();
                    let trade = Trade {
                        id,
                        symbol: order.symbol,
                        quantity: order.quantity,
                    };
                    diesel::insert_into(trades::table)
                        .values(&trade)
                        .execute(host.conn())?;
                    let event = NewEvent::body(|id| TradeExecuted {
                        event_id: id.clone(),
                        trade: &trade,
                    })?;
                    host.publish(&event)?;
                    // Found out late, as such things are: neither the trade nor its webhook has
                    // happened.
                    if trade.quantity > LIMIT {
                        return Err(TradeError::AboveLimit(trade.quantity));
                    }
                    Ok((trade, event.id))
                })
            }

            fn all(&mut self) -> Result<Vec<Trade>, TradeError> {
                Ok(trades::table.order(trades::id).load(self)?)
            }
        }
    };
}
trades_on!(SqliteConnection);
trades_on!(PgConnection);

/// A connection of the host's own. (A real backend has a pool of them.)
pub fn connect(
    url: &DatabaseUrl,
) -> Result<Box<dyn Trades>, Box<dyn std::error::Error + Send + Sync>> {
    match url {
        DatabaseUrl::Sqlite(path) => {
            let mut conn = SqliteConnection::establish(&path.to_string_lossy())?;
            // What is committed must be on the disk, and readers must not wait for a writer.
            for pragma in [
                "busy_timeout = 5000",
                "journal_mode = WAL",
                "synchronous = FULL",
            ] {
                diesel::sql_query(format!("PRAGMA {pragma}")).execute(&mut conn)?;
            }
            Ok(Box::new(conn))
        }
        DatabaseUrl::Postgres(url) => Ok(Box::new(PgConnection::establish(url.reveal())?)),
        other => Err(format!("no connection is known for {other:?}").into()),
    }
}
