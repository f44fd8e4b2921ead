CREATE TABLE trades (
    id       TEXT   NOT NULL PRIMARY KEY,
    symbol   TEXT   NOT NULL,
    quantity BIGINT NOT NULL CHECK (quantity > 0)
);
