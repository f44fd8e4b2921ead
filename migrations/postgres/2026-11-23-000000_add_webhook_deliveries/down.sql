DROP TABLE webhook_tokens;
DROP TABLE webhook_attempts;
DROP TABLE webhook_deliveries;
DROP TABLE webhook_events;
DROP TABLE webhook_endpoint_health;
DROP TABLE webhook_endpoint_secrets;
DROP TABLE webhook_endpoints;
DROP TABLE webhook_counters;
