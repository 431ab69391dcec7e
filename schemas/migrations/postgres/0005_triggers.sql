-- Events at cameras, from RECORDINGS: each as every server that took it told it. Of the events of a camera the newest ones
-- are kept.
CREATE TABLE triggers (
    tenant_id UUID NOT NULL,
    camera_id UUID NOT NULL,
    event_id  UUID NOT NULL,
    server_id UUID NOT NULL,
    epoch     BIGINT NOT NULL,
    kind      TEXT NOT NULL,
    detail    TEXT,
    at_us     BIGINT NOT NULL,
    from_us   BIGINT NOT NULL,
    until_us  BIGINT NOT NULL,
    -- Whether the camera is recorded for it; otherwise it is only told.
    records   BOOLEAN NOT NULL,
    actor     TEXT NOT NULL,
    PRIMARY KEY (tenant_id, camera_id, event_id, server_id),
    CHECK (from_us <= at_us AND at_us <= until_us)
);

CREATE INDEX triggers_by_end ON triggers (tenant_id, camera_id, until_us);
CREATE INDEX triggers_by_time ON triggers (tenant_id, camera_id, at_us);
-- Those that are still on.
CREATE INDEX triggers_that_are_on ON triggers (until_us);
