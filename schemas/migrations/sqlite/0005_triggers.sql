-- Events at cameras, from RECORDINGS: each as every server that took it told it. Of the events of a camera the newest ones
-- are kept.
CREATE TABLE triggers (
    tenant_id BLOB NOT NULL CHECK (length(tenant_id) = 16),
    camera_id BLOB NOT NULL CHECK (length(camera_id) = 16),
    event_id  BLOB NOT NULL CHECK (length(event_id) = 16),
    server_id BLOB NOT NULL CHECK (length(server_id) = 16),
    epoch     INTEGER NOT NULL,
    kind      TEXT NOT NULL,
    detail    TEXT,
    at_us     INTEGER NOT NULL,
    from_us   INTEGER NOT NULL,
    until_us  INTEGER NOT NULL,
    -- Whether the camera is recorded for it; otherwise it is only told.
    records   INTEGER NOT NULL CHECK (records IN (0, 1)),
    actor     TEXT NOT NULL,
    PRIMARY KEY (tenant_id, camera_id, event_id, server_id),
    CHECK (from_us <= at_us AND at_us <= until_us)
) STRICT, WITHOUT ROWID;

CREATE INDEX triggers_by_end ON triggers (tenant_id, camera_id, until_us);
CREATE INDEX triggers_by_time ON triggers (tenant_id, camera_id, at_us);
-- Those that are still on.
CREATE INDEX triggers_that_are_on ON triggers (until_us);
